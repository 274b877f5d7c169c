"""Server-sent events, however the network cuts them."""

from hypothesis import given
from hypothesis import strategies as st

from aios_llm.adapters.sse import EventSplitter


def events(*chunks: bytes) -> list[bytes]:
    splitter = EventSplitter()
    return [data for chunk in chunks for data in splitter.feed(chunk)]


def test_one_event_a_chunk() -> None:
    assert events(b'data:{"a":1}\n\n', b'data: {"b":2}\n\n') == [b'{"a":1}', b'{"b":2}']


def test_keep_alive_comments_and_other_fields_are_skipped() -> None:
    assert events(b": ping\n\n", b"event: x\nid: 7\ndata: 1\n\n", b":\n\n", b"retry: 5\n\n") == [b"1"]


def test_an_unfinished_event_is_kept_for_later() -> None:
    assert events(b"data:one") == []
    assert events(b"data:one", b"\n", b"\ndata:two\n\n") == [b"one", b"two"]


def test_data_on_several_lines_is_one_text() -> None:
    assert events(b"data: one\ndata: two\n\n") == [b"one\ntwo"]


PIECE = st.sampled_from(
    [b"data:x\n\n", b"data: y\n\n", b": ping\n\n", b"event: e\ndata: z\n\n", b"data: a\ndata: b\n\n"]
)


@given(st.lists(PIECE, max_size=8), st.booleans(), st.data())
def test_any_chunking_and_either_line_end_gives_the_same_events(
    pieces: list[bytes], crlf: bool, data: st.DataObject
) -> None:
    expected = events(*pieces)
    stream = b"".join(pieces).replace(b"\n", b"\r\n" if crlf else b"\n")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    chunks = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert events(*chunks) == expected


def test_a_stream_that_comes_byte_by_byte() -> None:
    assert events(*(bytes([byte]) for byte in b"data:one\r\n\r\n: x\r\n\r\ndata:two\r\n\r\n")) == [b"one", b"two"]
