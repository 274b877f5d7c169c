"""What tells models apart whose KV must not meet."""

import ctypes
from pathlib import Path

import pytest

from aios_engine.file_digest import file_digest
from aios_engine.llama.model import Model


class Library:
    """Has the metadata of a file, as llama.cpp gives it."""

    def __init__(self, metadata: dict[str, str]) -> None:
        self._metadata = metadata

    def llama_model_meta_val_str(
        self, model: object, key: bytes, buffer: "ctypes.Array[ctypes.c_char]", size: int
    ) -> int:
        value = self._metadata.get(key.decode())
        if value is None:
            return -1
        buffer.value = value.encode()[: size - 1]
        return len(value)


def model_with(metadata: dict[str, str]) -> Model:
    model = Model.__new__(Model)
    model.library = Library(metadata)  # type: ignore[assignment]
    model.pointer = 1
    return model


@pytest.mark.parametrize(
    ("slot_tokens", "rotation"), [(1024, "short"), (4096, "short"), (4097, "long"), (8192, "long")]
)
def test_a_file_with_two_position_encodings_has_one_for_long_contexts(slot_tokens: int, rotation: str) -> None:
    phi = model_with({"general.architecture": "phi3", "phi3.rope.scaling.original_context_length": "4096"})
    assert phi.rotates_for(slot_tokens) == rotation


@pytest.mark.parametrize("metadata", [{}, {"general.architecture": "llama"}])
def test_other_files_have_one_for_all(metadata: dict[str, str]) -> None:
    assert model_with(metadata).rotates_for(1 << 20) == ""


def test_files_differ_by_size_beginning_and_end(tmp_path: Path) -> None:
    def digest(data: bytes, prefix: str = "") -> str:
        path = tmp_path / "model.gguf"
        path.write_bytes(data)
        return file_digest(path, prefix)

    data = bytes(3 << 20)
    same = digest(data)
    assert digest(data) == same
    others = [b"x" + data[1:], data[:-1] + b"x", data + b"\0", b""]
    assert len({same, digest(data, "other:"), *map(digest, others)}) == 6
