"""The log probabilities a reader sees have no gap and no repeat."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios._logprobs import Logprobs
from aios_proto.messages.llm import TokenLogprob


def told(count: int) -> list[dict[str, object]]:
    return [{"token": f"t{number}", "logprob": -float(number)} for number in range(count)]


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12))))
def test_frames_that_repeat_and_overlap_tell_of_each_token_once(frames: list[tuple[int, int]]) -> None:
    whole, logprobs = told(12), Logprobs()
    for start, end in frames:
        assert logprobs.add(start, whole[start:end]) == (start <= len(logprobs.entries))
    assert logprobs.add(len(logprobs.entries), whole[len(logprobs.entries) :])
    assert logprobs.entries == [TokenLogprob.model_validate(entry) for entry in whole]


def test_those_after_a_gap_are_not_taken() -> None:
    logprobs = Logprobs()
    assert logprobs.add(0, told(2))
    assert not logprobs.add(3, told(1))
    assert len(logprobs.entries) == 2


@given(st.integers(0, 9), st.integers(0, 9))
def test_the_whole_answer_fills_in_what_never_came(known: int, more: int) -> None:
    whole = [TokenLogprob.model_validate(entry) for entry in told(known + more)]
    logprobs = Logprobs()
    logprobs.add(0, told(known))
    logprobs.complete(whole)
    assert logprobs.entries == whole


def test_other_log_probabilities_than_came_are_not_mixed_in() -> None:
    logprobs = Logprobs()
    logprobs.add(0, told(2))
    logprobs.complete([TokenLogprob(token="x", logprob=-1.0)] * 4)
    assert len(logprobs.entries) == 2


@pytest.mark.parametrize(("offset", "entries"), [(None, []), (0, "x"), (0, [7]), (0, [{"token": "a"}])])
def test_what_are_none_is_said(offset: object, entries: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        Logprobs().add(offset, entries)
