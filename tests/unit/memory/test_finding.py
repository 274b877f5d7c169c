"""Words, fused rankings, budgets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_memory.core.fusion import fused
from aios_memory.core.packing import packed
from aios_memory.core.words import WordIndex, words_of


def found(index: WordIndex, query: str, limit: int = 10) -> list[str]:
    return [name for name, _ in index.search(query, lambda _: True, limit)]


def test_rare_words_count_more_than_common_ones() -> None:
    index = WordIndex()
    for number in range(10):
        index.put(f"common {number}", "the report of the day")
    index.put("rare", "the zebra")
    assert found(index, "the zebra")[0] == "rare"


def test_a_short_note_beats_a_long_one_with_the_same_words() -> None:
    index = WordIndex()
    index.put("long", "apple " + "filler " * 200)
    index.put("short", "apple pie")
    assert found(index, "apple") == ["short", "long"]


def test_a_word_twice_in_the_query_counts_once_and_unknown_words_nothing() -> None:
    index = WordIndex()
    index.put("a", "apple")
    index.put("b", "banana")
    assert index.search("apple apple quince", lambda _: True, 5) == index.search("apple", lambda _: True, 5)
    assert found(index, "") == found(index, "quince") == []


def test_what_was_removed_or_replaced_is_not_found() -> None:
    index = WordIndex()
    index.put("a", "apple")
    index.put("a", "banana")
    index.remove("nothing")
    assert (found(index, "apple"), found(index, "banana")) == ([], ["a"])
    index.remove("a")
    assert found(index, "banana") == []
    assert index._places == {}


def test_only_what_is_allowed_is_found() -> None:
    index = WordIndex()
    index.put("a", "apple")
    index.put("b", "apple")
    assert [name for name, _ in index.search("apple", lambda name: name == "b", 5)] == ["b"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Straße GROSS", ["strasse", "gross"]),
        ("don't stop", ["don", "t", "stop"]),
        ("中文笔记", ["中", "文", "笔", "记"]),
        ("abc中文", ["abc", "中", "文"]),
        ("42_x", ["42_x"]),
        ("🙂 \u0000", []),
    ],
)
def test_words_in_several_scripts(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_what_two_rankings_agree_on_comes_first() -> None:
    assert [name for name, _ in fused([["a", "b", "c"], ["b", "d"]], 10)] == ["b", "a", "d", "c"]
    assert fused([[], []], 5) == []


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 200))
def test_a_budget_is_never_exceeded_and_only_what_does_not_fit_is_left_out(counts: list[int], budget: int) -> None:
    chosen, tokens = packed(counts, budget)
    assert tokens <= budget
    assert chosen == sorted(chosen)
    if chosen:
        assert tokens == counts[0] + sum(counts[1 + place] for place in chosen)
        assert all(
            tokens + count > budget
            for place, count in enumerate(counts[1:])
            if place not in chosen and place > chosen[-1]
        )
