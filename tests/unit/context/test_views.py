"""What a conversation shows once parts of it stand summarised."""

from aios_context.core.record import Record
from aios_context.core.view import Turn, all_turns, visible


def said(*texts: str, version: int = 1) -> list[Record]:
    """Turns: `s:` is the system's, `a:` the assistant's, `!` pinned."""
    roles = {"s:": "system", "a:": "assistant"}
    return [
        Record(
            version,
            {"role": roles.get(text.lstrip("!")[:2], "user"), "content": text.lstrip("!")},
            pinned=text.startswith("!"),
        )
        for text in texts
    ]


def summary(text: str, first: int, last: int) -> Record:
    return Record(2, {"role": "system", "content": text}, summary_of=(first, last))


def shown(records: list[Record]) -> list[object]:
    return [turn.message["content"] for turn in visible(all_turns(records))]


def test_a_summary_stands_where_the_turns_stood_and_pinned_and_system_turns_stay() -> None:
    records = [*said("s:be kind", "1", "!code 7", "a:2", "3", "4"), summary("sum", 1, 4), *said("5")]
    assert shown(records) == ["s:be kind", "sum", "code 7", "4", "5"]


def test_a_later_summary_stands_for_the_earlier_one_too() -> None:
    records = [*said("1", "2", "3", "4"), summary("first", 0, 1), *said("5"), summary("second", 0, 3)]
    assert shown(records) == ["second", "5"]


def test_two_summaries_of_different_turns_both_stand() -> None:
    records = [*said("1", "2", "3", "4"), summary("late", 2, 3), summary("early", 0, 1)]
    assert shown(records) == ["early", "late"]


def test_a_pinned_summary_is_not_replaced() -> None:
    records = [*said("1", "2", "3"), summary("first", 0, 1), Record(3, pins=(3, True)), summary("second", 0, 2)]
    assert shown(records) == ["second", "first"]


def test_pinning_brings_a_summarised_turn_back_and_unpinning_lets_it_go() -> None:
    records = [*said("1", "2", "3"), summary("sum", 0, 1), Record(3, pins=(1, True))]
    assert shown(records) == ["sum", "2", "3"]
    assert shown([*records, Record(4, pins=(1, False))]) == ["sum", "3"]


def test_all_turns_are_still_there_in_full() -> None:
    turns = all_turns([*said("1", "2"), summary("sum", 0, 1)])
    assert [turn.number for turn in turns] == [0, 1, 2]
    assert turns[2] == Turn(2, 2, {"role": "system", "content": "sum"}, summary_of=(0, 1))
