"""Real texts that are on every machine this runs on: the docstrings of Python's library and the installed packages."""

import ast
import random
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

_SHORTEST = 60
# A sentence or two: embedding 20 000 of them takes minutes as it is.
_LONGEST = 160
_SPARE = 1.1


def docstrings(count: int) -> list[str]:
    """Distinct docstrings, the same on every call; takes some seconds for 20 000.

    Raises:
        RuntimeError: there are not as many.
    """
    found: dict[str, None] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in _modules():
            found |= dict.fromkeys(_docstrings_of(path))
            if len(found) >= count * _SPARE:
                break
    texts = sorted(found)
    if len(texts) < count:
        raise RuntimeError(f"there are only {len(texts)} docstrings here, {count} were asked for")
    random.Random(1).shuffle(texts)
    return texts[:count]


def _modules() -> list[Path]:
    paths = [path for name in ("stdlib", "purelib") for path in Path(sysconfig.get_paths()[name]).rglob("*.py")]
    random.Random(1).shuffle(paths := sorted(set(paths)))
    return paths


def _docstrings_of(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_text(errors="ignore"))
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
            text = ast.get_docstring(node)
            if text is not None and len(text) >= _SHORTEST:
                yield text[:_LONGEST]
