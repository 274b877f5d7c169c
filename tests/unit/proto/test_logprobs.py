"""How log probabilities are asked for and told."""

import pytest
from pydantic import JsonValue

from aios_kit import replies
from aios_proto.decode import decode
from aios_proto.errors import InvalidRequest
from aios_proto.frames import FRAME, Delta
from aios_proto.messages.llm import ChatRequest, ChatResult, CompleteRequest, CompleteResult, TokenLogprob

ENTRY = b'{"token":"a","logprob":-0.5,"top_logprobs":[{"token":"b","logprob":-0.25}]}'


@pytest.mark.parametrize("asked", [b"", b',"top_logprobs":0', b',"top_logprobs":20'])
def test_they_are_asked_for_as_in_openais_api(asked: bytes) -> None:
    chat = decode(ChatRequest, b'{"messages":[{"role":"user","content":"x"}],"logprobs":true' + asked + b"}")
    complete = decode(CompleteRequest, b'{"prompt":"x","logprobs":true' + asked + b"}")
    assert chat.logprobs
    assert complete.logprobs


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (b'"top_logprobs":3', "top_logprobs"),
        (b'"logprobs":false,"top_logprobs":0', "top_logprobs"),
        (b'"logprobs":true,"top_logprobs":21', "top_logprobs"),
        (b'"logprobs":true,"top_logprobs":-1', "top_logprobs"),
        (b'"logprobs":"many","top_logprobs":1', "logprobs"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_the_name_of_the_field(asked: bytes, field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode(CompleteRequest, b'{"prompt":"x",' + asked + b"}")
    assert refused.value.field == field


def test_a_frame_has_those_of_its_tokens_and_says_where_they_belong() -> None:
    frame = FRAME.validate_json(replies.delta("c", 5, 1, 9, "a", (4, [ENTRY])))
    assert isinstance(frame, Delta)
    assert frame.logprobs_offset == 4
    assert frame.logprobs == [TokenLogprob.model_validate_json(ENTRY)]


def test_where_nobody_asked_nothing_is_sent() -> None:
    assert replies.delta("c", 0, 1, 0, "a") == (
        b'{"type":"delta","id":"c","offset":0,"tokens":1,"text_offset":0,"text":"a"}'
    )
    text = CompleteResult(text="a", finish_reason="stop", model="m")
    assert b"logprobs" not in replies.done("c", text)


def test_a_result_has_them_all_and_an_answer_without_tokens_has_none() -> None:
    text: dict[str, JsonValue] = {"text": "a", "finish_reason": "stop", "model": "m"}
    result = CompleteResult.model_validate(text)
    for entries in ([ENTRY], []):
        done = FRAME.validate_json(replies.done("c", result, logprobs=entries))
        assert done.type == "done"
        assert CompleteResult.model_validate(done.result).logprobs == [
            TokenLogprob.model_validate_json(entry) for entry in entries
        ]
    chat = {"message": {"role": "assistant", "content": "a"}, "finish_reason": "stop", "model": "m"}
    assert ChatResult.model_validate(chat).logprobs is None
