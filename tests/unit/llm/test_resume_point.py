"""Where an answer may be cut so that its text is read as the tokens it was made of."""

import pytest

from aios_llm.generated import Generated, Snapshot
from aios_llm.ports import Piece
from aios_llm.resume_point import MOST_DROPPED, at_word, candidates, fits


def snapshot(*pieces: tuple[int, str]) -> Snapshot:
    generated = Generated()
    for token, text in pieces:
        generated.add(Piece(text, 1, (token,)))
    return generated.snapshot()


def test_a_cut_keeps_the_text_of_its_tokens() -> None:
    made = snapshot((1, "He"), (2, "llo"), (3, ""), (4, " 😀"))
    assert made.first(2).text == "Hello"
    assert made.first(3).text == "Hello"
    assert made.whole.text == "Hello 😀"
    assert made.first(0).text == ""


def test_the_longest_cut_is_tried_first_and_few_tokens_are_given_up() -> None:
    made = snapshot(*((n, "x") for n in range(20)))
    tried = candidates(made)
    assert [cut.tokens for cut in tried] == list(range(20, 20 - MOST_DROPPED - 1, -1))
    assert [cut.tokens for cut in candidates(snapshot((1, "x")))] == [1, 0]


def test_a_cut_fits_only_if_prompt_and_text_are_read_as_made() -> None:
    cut = snapshot((5, "a"), (6, "b")).whole
    assert fits(cut, [1, 2], [1, 2, 5, 6])
    assert not fits(cut, [1, 2], [1, 2, 56])
    assert not fits(cut, [1, 2], [12, 5, 6])


def test_pieces_of_several_tokens_have_no_ids() -> None:
    generated = Generated()
    generated.add(Piece("ab", 2))
    generated.add(Piece("c", 1, (3,)))
    assert generated.snapshot() == Snapshot((), (), "abc", 3)


@pytest.mark.parametrize(
    ("text", "tokens", "kept"),
    [
        ("the quick brown fo", 5, "the quick brown"),
        ("word", 2, ""),
        ("", 0, ""),
        ("a b ", 2, "a"),
        ("two\nlines", 4, "two"),
    ],
)
def test_without_ids_the_last_word_is_made_again(text: str, tokens: int, kept: str) -> None:
    cut = at_word(Snapshot((), (), text, tokens))
    assert cut.text == kept
    assert cut.tokens < max(1, tokens)


def test_going_on_counts_from_where_it_was() -> None:
    generated = Generated()
    made = snapshot((1, "He"), (2, "llo"), (3, " wor"))
    generated.restart(made.first(2), made.ends)
    generated.add(Piece("!", 1, (9,)))
    assert generated.snapshot() == Snapshot((1, 2, 9), (2, 5, 6), "Hello!", 3)
