"""Headers written as one block arrive as they would have arrived one by one, whatever their values hold."""

import asyncio
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from nats.aio.client import Client
from support.nats_server import running_open_nats

from aios_kit.header_lines import as_one

NAMES = st.sampled_from(["Aios-Id", "Aios-Program", "Aios-Reply", "traceparent", "tracestate"])


def written(headers: dict[str, str]) -> bytes:
    """What the client puts on the wire."""
    sent: list[bytes] = []

    class Quiet(Client):
        async def _send_command(self, cmd: bytes, priority: bool = False) -> None:
            sent.append(cmd)

    asyncio.run(Quiet()._send_publish("subject", "", b"body", 4, headers))
    return b"".join(sent)


@settings(deadline=None)
@given(st.dictionaries(NAMES, st.text(max_size=20)))
def test_nothing_forges_a_header_and_sound_values_are_written_alike(headers: dict[str, str]) -> None:
    expected, found = written(headers), written(as_one(headers))
    assert found.count(b"\r\n") == expected.count(b"\r\n")
    if all(value == value.strip() for value in headers.values()):
        assert found == expected


def test_a_line_break_in_a_value_takes_the_slow_way() -> None:
    for value in ("a\r\nAios-Tenant: other", "a\nAios-Tenant: other", "a\rb"):
        headers = {"Aios-Id": "x", "tracestate": value}
        assert as_one(headers) is headers
    assert as_one({}) == {}


async def test_another_client_reads_them_one_by_one(tmp_path: Path) -> None:
    headers = {"Aios-Id": "1", "Aios-Reply": "_INBOX.a.b.1", "tracestate": "a=b: c", "Aios-Program": ""}
    with running_open_nats(tmp_path) as server:
        nc = await server.connect()
        subscription = await nc.subscribe("x")
        await nc.publish("x", b"body", headers=as_one(headers))
        message = await subscription.next_msg(5)
        assert message.headers == headers
        await nc.close()
