"""Whose child a hop becomes, by the `traceparent` it gets."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_kit.tracing import parse_traceparent, trace_headers, trace_id_of

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
SOUND = f"00-{TRACE}-{SPAN}-01"

trace_ids = st.integers(1, 2**128 - 1)
span_ids = st.integers(1, 2**64 - 1)
flags = st.integers(0, 255)


@given(trace_ids, span_ids, flags)
def test_what_a_hop_wrote_the_next_one_reads(trace: int, span: int, flag: int) -> None:
    context = parse_traceparent(f"00-{trace:032x}-{span:016x}-{flag:02x}")
    assert context is not None
    assert (context.trace_id, context.span_id, context.trace_flags) == (trace, span, flag)
    assert context.is_remote
    assert context.trace_flags.sampled == bool(flag & 1)


@given(st.text(max_size=80))
def test_no_text_makes_the_parser_raise(text: str) -> None:
    context = parse_traceparent(text)
    assert context is None or context.is_valid


@given(st.integers(0, len(SOUND) - 1), st.sampled_from(string.printable))
def test_one_wrong_character_never_gives_an_invalid_context(place: int, character: str) -> None:
    damaged = SOUND[:place] + character + SOUND[place + 1 :]
    context = parse_traceparent(damaged)
    if context is not None:
        assert set(damaged) <= set("0123456789abcdef-")
        assert context.is_valid


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "garbage",
        "garbage-00",
        SOUND[:-1],
        SOUND.upper(),
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-+{TRACE[1:]}-{SPAN}-01",
        f"00-0x{TRACE[2:]}-{SPAN}-01",
        f"00-{TRACE[:10]}_{TRACE[11:]}-{SPAN}-01",
        f" {SOUND}",
        f"{SOUND}\n",
        f"00-{TRACE}-{SPAN}-0g",
        f"{SOUND}{'0' * 1000}",
    ],
)
def test_a_malformed_parent_is_as_good_as_none(text: str | None) -> None:
    assert parse_traceparent(text) is None
    assert trace_id_of(text) is None


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    assert trace_id_of(f"01-{TRACE}-{SPAN}-01-what-the-future-brings") == TRACE
    assert trace_id_of(f"cc-{TRACE}-{SPAN}-01") == TRACE


def test_the_trace_id_is_what_a_user_looks_up() -> None:
    assert trace_id_of(SOUND) == TRACE


def test_a_sound_context_of_a_caller_goes_on_as_it_came() -> None:
    assert trace_headers(SOUND, "vendor=1") == (SOUND, "vendor=1")
    assert trace_headers(SOUND, None) == (SOUND, None)


def test_a_caller_cannot_swell_the_kernels_messages_by_its_trace_context() -> None:
    assert trace_headers("x" * 3_000_000, "y" * 3_000_000) == (None, None)
    assert trace_headers(SOUND, "y" * 513) == (SOUND, None)
    assert trace_headers(f"01-{TRACE}-{SPAN}-01-{'z' * 500}", None) == (None, None)
