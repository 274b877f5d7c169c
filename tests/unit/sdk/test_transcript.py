"""The text a reader sees has no gap and no repeat."""

from hypothesis import given
from hypothesis import strategies as st

from aios._transcript import Transcript

texts = st.text(min_size=1, max_size=60)


@given(texts, st.data())
def test_pieces_that_repeat_and_overlap_make_the_answer_once(text: str, data: st.DataObject) -> None:
    transcript = Transcript()
    while transcript.length < len(text):
        start = data.draw(st.integers(0, transcript.length))
        end = data.draw(st.integers(start, len(text)))
        if not data.draw(st.booleans()):
            end = max(end, min(transcript.length + 1, len(text)))  # make progress in the end
        assert transcript.add(start, text[start:end])
        assert transcript.text == text[: transcript.length]
    assert "".join(transcript.pieces) == text
    assert all(transcript.pieces)


@given(texts, st.integers(1, 20))
def test_a_piece_after_a_gap_is_not_taken(text: str, gap: int) -> None:
    transcript = Transcript()
    assert transcript.add(0, text)
    assert not transcript.add(len(text) + gap, "more")
    assert transcript.text == text


@given(texts, st.data())
def test_the_whole_answer_fills_in_what_never_came(text: str, data: st.DataObject) -> None:
    known = data.draw(st.integers(0, len(text)))
    transcript = Transcript()
    transcript.add(0, text[:known])
    transcript.complete(text)
    assert transcript.text == text


@given(texts, st.data())
def test_a_reader_that_comes_late_gets_the_rest(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    middle = data.draw(st.integers(start, len(text)))
    transcript = Transcript(start)
    assert transcript.add(0, text[:middle])
    transcript.complete(text)
    assert transcript.text == text[start:]


def test_another_text_than_the_pieces_made_is_not_mixed_in() -> None:
    transcript = Transcript()
    transcript.add(0, "abc")
    transcript.complete("xyzdef")
    assert transcript.text == "abc"


def test_positions_are_characters_not_bytes() -> None:
    transcript = Transcript()
    assert transcript.add(0, "a🌍é")
    assert transcript.add(2, "é!")
    assert transcript.pieces == ["a🌍é", "!"]
