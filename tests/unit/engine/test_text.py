"""Stop sequences and characters across the borders of tokens."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios_engine.core.detokenizer import Detokenizer
from aios_engine.core.stopping import FinishReason, Stopping


def test_a_generation_ends_at_its_length() -> None:
    stopping = Stopping(2)
    assert stopping.push("a", is_eos=False) is None
    assert stopping.push("b", is_eos=False) is FinishReason.LENGTH


def test_an_end_token_that_is_the_last_allowed_token_reports_length_as_in_tgi() -> None:
    assert Stopping(1).push("", is_eos=True) is FinishReason.LENGTH
    assert Stopping(2).push("", is_eos=True) is FinishReason.EOS_TOKEN


@pytest.mark.parametrize(
    "texts", [["STOP"], ["ST", "OP"], ["S", "T", "O", "P"], ["xxST", "OPyy"], ["", "S", "", "TO", "P"]]
)
def test_a_stop_sequence_is_seen_wherever_tokens_cut_it(texts: list[str]) -> None:
    stopping = Stopping(100, ["STOP", "never"])
    assert [stopping.push(text, is_eos=False) for text in texts][-1] is FinishReason.STOP_SEQUENCE


def test_what_only_begins_like_a_stop_sequence_does_not_end_it() -> None:
    stopping = Stopping(100, ["STOP"])
    assert all(stopping.push(text, is_eos=False) is None for text in ("ST", "O", "X", "STO", " P"))


def test_a_stop_sequence_of_one_character_works() -> None:
    stopping = Stopping(100, ["\n"])
    assert stopping.push("a", is_eos=False) is None
    assert stopping.push("b\nc", is_eos=False) is FinishReason.STOP_SEQUENCE


@settings(deadline=None)
@given(st.text(alphabet="ab", max_size=30), st.text(alphabet="ab", min_size=1, max_size=4), st.data())
def test_a_stop_sequence_is_found_exactly_when_the_text_has_it(text: str, stop: str, data: st.DataObject) -> None:
    stopping = Stopping(1000, [stop])
    seen = ""
    at = 0
    while at < len(text):
        size = data.draw(st.integers(1, 4))
        seen += text[at : at + size]
        reason = stopping.push(text[at : at + size], is_eos=False)
        assert (reason is FinishReason.STOP_SEQUENCE) == (stop in seen)
        if reason is not None:
            return
        at += size


def test_a_character_is_told_once_it_is_whole() -> None:
    detokenizer = Detokenizer()
    assert [detokenizer.push(bytes([byte])) for byte in "é😀".encode()] == ["", "é", "", "", "", "😀"]
    assert detokenizer.finish() == "é😀"


def test_bytes_that_are_no_character_are_shown_as_such() -> None:
    detokenizer = Detokenizer()
    assert detokenizer.push(b"a\xff") + detokenizer.push(b"b") == "a\ufffdb"
    detokenizer.push(b"\xf0\x9f")
    assert detokenizer.finish() == "a\ufffdb\ufffd"


def test_control_tokens_are_told_but_are_no_part_of_the_text() -> None:
    detokenizer = Detokenizer()
    assert detokenizer.push(b"hi") == "hi"
    assert detokenizer.push(b"<|im_end|>", special=True) == "<|im_end|>"
    assert detokenizer.finish() == "hi"


@settings(deadline=None)
@given(st.text(), st.data())
def test_the_pieces_of_a_text_join_to_it_however_it_is_cut(text: str, data: st.DataObject) -> None:
    detokenizer = Detokenizer()
    raw = text.encode()
    told = ""
    while raw:
        size = data.draw(st.integers(1, 5))
        told += detokenizer.push(raw[:size])
        raw = raw[size:]
    assert told == text
    assert detokenizer.finish() == text
