"""KV that is held for a paused generation: how it travels, and what is forgotten first."""

import pytest

from aios_engine.core.kv_image import KvImage, decode, encode
from aios_engine.core.kv_shelf import KvShelf


def test_kv_travels_unchanged() -> None:
    image = KvImage((1, 2, 3), bytes(range(256)) + b"\n\n")
    assert decode(encode(image, "model"), "model") == image


@pytest.mark.parametrize("damage", [b"", b"\n", b"no json\nstate", b'{"format":"other"}\nstate', b"{}" * 100])
def test_what_is_no_kv_is_refused(damage: bytes) -> None:
    with pytest.raises(ValueError, match="no KV image"):
        decode(damage, "model")


def test_kv_of_another_model_and_damaged_kv_are_refused() -> None:
    data = encode(KvImage((1,), b"state"), "one")
    with pytest.raises(ValueError, match="another model"):
        decode(data, "two")
    with pytest.raises(ValueError, match="damaged"):
        decode(data[:-1] + b"?", "one")


def test_the_oldest_kv_is_forgotten_when_there_is_no_room() -> None:
    shelf = KvShelf(10)
    assert shelf.put("a", KvImage((1,), b"1234")) == []
    assert shelf.put("b", KvImage((1,), b"1234")) == []
    assert shelf.put("c", KvImage((1,), b"1234")) == ["a"]
    assert shelf.get("a") is None
    assert shelf.get("c") == KvImage((1,), b"1234")


def test_kv_larger_than_all_room_is_not_kept() -> None:
    shelf = KvShelf(3)
    assert shelf.put("a", KvImage((1,), b"1234")) == ["a"]
    assert shelf.get("a") is None


def test_forgetting_gives_the_room_back() -> None:
    shelf = KvShelf(4)
    shelf.put("a", KvImage((1,), b"1234"))
    assert shelf.drop("a")
    assert not shelf.drop("a")
    assert shelf.put("b", KvImage((1,), b"1234")) == []
