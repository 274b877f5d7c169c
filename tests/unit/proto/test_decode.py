"""A wrong body is answered with the path of the first wrong field."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from aios_proto.decode import decode
from aios_proto.errors import AiosError, InvalidRequest, MalformedRequest, RequestError
from aios_proto.messages.base import Empty
from aios_proto.messages.llm import ChatRequest, CompleteRequest, body_json
from aios_proto.operations import OPERATIONS

USER = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [USER, {"role": "pope", "content": "x"}]}, "messages.1.role"),
        ({"messages": [{"role": "user"}]}, "messages.0"),
        ({"messages": [{**USER, "colour": "red"}]}, "messages.0.colour"),
        ({"messages": [USER], "max_token": 3}, "max_token"),
        ({"messages": [USER], "max_tokens": 0}, "max_tokens"),
        ({"messages": [USER], "max_tokens": "many"}, "max_tokens"),
        ({"messages": [USER], "temperature": -0.1}, "temperature"),
        ({"messages": [USER], "stop": ["a", ""]}, "stop.1"),
        ({"messages": [USER], "seed": 1 << 53}, "seed"),
        ({"messages": [USER], "tools": [{"type": "function"}]}, "tools.0.function"),
        ({"messages": [USER], "response_format": {"type": "xml"}}, "response_format"),
        ({"messages": [USER], "response_format": {"type": "regex"}}, "response_format.regex.regex"),
    ],
)
def test_the_first_wrong_field_is_named(body: JsonValue, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(ChatRequest, json.dumps(body).encode())
    assert caught.value.field == field


def test_the_number_of_further_faults_is_told() -> None:
    with pytest.raises(InvalidRequest, match="and 1 more"):
        decode(CompleteRequest, b'{"prompt": "", "max_tokens": -1}')


@pytest.mark.parametrize("body", [b"{", b"nonsense", b"\xff\xfe", b"[]", b"7", b'"text"', b"null", b"{}{}"])
def test_what_is_no_json_object_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedRequest) as caught:
        decode(ChatRequest, body)
    assert caught.value.field == "body"


def test_an_empty_body_counts_as_an_empty_object() -> None:
    assert decode(Empty, b"") == Empty()
    with pytest.raises(InvalidRequest, match="prompt"):
        decode(CompleteRequest, b"")


def test_a_secret_in_a_body_is_not_repeated_in_the_error() -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(ChatRequest, json.dumps({"messages": [USER], "max_tokens": "hunter2"}).encode())
    assert "hunter2" not in str(caught.value)


@given(st.sampled_from(sorted(OPERATIONS)), st.binary(max_size=60))
def test_no_bytes_whatsoever_break_the_reader(name: tuple[str, str], body: bytes) -> None:
    _decodes_or_is_refused(name, body)


values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(OPERATIONS)), st.data())
def test_no_values_whatsoever_break_the_reader(name: tuple[str, str], data: st.DataObject) -> None:
    fields = OPERATIONS[name].request.model_fields
    body = {
        field: data.draw(values) for field in data.draw(st.lists(st.sampled_from([*fields, "unknown"]), unique=True))
    }
    _decodes_or_is_refused(name, json.dumps(body).encode())


def _decodes_or_is_refused(name: tuple[str, str], body: bytes) -> None:
    refusal: AiosError | None = None
    try:
        decode(OPERATIONS[name].request, body)
    except AiosError as error:
        refusal = error
    if refusal is not None:
        assert isinstance(refusal, RequestError)
        assert refusal.field
        assert refusal.body().field  # it can be sent


def test_a_request_is_sent_without_the_fields_left_open() -> None:
    request = ChatRequest(messages=[USER], max_tokens=3)
    assert body_json(request) == {"messages": [USER], "max_tokens": 3, "stop": [], "stream": True, "logprobs": False}
    assert decode(ChatRequest, json.dumps(body_json(request)).encode()) == request
