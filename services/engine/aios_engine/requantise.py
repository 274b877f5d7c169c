"""How a model file is turned into Q8_0, once, and where the result is kept.

Q8_0 is faster than smaller formats on a CPU, and with it a prompt gives the same bits however it is cut into steps of
up to 32 tokens (measured, not promised by the format), so a generation resumes exactly from its token ids.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from filelock import AcquireReturnProxy, FileLock, Timeout
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, ReaderField, ReaderTensor
from gguf.quants import dequantize, quantize

from aios_engine.errors import SetupError
from aios_engine.file_digest import file_digest

_log = logging.getLogger(__name__)

_VERSION: Final = 1
"""Part of the cached file's name: raise it when the conversion changes."""
_FILE_TYPE_Q8_0: Final = 7
_BLOCK: Final = 32
_KEPT: Final = frozenset({GGMLQuantizationType.F32, GGMLQuantizationType.Q8_0})


def requantised(source: Path, cache_dir: Path, on_progress: Callable[[float], None]) -> Path:
    """The Q8_0 form of a model, made now if it is not in the cache yet.

    Several processes may ask for the same model at once: one makes it, the others wait, and the file appears whole.

    Args:
        source: a .gguf file.
        cache_dir: made if missing.
        on_progress: told the finished share, 0 to 1.

    Returns:
        A file in the cache, or `source` itself where there is nothing to change or it comes in several parts.

    Raises:
        SetupError: the file is no .gguf file, or the cache cannot be written.
    """
    try:
        target = cache_dir / f"{source.stem}-{file_digest(source, f'{_VERSION}:')}-q8_0.gguf"
        if target.exists():
            return target
        cache_dir.mkdir(parents=True, exist_ok=True)
        with _locked(target):
            if target.exists():
                return target
            return _make(source, target, on_progress)
    except OSError as error:
        raise SetupError(f"{source} cannot be requantised into {cache_dir}: {error}") from error


def _locked(target: Path) -> AcquireReturnProxy[FileLock]:
    lock = FileLock(target.with_suffix(".lock"))
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        _log.info("another process is requantising this model; waiting for it")
        return lock.acquire()


def _make(source: Path, target: Path, on_progress: Callable[[float], None]) -> Path:
    try:
        reader = GGUFReader(source)
    except (ValueError, IndexError) as error:
        raise SetupError(f"{source} is no .gguf file: {error}") from error
    parts = reader.get_field("split.count")
    if parts is not None and parts.contents() > 1:
        _log.warning("%s comes in several parts and is used as it is", source.name)
        return source
    if all(_kept(tensor) for tensor in reader.tensors):
        return source
    partial = target.with_suffix(f".{os.getpid()}.partial")
    try:
        _convert(reader, partial, on_progress)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _convert(reader: GGUFReader, path: Path, on_progress: Callable[[float], None]) -> None:
    architecture = reader.fields["general.architecture"].contents()
    writer = GGUFWriter(path, architecture)
    for name, found in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            _copy_field(writer, name, found)
    for tensor in reader.tensors:
        shape, dtype, kind = _stored_form(tensor)
        writer.add_tensor_info(tensor.name, shape, dtype, int(np.prod(shape)) * dtype.itemsize, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    total = sum(int(tensor.n_elements) for tensor in reader.tensors)
    done = 0
    for tensor in reader.tensors:
        writer.write_tensor_data(
            tensor.data
            if _kept(tensor)
            else quantize(dequantize(tensor.data, tensor.tensor_type), GGMLQuantizationType.Q8_0)
        )
        done += int(tensor.n_elements)
        on_progress(done / total)
    writer.close()
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _copy_field(writer: GGUFWriter, name: str, found: ReaderField) -> None:
    value = _FILE_TYPE_Q8_0 if name == "general.file_type" else found.contents()
    kind = found.types[0]
    writer.add_key_value(name, value, kind, sub_type=found.types[-1] if kind == GGUFValueType.ARRAY else None)


def _kept(tensor: ReaderTensor) -> bool:
    # Vectors and rows that are no multiple of a block stay as they are.
    return tensor.tensor_type in _KEPT or len(tensor.shape) < 2 or int(tensor.shape[0]) % _BLOCK != 0


def _stored_form(tensor: ReaderTensor) -> tuple[tuple[int, ...], "np.dtype[np.generic]", GGMLQuantizationType]:
    if _kept(tensor):
        return tensor.data.shape, tensor.data.dtype, tensor.tensor_type
    rows = [int(size) for size in tensor.shape[::-1]]
    block_bytes = 34  # 32 weights of a byte and a half-precision scale
    shape = (*rows[:-1], rows[-1] // _BLOCK * block_bytes)
    return shape, np.dtype(np.uint8), GGMLQuantizationType.Q8_0
