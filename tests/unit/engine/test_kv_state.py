"""llama.cpp's states: what is taken out of one and put into another is the same, whatever the context's size."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.llama_states import Layout, rows, state

from aios_engine.llama.kv_state import form_of

sizes = st.lists(st.sampled_from([2, 4, 34]), min_size=1, max_size=3).map(tuple)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    k_rows = draw(sizes)
    v_rows = tuple(draw(st.sampled_from([2, 4, 34])) for _ in k_rows)
    return Layout(k_rows, v_rows, draw(st.integers(1, 5)))


@settings(deadline=None)
@given(st.data())
def test_rows_come_out_of_a_state_in_order_of_position(data: st.DataObject) -> None:
    layout = data.draw(layouts())
    form = form_of(state(layout, 2))
    assert form is not None
    assert form.token_bytes == sum(layout.rows)
    tokens = data.draw(st.integers(1, 12))
    slot = data.draw(st.integers(0, layout.streams - 1))
    order = data.draw(st.permutations(range(tokens)))
    first = data.draw(st.integers(0, tokens - 1))
    end = data.draw(st.integers(first + 1, tokens))
    assert form.rows(state(layout, tokens, slot, list(order)), first, end) == rows(layout, first, end)


@settings(deadline=None)
@given(st.data())
def test_pieces_of_one_context_make_the_state_of_another(data: st.DataObject) -> None:
    layout = data.draw(layouts())
    other = Layout(layout.k_rows, layout.v_rows, data.draw(st.integers(1, 5)))
    form, there = form_of(state(layout, 1)), form_of(state(other, 1))
    assert form is not None
    assert there is not None
    tokens = data.draw(st.integers(1, 12))
    whole = state(layout, tokens)
    pieces, at = [], 0
    while at < tokens:
        end = data.draw(st.integers(at + 1, tokens))
        first = data.draw(st.integers(0, at))
        pieces.append((first, form.rows(whole, first, end)))
        at = end
    assert there.compose(tokens, pieces) == state(other, tokens)


def test_a_later_piece_goes_over_an_earlier_one_and_what_is_behind_the_last_token_is_left_out() -> None:
    layout = Layout((2,), (4,))
    form = form_of(state(layout, 1))
    assert form is not None
    wrong = bytes(form.token_bytes * 6)
    pieces = [(0, rows(layout, 0, 2)), (2, wrong), (2, rows(layout, 2, 4))]
    assert form.compose(4, pieces) == state(layout, 4)


def altered(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + struct.pack("<I", value) + data[at + 4 :]


GOOD = state(Layout((4, 4), (4, 4)), 1)
V_TRANSPOSED_AT = 12 + 4 + 12
"""Behind the top, the number of cells and one cell."""


@pytest.mark.parametrize(
    "other",
    [
        b"",
        GOOD[:10],
        GOOD[:-1],
        GOOD + b"\0",
        altered(GOOD, V_TRANSPOSED_AT, 1),
        altered(GOOD, V_TRANSPOSED_AT + 4, 3),
        altered(GOOD, V_TRANSPOSED_AT + 4, 0),
        altered(GOOD, V_TRANSPOSED_AT + 8, 1),
        altered(GOOD, 8, 0),
        altered(GOOD, 8, 1 << 31),
        altered(GOOD, 12, 2),
        altered(GOOD, 20, 2),  # a cell of two sequences
        state(Layout((4,), (4,)), 0),
    ],
    ids=lambda data: f"{len(data)} bytes",
)
def test_a_state_that_is_laid_out_otherwise_has_no_form(other: bytes) -> None:
    assert form_of(GOOD) is not None
    assert form_of(other) is None


@pytest.mark.parametrize(
    "other",
    [
        b"",
        GOOD[:-1],
        altered(GOOD, 0, 1),
        altered(GOOD, 8, 1),
        altered(GOOD, V_TRANSPOSED_AT, 1),
        altered(GOOD, 16, 1),  # the only cell is not the first position
        state(Layout((4,), (4,)), 1),
    ],
    ids=lambda data: f"{len(data)} bytes",
)
def test_rows_are_not_taken_out_of_what_is_in_another_form(other: bytes) -> None:
    form = form_of(GOOD)
    assert form is not None
    with pytest.raises(ValueError, match="it "):
        form.rows(other, 0, 1)


@pytest.mark.parametrize(("first", "end"), [(-1, 1), (0, 2), (1, 1)])
def test_rows_that_are_not_there_are_not_given(first: int, end: int) -> None:
    form = form_of(GOOD)
    assert form is not None
    with pytest.raises(ValueError, match="no part"):
        form.rows(GOOD, first, end)
