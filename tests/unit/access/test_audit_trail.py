"""What stands in the log about a decision, whatever the call holds."""

import hashlib
from collections.abc import Mapping

import orjson
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from aios_access.audit_chain import ChainVerifier, Head, chain_lines
from aios_access.audit_trail import AuditTrail
from aios_proto.headers import CallHeaders

Record = Mapping[str, JsonValue] | str

ids = st.text("abcXYZ019_-", min_size=1, max_size=64)
anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


class Sink:
    def __init__(self) -> None:
        self.records: list[Record] = []

    def record(self, tenant: str, fields: Record) -> None:
        assert tenant == "acme"
        self.records.append(fields)


def read(records: list[Record]) -> list[dict[str, JsonValue]]:
    """The records of a chain, once it has been found intact."""
    lines, _ = chain_lines("acme", Head(), records)
    verifier = ChainVerifier("acme")
    verifier.feed(b"".join(lines))
    verifier.end()
    assert verifier.intact
    parsed = [orjson.loads(line)["record"] for line in lines]
    assert [each["seq"] for each in parsed] == list(range(1, len(records) + 1))
    assert parsed[-1]["prev"] == (hashlib.sha256(orjson.dumps(parsed[-2])).hexdigest() if parsed[1:] else "0" * 64)
    return parsed


@given(
    ids,
    ids,
    anything,
    anything,
    st.lists(anything, max_size=3),
    st.lists(anything, max_size=3),
    st.booleans(),
    anything,
)
def test_a_decision_is_written_as_it_was(
    call_id: str,
    program: str,
    agent: str,
    group: str,
    policies: list[str],
    taint: list[str],
    traced: bool,
    contents: str,
) -> None:
    sink = Sink()
    trail = AuditTrail(sink, "access-1", contents=True)
    headers = CallHeaders(call_id, program, tenant="acme", agent=agent, group=group, taint=tuple(taint))
    trace_id = "ab" * 16 if traced else None
    for _ in range(2):  # the second is made from what is remembered of the first
        trail.decided(headers, "memory.add", "allow", tuple(policies), contents.encode(), trace_id, 17)
    for record in read(sink.records):
        expected: dict[str, JsonValue] = {
            "tenant": "acme",
            "at_us": 17,
            "by": "access-1",
            "kind": "decision",
            "effect": "allow",
            "id": call_id,
            "agent": agent,
            "group": group,
            "program": program,
            "operation": "memory.add",
            "bytes": len(contents.encode()),
            "body": contents,
            **({"policies": list(policies)} if policies else {}),
            **({"taint": list(taint)} if taint else {}),
            **({"trace_id": trace_id} if traced else {}),
        }
        assert {name: value for name, value in record.items() if name not in ("seq", "prev")} == expected


def test_of_a_call_to_access_the_names_are_kept_and_of_others_nothing() -> None:
    sink = Sink()
    trail = AuditTrail(sink, "access-1")
    headers = CallHeaders("c1", "p", tenant="acme", agent="olga", group="operator")
    body = b'{"agent": "bob", "content": "secret"}'
    trail.decided(headers, "access.agent.create", "allow", (), body, None, 1)
    trail.decided(headers, "memory.add", "allow", (), body, None, 2)
    first, second = read(sink.records)
    assert first["about"] == {"agent": "bob"}
    assert "about" not in second
    assert all("secret" not in str(record) for record in sink.records)
