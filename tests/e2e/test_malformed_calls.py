"""Whatever an agent sends, it gets its typed error soon, and every service goes on answering."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable

import nats
import orjson
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from support.stack import Stack

from aios import Agent
from aios_proto.ids import new_syscall_id
from aios_proto.subjects import inbox_prefix
from aios_proto.tokens import AgentToken

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

EACH = 100
ANSWER_TIMEOUT_S = 30

CHAT = "llm.chat"
GOOD = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}

# name: (operation, body, headers that differ from good ones; None removes one, code, field)
Kind = tuple[str, bytes, dict[str, str | None], str, str | None]


def _chat(**changes: object) -> bytes:
    return orjson.dumps({**GOOD, **changes})


def _past() -> str:
    return str(int(time.time() * 1000) - 1000)


KINDS: dict[str, Kind | Callable[[], Kind]] = {
    "not json": (CHAT, b"{", {}, "request.malformed", "body"),
    "not utf-8": (CHAT, b"\xff\xfe", {}, "request.malformed", "body"),
    "not an object": (CHAT, b"[1]", {}, "request.malformed", "body"),
    "empty body": (CHAT, b"", {}, "request.invalid", "messages"),
    "missing field": (CHAT, b'{"max_tokens": 3}', {}, "request.invalid", "messages"),
    "no messages": (CHAT, _chat(messages=[]), {}, "request.invalid", "messages"),
    "turn without content": (CHAT, _chat(messages=[{"role": "user"}]), {}, "request.invalid", "messages.0"),
    "wrong role": (
        CHAT,
        _chat(messages=[{"role": "boss", "content": "x"}]),
        {},
        "request.invalid",
        "messages.0.role",
    ),
    "wrong type": (CHAT, _chat(max_tokens="many"), {}, "request.invalid", "max_tokens"),
    "out of range": (CHAT, _chat(temperature=-1), {}, "request.invalid", "temperature"),
    "too many stops": (CHAT, _chat(stop=list("abcde")), {}, "request.invalid", "stop"),
    "unknown field": (CHAT, _chat(max_token=3), {}, "request.invalid", "max_token"),
    "unknown manager": ("wizard.chat", _chat(), {}, "request.unknown_manager", "manager"),
    "unknown operation": ("llm.sing", _chat(), {}, "request.unknown_operation", "operation"),
    "note nobody made": ("memory.get", b'{"memory_id": "1"}', {}, "resource.not_found", "memory_id"),
    "forbidden operation": ("scheduler.policy", b'{"policy": "fifo"}', {}, "access.denied", "operation"),
    "two mebibytes": (CHAT, _chat(pad="x" * (2 << 20)), {}, "request.too_large", "body"),
    "expired deadline": lambda: (CHAT, _chat(), {"Aios-Deadline": _past()}, "deadline.exceeded", "Aios-Deadline"),
    "deadline in words": (CHAT, _chat(), {"Aios-Deadline": "soon"}, "request.invalid", "Aios-Deadline"),
    "deadline in a year": (CHAT, _chat(), {"Aios-Deadline": "4102444800000"}, "request.invalid", "Aios-Deadline"),
    "priority too high": (CHAT, _chat(), {"Aios-Priority": "10"}, "request.invalid", "Aios-Priority"),
    "negative priority": (CHAT, _chat(), {"Aios-Priority": "-1"}, "request.invalid", "Aios-Priority"),
    "no id": (CHAT, _chat(), {"Aios-Id": None}, "request.invalid", "Aios-Id"),
    "id with dots": (CHAT, _chat(), {"Aios-Id": "a.b.*"}, "request.invalid", "Aios-Id"),
    "no protocol": (CHAT, _chat(), {"Aios-Proto": None}, "request.invalid", "Aios-Proto"),
    "another protocol": (CHAT, _chat(), {"Aios-Proto": "99"}, "request.unsupported_protocol", "Aios-Proto"),
    "bad dependency": (CHAT, _chat(), {"Aios-After": "a b,,"}, "request.invalid", "Aios-After"),
    "bad durability": (CHAT, _chat(), {"Aios-Durability": "stone"}, "request.invalid", "Aios-Durability"),
    "durable listing": ("syscall.list", b"{}", {"Aios-Durability": "durable"}, "request.invalid", "Aios-Durability"),
    "volatile and malformed": (CHAT, b"{", {"Aios-Durability": "volatile"}, "request.malformed", "body"),
    "cancel of nothing": ("syscall.cancel", b'{"id": "nothing"}', {}, "syscall.unknown", "id"),
}


class RawAgent:
    """An agent without our library: what it sends is not checked before it is sent."""

    def __init__(self, client: Client, token: AgentToken) -> None:
        self._client = client
        self._token = token
        self._numbers = 0
        self._waiting: dict[str, asyncio.Future[dict[str, object]]] = {}

    async def listen(self) -> None:
        prefix = inbox_prefix(self._token.tenant, self._token.agent)
        await self._client.subscribe(f"{prefix}.>", cb=self._on_frame)

    async def _on_frame(self, message: Msg) -> None:
        frame = orjson.loads(message.data)
        waiting = self._waiting.get(message.subject.rsplit(".", 1)[-1])
        if waiting is not None and not waiting.done() and frame["type"] in ("done", "error"):
            waiting.set_result(frame)

    async def call(
        self, operation: str, body: bytes, changes: dict[str, str | None]
    ) -> tuple[dict[str, object], float]:
        """Sends one call; returns its last frame and the seconds it took."""
        self._numbers += 1
        number = str(self._numbers)
        waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
        headers = {"Aios-Id": new_syscall_id(), "Aios-Proto": "1"}
        for name, value in changes.items():
            headers.pop(name, None)
            if value is not None:
                headers[name] = value
        token = self._token
        begun = time.monotonic()
        await self._client.publish(
            f"aios.sys.{token.tenant}.{token.agent}.{operation}",
            body,
            reply=f"{inbox_prefix(token.tenant, token.agent)}.{number}",
            headers=headers,
        )
        frame = await asyncio.wait_for(waiting, ANSWER_TIMEOUT_S)
        return frame, time.monotonic() - begun


@pytest.fixture
async def raw(stack: Stack, agent_token: str):  # type: ignore[no-untyped-def]
    token = AgentToken.parse(agent_token)
    client = await nats.connect(
        stack.state.url, token=agent_token, inbox_prefix=inbox_prefix(token.tenant, token.agent).encode()
    )
    agent = RawAgent(client, token)
    await agent.listen()
    yield agent
    await client.close()


async def test_a_hundred_malformed_calls_of_every_kind_get_their_typed_error(
    raw: RawAgent, agent: Agent, record_property: Callable[[str, object], None]
) -> None:
    slowest, wrong = 0.0, Counter[str]()
    for name, made in KINDS.items():
        for _ in range(EACH):
            operation, body, changes, code, field = made() if callable(made) else made
            frame, took = await raw.call(operation, body, changes)
            slowest = max(slowest, took)
            error = frame.get("error")
            if not isinstance(error, dict) or error["code"] != code or error.get("field") != field:
                wrong[f"{name}: {frame}"[:200]] += 1
    record_property("slowest_answer_s", slowest)
    logging.getLogger(__name__).info("%d kinds, %d each; slowest answer %.3f s", len(KINDS), EACH, slowest)
    assert not wrong
    assert (await agent.llm.chat("hi", max_tokens=2)).text
    assert await agent.llm.models()


async def test_forged_identity_headers_are_dropped(raw: RawAgent) -> None:
    forged: dict[str, str | None] = {
        "Aios-Tenant": "kernel",
        "Aios-Agent": "operator",
        "Aios-Group": "operator",
        "Aios-Reply": "_INBOX.default.operator.x",
    }
    for _ in range(EACH):
        frame, _ = await raw.call("access.whoami", b"", forged)
        assert frame["result"] == {"tenant": "default", "agent": "reader", "group": "agent"}
        refused, _ = await raw.call("scheduler.state", b"", forged)
        assert isinstance(refused["error"], dict)
        assert refused["error"]["code"] == "access.denied"
