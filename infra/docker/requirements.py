"""Which third-party packages distributions of this repository need: their dependencies without our own.

    python requirements.py proto services/kit        one requirement a line, in the order of first mention

Installed in a layer of their own, they stay cached until a `pyproject.toml` changes.
"""

import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

OURS = "aios-"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def third_party(folders: Iterable[Path], without: frozenset[str] = frozenset()) -> list[str]:
    """The requirements of all folders' projects.

    Args:
        folders: each holds a `pyproject.toml`.
        without: names of packages to leave out.
    """
    found: dict[str, None] = {}
    for folder in folders:
        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        for requirement in project.get("dependencies", []):
            name = _name(requirement)
            if not name.startswith(OURS) and name not in without:
                found[requirement] = None
    return list(found)


def _name(requirement: str) -> str:
    match = _NAME.match(requirement)
    if match is None:
        raise ValueError(f"{requirement!r} does not begin with a package's name")
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def main(arguments: list[str]) -> None:
    """Writes the requirements of the folders named; `--without NAME` leaves a package out."""
    folders, without = [], set[str]()
    rest = iter(arguments)
    for argument in rest:
        if argument == "--without":
            without.add(next(rest))
        else:
            folders.append(Path(argument))
    sys.stdout.writelines(f"{line}\n" for line in third_party(folders, frozenset(without)))


if __name__ == "__main__":
    main(sys.argv[1:])
