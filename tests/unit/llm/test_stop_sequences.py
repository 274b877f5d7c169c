"""Where an answer ends when stop sequences were given, however its text is cut into tokens."""

from hypothesis import given
from hypothesis import strategies as st

from aios_llm.stop_sequences import StopFilter

# Few letters, so that sequences overlap themselves and each other.
TEXT = st.text("abc\n😀", max_size=30)
SEQUENCES = st.lists(st.text("abc\n😀", min_size=1, max_size=4), min_size=1, max_size=4)


def answer(sequences: tuple[str, ...], pieces: list[str]) -> str:
    stop = StopFilter(sequences)
    return "".join([*(stop.feed(piece) for piece in pieces), stop.finish()])


def test_without_sequences_text_passes_at_once() -> None:
    assert StopFilter(()).feed("anything") == "anything"


def test_the_sequence_and_what_follows_are_left_out() -> None:
    assert answer(("\n\n",), ["one\n", "two\n", "\nthree", "four"]) == "one\ntwo"


def test_text_that_only_looks_like_the_beginning_is_not_lost() -> None:
    stop = StopFilter(("STOP",))
    assert stop.feed("a ST") == "a "
    assert stop.feed("ART") == "START"
    assert stop.feed(" STO") == " "
    assert stop.finish() == "STO"


def test_the_sequence_complete_first_wins() -> None:
    assert answer(("abcd", "bc"), ["abcd"]) == "a"
    assert answer(("bc", "abc"), ["abc"]) == ""


@given(SEQUENCES, TEXT, st.data())
def test_any_cut_gives_the_same_answer(sequences: list[str], text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert answer(tuple(sequences), pieces) == answer(tuple(sequences), list(text))


@given(SEQUENCES, TEXT)
def test_no_sequence_leaks_and_nothing_else_is_lost(sequences: list[str], text: str) -> None:
    said = answer(tuple(sequences), list(text))
    assert not any(sequence in said for sequence in sequences)
    assert text.startswith(said)
    if len(said) < len(text):
        assert any(text.startswith(sequence, len(said)) for sequence in sequences)


@given(SEQUENCES, st.lists(TEXT, max_size=8))
def test_nothing_that_was_passed_on_has_to_be_taken_back(sequences: list[str], pieces: list[str]) -> None:
    stop, passed = StopFilter(tuple(sequences)), ""
    for piece in pieces:
        passed += stop.feed(piece)
        assert not any(sequence in passed for sequence in sequences)
    assert answer(tuple(sequences), pieces) == passed + stop.finish()
