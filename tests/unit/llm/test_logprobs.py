"""Entries of log probabilities: how each is written, and which are part of an answer."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_llm.adapters import openai_logprobs
from aios_llm.logprobs import MAX_BYTES, Likelihood, Scored, Scores, read, scored
from aios_llm.ports import Piece
from aios_llm.stop_sequences import StopFilter
from aios_proto.errors import EngineRefused, InvalidRequest
from aios_proto.messages.llm import TokenLogprob


def tokens(*texts: str) -> list[Scored]:
    return [scored(Likelihood(text, -number / 8), (), 0) for number, text in enumerate(texts)]


def test_an_entry_has_the_likeliest_first_and_as_many_as_asked_for() -> None:
    best = [Likelihood("c", -3.0), Likelihood("a", -0.12345678), Likelihood("b", -1.0)]
    entry = TokenLogprob.model_validate_json(scored(Likelihood("x", -9.0), best, 2).json)
    assert (entry.token, entry.logprob) == ("x", -9.0)
    assert [(other.token, other.logprob) for other in entry.top_logprobs] == [("a", -0.123457), ("b", -1.0)]
    assert b"top_logprobs" not in scored(Likelihood("x", -9.0), best, 0).json
    assert scored(Likelihood("x", -1e-9), (), 0).json == b'{"token":"x","logprob":0.0}'


def test_bytes_are_told_only_where_the_text_does_not_tell_them() -> None:
    whole = Likelihood("é", -1.0, list("é".encode()))
    part = Likelihood("", -1.0, [0xF0, 0x9F])
    entry = TokenLogprob.model_validate_json(scored(part, [whole, part], 2).json)
    assert entry.bytes == [0xF0, 0x9F]
    assert [other.bytes for other in entry.top_logprobs] == [None, [0xF0, 0x9F]]


def test_an_entry_is_read_as_it_was_written() -> None:
    for token in (tokens("a")[0], scored(Likelihood("", -0.1, [200]), [Likelihood("b", -2.5)], 1)):
        assert read(orjson.loads(token.json)) == token
    for wrong in (b"null", b"[]", b"{}", b'{"token":1}'):
        with pytest.raises(TypeError):
            read(orjson.loads(wrong))


@given(
    st.lists(st.text("ab\n", max_size=3), max_size=12), st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=2)
)
def test_entries_are_those_of_the_tokens_whose_text_begins_in_the_answer(texts: list[str], stop: list[str]) -> None:
    text_filter, scores, answer, news = StopFilter(tuple(stop)), Scores(tuple(stop), 0), "", list[bytes]()
    for token in tokens(*texts):
        answer += text_filter.feed(token.token)
        scores.add(token)
        if (new := scores.news()) is not None:
            assert new[0] == len(news)
            news += new[1]
    answer += text_filter.finish()
    scores.finish()
    if (new := scores.news()) is not None:
        news += new[1]
    starts = [len("".join(texts[:number])) for number in range(len(texts))]
    cut = text_filter.stopped
    wanted = [token.json for token, at in zip(tokens(*texts), starts, strict=True) if not cut or at < len(answer)]
    assert news == scores.entries(scores.certain) == wanted


def test_a_token_of_a_stop_sequence_that_may_be_one_waits() -> None:
    scores = Scores(("\n\nEND",), 0)
    first, *rest = tokens("one", "\n", "\nEN", "D")
    scores.add(first)
    assert scores.news() == (0, [first.json])
    for token in rest:
        scores.add(token)
        assert scores.news() is None
    scores.finish()
    assert (scores.certain, len(scores.made)) == (1, 4)


def test_more_than_a_message_carries_is_refused_by_name() -> None:
    for count, field in ((0, "logprobs"), (5, "top_logprobs")):
        scores, token = Scores((), count), scored(Likelihood("x" * 1000, -1.0), (), 0)
        for _ in range(MAX_BYTES // len(token.json)):
            scores.add(token)
        with pytest.raises(InvalidRequest) as refused:
            scores.add(token)
        assert refused.value.field == field


CHAT = {
    "content": [
        {"token": "He", "logprob": -0.5, "bytes": [72, 101], "top_logprobs": [{"token": "He", "logprob": -0.5}]},
        {"token": "y", "logprob": -1.5, "bytes": None, "top_logprobs": [{"token": "x", "logprob": -0.25}]},
    ]
}
LEGACY = {
    "tokens": ["He", "y"],
    "token_logprobs": [-0.5, -1.5],
    "top_logprobs": [{"He": -0.5}, {"y": -1.5, "x": -0.25}],
    "text_offset": [0, 2],
}


@pytest.mark.parametrize("told", [CHAT, LEGACY])
def test_both_forms_of_openais_api_say_the_same(told: dict[str, object]) -> None:
    first, second = openai_logprobs.pieces("Hey", told, 1, first=True)
    assert (first.text, second.text, first.tokens, second.tokens) == ("He", "y", 1, 1)
    assert first.scored == scored(Likelihood("He", -0.5), [Likelihood("He", -0.5)], 1)
    assert second.scored == scored(Likelihood("y", -1.5), [Likelihood("x", -0.25)], 1)


def test_text_that_a_server_holds_back_comes_with_the_last_token_of_its_event() -> None:
    first, second = openai_logprobs.pieces("H", CHAT, 1, first=True)
    assert (first.text, second.text) == ("", "H")
    assert openai_logprobs.pieces("ey", None, 1, first=False) == [Piece("ey", 0)]
    assert openai_logprobs.pieces("", None, 1, first=True) == []


def test_tokens_a_server_keeps_to_itself_count_with_the_last_it_tells_of() -> None:
    first, second = openai_logprobs.pieces("Hey", CHAT, 1, first=True, tokens=4)
    assert (first.tokens, second.tokens) == (1, 3)
    assert openai_logprobs.pieces("", None, 1, first=False, tokens=2) == [Piece("", 2)]


def test_ids_go_with_their_tokens() -> None:
    first, second = openai_logprobs.pieces("Hey", CHAT, 1, first=True, ids=(7, 9), tokens=2)
    assert (first.ids, second.ids) == ((7,), (9,))


def test_a_server_that_does_not_tell_what_was_asked_for_is_refused_by_name() -> None:
    with pytest.raises(EngineRefused) as silent:
        openai_logprobs.pieces("Hey", None, 0, first=True)
    assert silent.value.field == "logprobs"
    with pytest.raises(EngineRefused) as some:
        openai_logprobs.pieces("a", {"content": [{"token": "a", "logprob": -1.0}]}, 2, first=True)
    assert some.value.field == "top_logprobs"


@pytest.mark.parametrize(
    "nonsense",
    [
        {"content": [{"token": "a"}]},
        {"content": [7]},
        {"content": [{"token": "a", "logprob": None}]},
        {"content": [{"token": "a", "logprob": -1.0, "bytes": [999]}]},
        {"tokens": ["a", "b"], "token_logprobs": [-1.0]},
        {"tokens": ["a"]},
    ],
)
def test_nonsense_is_no_log_probability(nonsense: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        openai_logprobs.pieces("a", nonsense, 0, first=True)


def test_a_completion_asks_for_one_of_the_likeliest_at_least() -> None:
    assert openai_logprobs.asked(0, chat=False) == {"logprobs": 1}
    assert openai_logprobs.asked(7, chat=False) == {"logprobs": 7}
    assert openai_logprobs.asked(0, chat=True) == {"logprobs": True}
    assert openai_logprobs.asked(7, chat=True) == {"logprobs": True, "top_logprobs": 7}
