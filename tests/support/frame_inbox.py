"""A caller made of a bus connection only: it sends what a test says, well-formed or not, and reads the frames."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Mapping
from typing import Any

import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from support.nats_server import settle

from aios_proto import headers as wire
from aios_proto import subjects
from aios_proto.ids import new_syscall_id
from aios_proto.tokens import AgentToken

Frame = dict[str, Any]
TIMEOUT_S = 10.0


async def connect_once(url: str, **options: Any) -> Client:
    """One attempt to connect; unlike the client itself it leaves no open socket behind where it fails.

    Raises:
        nats.errors.Error: the bus did not let it in.
    """
    nc = Client()
    try:
        await nc.connect(url, **{"allow_reconnect": False, "connect_timeout": 10, **options})
        await nc.flush(4)  # a server that hangs up without a word looks like success to the client
    except BaseException:
        await nc.close()
        if nc._transport is not None:
            nc._transport.close()  # type: ignore[no-untyped-call]
            with contextlib.suppress(OSError):
                await nc._transport.wait_closed()  # type: ignore[no-untyped-call]
        raise
    return nc


class FrameInbox:
    """Reads everything that arrives below one prefix, sorted by the token after it.

    Attributes:
        prefix: without the trailing dot.
    """

    def __init__(self, nc: Client, prefix: str) -> None:
        self.nc = nc
        self.prefix = prefix
        self._queues: dict[str, asyncio.Queue[Frame]] = {}
        self._numbers = itertools.count()

    async def open(self) -> None:
        """Subscribes, and waits until the server knows."""
        await self.nc.subscribe(f"{self.prefix}.>", cb=self._on_message)
        await settle(self.nc)

    def new_subject(self) -> str:
        """A reply subject nobody has used yet."""
        return f"{self.prefix}.{next(self._numbers)}"

    async def next(self, subject: str, timeout_s: float = TIMEOUT_S) -> Frame:
        """The next frame on one of our reply subjects.

        Raises:
            TimeoutError: none came.
        """
        return await asyncio.wait_for(self._queue(subject.removeprefix(f"{self.prefix}.")).get(), timeout_s)

    async def until_end(self, subject: str, timeout_s: float = TIMEOUT_S) -> list[Frame]:
        """All frames up to `done` or `error`."""
        frames: list[Frame] = []
        async with asyncio.timeout(timeout_s):
            while not frames or frames[-1]["type"] not in ("done", "error"):
                frames.append(await self.next(subject, timeout_s))
        return frames

    def waiting(self, subject: str) -> int:
        """How many frames have come and were not read."""
        return self._queue(subject.removeprefix(f"{self.prefix}.")).qsize()

    def _queue(self, token: str) -> asyncio.Queue[Frame]:
        return self._queues.setdefault(token, asyncio.Queue())

    async def _on_message(self, message: Msg) -> None:
        self._queue(message.subject.removeprefix(f"{self.prefix}.")).put_nowait(orjson.loads(message.data))


class KernelCaller:
    """Calls a service where access would: on `aios.k.<manager>.<op>`, with stamped headers."""

    def __init__(self, nc: Client, tenant: str = "acme", agent: str = "alice") -> None:
        self.nc = nc
        self.tenant = tenant
        self.agent = agent
        self.inbox = FrameInbox(nc, subjects.inbox_prefix(tenant, agent))

    async def send(
        self,
        manager: str,
        operation: str,
        body: object = None,
        *,
        deadline_s: float | None = 20,
        traceparent: str | None = None,
        call_id: str | None = None,
    ) -> str:
        """Sends one call and returns its reply subject. `bytes` bodies go out as they are."""
        reply = self.inbox.new_subject()
        headers = wire.CallHeaders(
            id=call_id or new_syscall_id(),
            tenant=self.tenant,
            agent=self.agent,
            group="agent",
            reply=reply,
            deadline_ms=None if deadline_s is None else int((time.time() + deadline_s) * 1000),
            traceparent=traceparent,
        )
        await self.nc.publish(subjects.kernel(manager, operation), _encoded(body), headers=headers.to_wire())
        return reply

    async def call(self, manager: str, operation: str, body: object = None, **options: Any) -> Frame:
        """Sends one call and returns its last frame."""
        return (await self.inbox.until_end(await self.send(manager, operation, body, **options)))[-1]


class RawAgent:
    """An agent without the SDK: its token, its own inbox, and headers as the test wants them."""

    def __init__(self, nc: Client, tenant: str, agent: str) -> None:
        self.nc = nc
        self.tenant = tenant
        self.agent = agent
        self.inbox = FrameInbox(nc, subjects.inbox_prefix(tenant, agent))
        self.errors: list[str] = []

    @classmethod
    async def connect(cls, url: str, token: str, **options: Any) -> "RawAgent":
        """Connects as the agent the token names.

        Raises:
            nats.errors.Error: the bus did not let it in.
        """
        parsed = AgentToken.parse(token)
        errors: list[str] = []

        async def error(cause: Exception) -> None:
            errors.append(str(cause))

        prefix = subjects.inbox_prefix(parsed.tenant, parsed.agent).encode()
        nc = await connect_once(url, token=token, inbox_prefix=prefix, error_cb=error, **options)
        agent = cls(nc, parsed.tenant, parsed.agent)
        agent.errors = errors
        await agent.inbox.open()
        return agent

    async def send(
        self,
        manager: str,
        operation: str,
        body: object = None,
        *,
        headers: Mapping[str, str | None] | None = None,
        reply: str | None = None,
        call_id: str | None = None,
    ) -> str:
        """Sends one call and returns its reply subject; a header given as None is left out."""
        reply = self.inbox.new_subject() if reply is None else reply
        sound = {wire.ID: call_id or new_syscall_id(), wire.PROTO: "1"}
        sent = {name: value for name, value in {**sound, **(headers or {})}.items() if value is not None}
        subject = f"aios.sys.{self.tenant}.{self.agent}.{manager}.{operation}"
        await self.nc.publish(subject, _encoded(body), reply=reply, headers=sent)
        return reply

    async def call(self, manager: str, operation: str, body: object = None, **options: Any) -> Frame:
        """Sends one call and returns its last frame."""
        return (await self.inbox.until_end(await self.send(manager, operation, body, **options)))[-1]

    async def result(self, manager: str, operation: str, body: object = None, **options: Any) -> dict[str, Any]:
        """The result of a call that must succeed."""
        frame = await self.call(manager, operation, body, **options)
        assert frame["type"] == "done", frame
        result: dict[str, Any] = frame["result"]
        return result

    async def error(self, manager: str, operation: str, body: object = None, **options: Any) -> dict[str, Any]:
        """The error of a call that must fail."""
        frame = await self.call(manager, operation, body, **options)
        assert frame["type"] == "error", frame
        error: dict[str, Any] = frame["error"]
        return error

    async def close(self) -> None:
        """Leaves the bus."""
        await self.nc.close()


def _encoded(body: object) -> bytes:
    if body is None:
        return b""
    return body if isinstance(body, bytes) else orjson.dumps(body)
