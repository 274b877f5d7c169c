"""Where an answer may be cut so that its text is read as the tokens it was made of."""

import pytest

from aios_llm.generated import Generated, Snapshot
from aios_llm.logprobs import Likelihood, scored
from aios_llm.ports import Continuation, Piece
from aios_llm.resume_point import MOST_DROPPED, at_word, at_word_as_read, candidates, fits, where_read_alike


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


@pytest.mark.parametrize(
    ("tokens", "text", "kept", "kept_text"),
    [
        (["the", " quick", " br", "own", " fo"], "the quick brown fo", 4, "the quick brown"),
        (["wo", "rd"], "word", 0, ""),
        (["a", "", " b", " "], "a b ", 3, "a b"),
        (["a b", " c", "d"], "a b cd", 1, "a b"),
        (["one", "\ufffd", "\ufffd", " two", " three"], "one😀 two three", 0, ""),
        (["one", " two", "\ufffd", " three", " four"], "one two😀 three four", 1, "one"),
        (["one", " tw"], "one", 0, ""),
    ],
)
def test_where_the_texts_of_tokens_are_known_the_cut_is_between_two(
    tokens: list[str], text: str, kept: int, kept_text: str
) -> None:
    told = tuple(scored(Likelihood(token, -1.0), (), 0) for token in tokens)
    assert at_word(Snapshot((), (), text, len(tokens), told)) == Continuation((), kept_text, kept)


def test_going_on_counts_from_where_it_was() -> None:
    generated = Generated()
    made = snapshot((1, "He"), (2, "llo"), (3, " wor"))
    generated.restart(made.first(2), made.ends)
    generated.add(Piece("!", 1, (9,)))
    assert generated.snapshot() == Snapshot((1, 2, 9), (2, 5, 6), "Hello!", 3)


async def test_a_cut_at_a_word_has_as_many_tokens_as_the_engine_reads_there() -> None:
    async def read(text: str) -> list[int]:
        return [0] * len(text.split())

    made = Snapshot((), (), " a b c seven", 9)
    assert await at_word_as_read("one two", made, read) == Continuation((), " a b c", 3)
    assert at_word(made).tokens != 3


async def test_a_cut_is_tried_until_it_is_read_as_it_was_made() -> None:
    ids = {"p": [9], "pa": [9, 1], "pab": [9, 12]}

    async def read(text: str) -> list[int]:
        return ids[text]

    assert await where_read_alike("p", snapshot((1, "a"), (2, "b")), read) == Continuation((1,), "a", 1)
