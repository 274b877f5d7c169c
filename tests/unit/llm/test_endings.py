"""How ended calls are remembered."""

from aios_llm import endings
from aios_llm.endings import Endings


def test_the_last_word_about_a_call_counts() -> None:
    kept = Endings()
    kept.keep("a", b"one")
    kept.keep("a", b"two")
    assert kept.get("a") == b"two"
    assert kept.get("b") is None


def test_the_oldest_are_forgotten_beyond_the_number() -> None:
    kept = Endings()
    for n in range(endings._KEPT + 3):
        kept.keep(str(n), b"x")
    assert [kept.get(str(n)) for n in range(4)] == [None, None, None, b"x"]
    assert kept._bytes == endings._KEPT


def test_the_oldest_are_forgotten_beyond_the_bytes() -> None:
    kept, half = Endings(), b"x" * (endings._KEPT_BYTES // 2)
    for key in ("a", "b", "c"):
        kept.keep(key, half)
    assert (kept.get("a"), kept.get("b"), kept.get("c")) == (None, half, half)


def test_an_ending_larger_than_all_room_is_not_kept_and_does_no_harm() -> None:
    kept = Endings()
    kept.keep("huge", b"x" * (endings._KEPT_BYTES + 1))
    assert kept.get("huge") is None
    kept.keep("a", b"x")
    assert kept.get("a") == b"x"
