"""What a summary is made of, and what it leaves."""

import pytest

from aios_context.core.compression import parts, plan, request, summary_message
from aios_context.core.view import Turn
from aios_context.core.window import Sized
from aios_proto.errors import InvalidRequest


def talk(count: int, tokens: int = 50, pinned: tuple[int, ...] = ()) -> list[Sized]:
    roles = ("user", "assistant")
    return [
        Sized(Turn(n, 1, {"role": roles[n % 2], "content": f"turn {n}"}, n in pinned), tokens) for n in range(count)
    ]


def test_what_fits_already_is_left_alone() -> None:
    chosen = plan(talk(4), 10, 300)
    assert not chosen.summarised
    assert chosen.before_tokens == 210


def test_the_oldest_turns_are_summarised_and_the_rest_fits_with_the_summary() -> None:
    chosen = plan(talk(40), 10, 800)
    assert chosen.rest_tokens + chosen.summary_tokens <= 800
    assert chosen.summary_of == (0, len(chosen.summarised) - 1)
    assert [sized.turn.number for sized in chosen.summarised] == list(range(len(chosen.summarised)))


def test_what_is_left_begins_with_the_user_where_any_turn_of_the_user_is_left() -> None:
    for target in range(300, 1500, 10):
        chosen = plan(talk(40), 10, target)
        left = 40 - len(chosen.summarised)
        assert left % 2 == 0 or left == 1  # an answer alone is better than nothing
        assert left >= 1


def test_pinned_turns_are_not_summarised() -> None:
    chosen = plan(talk(40, pinned=(2, 3)), 10, 800)
    assert {2, 3}.isdisjoint(sized.turn.number for sized in chosen.summarised)
    assert chosen.rest_tokens >= 110


def test_an_earlier_summary_goes_into_the_next() -> None:
    turns = talk(40)
    turns[6:6] = [Sized(Turn(40, 2, dict(summary_message("what was")), summary_of=(0, 5)), 40)]
    chosen = plan(turns[6:], 10, 800)
    assert chosen.summarised[0].turn.summary_of == (0, 5)
    assert chosen.summary_of[0] == 0
    assert chosen.summary_of[1] == max(s.turn.number for s in chosen.summarised if s.turn.number < 40)


def test_a_target_smaller_than_the_pinned_turns_names_the_field() -> None:
    with pytest.raises(InvalidRequest) as caught:
        plan(talk(10, pinned=tuple(range(10))), 0, 100)
    assert caught.value.field == "target_tokens"


def test_each_part_fits_the_window_and_nothing_is_lost() -> None:
    chosen = plan(talk(400), 10, 800)
    texts = parts(chosen, 2000)
    assert len(texts) > 1
    lines = [line for text in texts for line in text.split("\n")]
    assert lines == [f"{s.turn.message['role']}: {s.turn.message['content']}" for s in chosen.summarised]
    room = 2000 - 2 * chosen.summary_tokens
    assert all(len(text.split("\n")) * 50 <= room for text in texts)


def test_one_turn_larger_than_the_window_is_cut_into_pieces() -> None:
    long = Sized(Turn(0, 1, {"role": "user", "content": "abcdefgh" * 5000}), 10_000)
    chosen = plan([long, *talk(4)[1:]], 0, 400)
    texts = parts(chosen, 1000)
    assert len(texts) > 10
    assert "".join(texts).count("abcdefgh") >= 4900


def test_a_window_too_small_for_any_summary_is_an_error() -> None:
    chosen = plan(talk(400), 10, 800)
    with pytest.raises(InvalidRequest) as caught:
        parts(chosen, 500)
    assert caught.value.field == "target_tokens"


def test_each_call_gets_the_summary_so_far() -> None:
    first, second = request(None, "user: hi", 100), request("they met", "user: bye", 100)
    assert "they met" not in str(first[1].content)
    assert "they met" in str(second[1].content)
    assert "user: bye" in str(second[1].content)
    assert "60 words" in str(first[0].content)
