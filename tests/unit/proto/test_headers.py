"""What of a call's headers is believed, and how a wrong one is named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_proto import headers
from aios_proto.errors import AiosError, InvalidRequest, UnsupportedProtocol
from aios_proto.headers import CallHeaders, from_agent, from_kernel

names = st.text("abcXYZ019_-", min_size=1, max_size=64)
texts = st.text(st.characters(codec="ascii", exclude_categories=["C"]), max_size=40).map(str.strip)

calls_of_agents = st.builds(
    CallHeaders,
    id=names,
    program=st.none() | names,
    priority=st.integers(0, 9),
    deadline_ms=st.none() | st.integers(1, 1 << 53),
    after=st.lists(names, max_size=64).map(tuple),
    context=st.none() | names,
    durability=st.sampled_from([None, "durable", "volatile"]),
    traceparent=st.none() | texts,
    tracestate=st.none() | texts,
)
stamps = st.fixed_dictionaries(
    {
        "tenant": names,
        "agent": names,
        "group": names,
        "reply": names,
        "times_us": st.lists(st.integers(0, 1 << 53), max_size=3).map(tuple),
        "attempt": st.integers(0, 9),
        "operation": st.sampled_from(["", "chat"]),
    }
)


@given(calls_of_agents)
def test_what_an_agent_sends_is_read_as_it_was_meant(call: CallHeaders) -> None:
    assert from_agent(call.to_wire()) == call


@given(calls_of_agents, stamps)
def test_what_a_service_sends_is_read_as_it_was_meant(call: CallHeaders, stamped: dict[str, object]) -> None:
    fields = {name: getattr(call, name) for name in CallHeaders.__dataclass_fields__}
    sent = CallHeaders(**{**fields, **stamped})
    assert from_kernel(sent.to_wire()) == sent


@given(calls_of_agents, stamps)
def test_an_identity_an_agent_sends_itself_is_not_believed(call: CallHeaders, stamped: dict[str, object]) -> None:
    fields = {name: getattr(call, name) for name in CallHeaders.__dataclass_fields__}
    forged = CallHeaders(**{**fields, **stamped})
    assert from_agent(forged.to_wire()) == call


def test_headers_at_their_default_are_not_sent() -> None:
    assert CallHeaders(id="x").to_wire() == {"Aios-Id": "x", "Aios-Proto": "1"}


MALFORMED = [
    (headers.ID, ["", "a b", "a.b", "*", ">", "x" * 65, "a\n", "é"]),
    (headers.PROGRAM, ["", "a b", "a.b", "x" * 65, "a\n"]),
    (headers.CONTEXT, ["", "a/b", "x" * 65, "\x00"]),
    (headers.PRIORITY, ["", "-1", "10", "5.0", "high", "٣", "1e0", "+1", " 5", "9" * 400]),
    (headers.DEADLINE, ["", "0", "-5", "1.5", "soon", "9" * 17, "٣", "0x10"]),
    (headers.AFTER, ["a b", ",", "a,", ",a", "a,,b", "a;b", "*", ",".join("a" * 65), "x" * 65]),
    (headers.DURABILITY, ["", "Durable", "durable ", "forever"]),
]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in MALFORMED for value in values])
def test_a_malformed_header_is_named(name: str, value: str) -> None:
    wire = {headers.ID: "x", headers.PROTO: "1"} | {name: value}
    with pytest.raises(InvalidRequest) as caught:
        from_agent(wire)
    assert caught.value.field == name


@pytest.mark.parametrize("name", [headers.ID, headers.PROTO])
@pytest.mark.parametrize("wire", [None, {}, {"Aios-Id": "x", "Aios-Proto": "1"}])
def test_a_missing_header_is_named(name: str, wire: dict[str, str] | None) -> None:
    present = {key: value for key, value in (wire or {}).items() if key != name}
    with pytest.raises(InvalidRequest) as caught:
        from_agent(present)
    assert caught.value.field in ([name] if present else [headers.PROTO])


@pytest.mark.parametrize("version", ["", "0", "2", "1.0", "one"])
def test_another_version_of_the_protocol_is_refused(version: str) -> None:
    with pytest.raises(UnsupportedProtocol) as caught:
        from_agent({headers.ID: "x", headers.PROTO: version})
    assert caught.value.field == headers.PROTO


@given(st.dictionaries(st.sampled_from([name for name, _ in MALFORMED] + [headers.PROTO, "traceparent"]), st.text()))
def test_no_headers_whatsoever_break_the_reader(wire: dict[str, str]) -> None:
    for read in (from_agent, from_kernel):
        refusal: AiosError | None = None
        try:
            read(wire)
        except AiosError as error:
            refusal = error
        assert refusal is None or refusal.field


def test_a_message_that_no_service_wrote_is_refused() -> None:
    for wire in (None, {}, {headers.ID: "x", headers.PRIORITY: "high"}, {headers.ID: "x", headers.TIMES: "1,b"}):
        with pytest.raises(InvalidRequest):
            from_kernel(wire)


def test_the_key_of_a_call_tells_agents_apart() -> None:
    assert CallHeaders(id="x", tenant="t", agent="a").key == "t.a.x"


def lines(text: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in text.split("\r\n"))


@given(calls_of_agents, stamps, st.none() | texts.filter(bool), st.booleans())
def test_headers_written_as_text_say_the_same(
    call: CallHeaders, stamped: dict[str, object], parent: str | None, plain: bool
) -> None:
    fields = {name: getattr(call, name) for name in CallHeaders.__dataclass_fields__}
    # As access stamps nearly every call; the others are written the long way.
    usual = {"after": (), "durability": None, "attempt": 0, "operation": "", "times_us": (1,), "program": "run"}
    sent = CallHeaders(**{**fields, **stamped, **(usual if plain else {})})
    expected = sent.to_wire() if parent is None else sent.to_wire() | {headers.TRACEPARENT: parent}
    assert lines(sent.to_text(parent)) == expected


@pytest.mark.parametrize("value", ["a\r\nAios-Tenant: other", "a\nAios-Tenant: other", "a\rb"])
@pytest.mark.parametrize("deadline_ms", [None, 1])
def test_a_line_break_in_a_value_forges_no_header(value: str, deadline_ms: int | None) -> None:
    sent = CallHeaders(
        "x", "p", 5, deadline_ms, tenant="t", agent="a", group="g", reply="r", times_us=(1,), tracestate=value
    )
    assert lines(sent.to_text()) == sent.to_wire() | {headers.TRACESTATE: value.translate({10: " ", 13: " "})}
