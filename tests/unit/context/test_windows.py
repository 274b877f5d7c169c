"""What of a long conversation goes into the prompt."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios_context.core.view import Turn
from aios_context.core.window import Sized, Window, plan
from aios_proto.errors import InvalidRequest
from aios_proto.messages.context import WindowPolicy

POLICIES: tuple[WindowPolicy, ...] = ("truncate", "sliding", "summarise")


def talk(*sizes: int, roles: str = "ua", pinned: tuple[int, ...] = ()) -> list[Sized]:
    """A conversation of turns with these tokens; the roles repeat: user, assistant, tool, system."""
    names = {"u": "user", "a": "assistant", "t": "tool", "s": "system"}
    return [
        Sized(Turn(n, 1, {"role": names[roles[n % len(roles)]], "content": str(n)}, n in pinned), size)
        for n, size in enumerate(sizes)
    ]


def numbers(window: Window) -> list[int]:
    return [turn.number for turn in window.turns]


@pytest.mark.parametrize("policy", POLICIES)
def test_what_fits_goes_in_whole(policy: WindowPolicy) -> None:
    window = plan(talk(10, 10, 10), 5, 35, policy)
    assert numbers(window) == [0, 1, 2]
    assert (window.tokens, window.left_out) == (35, 0)


def test_sliding_holds_all_it_can() -> None:
    window = plan(talk(*[10] * 20), 0, 100, "sliding")
    assert numbers(window) == list(range(10, 20))
    assert window.left_out_tokens == 100


def test_truncating_leaves_the_beginning_of_the_prompt_the_same_for_many_turns() -> None:
    def starts(policy: WindowPolicy) -> set[int]:
        return {numbers(plan(talk(*[10] * count), 0, 400, policy))[0] for count in range(42, 120, 2)}

    assert len(starts("sliding")) >= 35
    assert len(starts("truncate")) <= 9


@pytest.mark.parametrize("policy", POLICIES)
def test_system_and_pinned_turns_and_a_summary_are_always_in(policy: WindowPolicy) -> None:
    turns = talk(*[10] * 30, roles="ua", pinned=(3,))
    turns[0] = Sized(Turn(0, 1, {"role": "system", "content": "be kind"}), 10)
    turns[5] = Sized(Turn(5, 2, {"role": "system", "content": "sum"}, summary_of=(4, 5)), 10)
    chosen = numbers(plan(turns, 20, 100, policy))
    assert {0, 3, 5} <= set(chosen)
    assert chosen == sorted(chosen)


@pytest.mark.parametrize("policy", POLICIES)
def test_an_answer_of_a_tool_is_never_parted_from_its_call(policy: WindowPolicy) -> None:
    for size in range(20, 120, 5):
        chosen = plan(talk(*[10] * 16, roles="uatt"), 0, size, policy).turns
        if chosen and chosen[0].message["role"] == "tool":
            pytest.fail(f"a window of {size} begins with a tool's answer")


def test_a_window_begins_with_a_turn_of_the_user_where_there_is_room_for_that() -> None:
    window = plan(talk(*[10] * 21), 0, 100, "sliding")
    assert window.turns[0].message["role"] == "user"


@pytest.mark.parametrize("policy", POLICIES)
def test_what_must_be_in_but_does_not_fit_is_an_error_that_names_it(policy: WindowPolicy) -> None:
    with pytest.raises(InvalidRequest) as caught:
        plan(talk(50, 60, pinned=(0, 1)), 0, 100, policy)
    assert caught.value.field == "messages"


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.sampled_from("uats"), st.booleans()), max_size=40),
    st.integers(0, 50),
    st.integers(50, 400),
    st.sampled_from(POLICIES),
)
def test_no_window_is_too_large_and_none_leaves_out_what_fits(
    spec: list[tuple[int, str, bool]], other: int, room: int, policy: WindowPolicy
) -> None:
    names = {"u": "user", "a": "assistant", "t": "tool", "s": "system"}
    turns = [
        Sized(Turn(n, 1, {"role": names[role], "content": ""}, pinned), size)
        for n, (size, role, pinned) in enumerate(spec)
    ]
    try:
        window = plan(turns, other, room, policy)
    except InvalidRequest:
        assert other + sum(sized.tokens for sized in turns if sized.turn.kept) > room
        return
    assert window.tokens <= room
    assert window.tokens + window.left_out_tokens == other + sum(sized.tokens for sized in turns)
    assert window.left_out == len(turns) - len(window.turns)
    assert {sized.turn.number for sized in turns if sized.turn.kept} <= {turn.number for turn in window.turns}
    if other + sum(sized.tokens for sized in turns) <= room:
        assert window.left_out == 0
    loose = [sized.turn.number for sized in turns if not sized.turn.kept]
    taken = [turn.number for turn in window.turns if not turn.kept]
    assert taken == loose[len(loose) - len(taken) :]  # the newest, without a hole
