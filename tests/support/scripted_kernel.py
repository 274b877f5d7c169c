"""A kernel that does as a test says: the other side of the wire, for tests of clients.

It reads system calls where access would, checks their form as access does, and hands each to the test's own handler or
to the queue `calls`.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import nats
import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from support.nats_server import settle

from aios_proto import headers, subjects
from aios_proto.errors import AiosError
from aios_proto.headers import CallHeaders

TIMEOUT_S = 10.0


@dataclass
class ScriptedCall:
    """One message the kernel received."""

    client: Client
    subject: subjects.SyscallSubject
    headers: CallHeaders
    body: dict[str, Any]
    reply: str

    @property
    def operation(self) -> str:
        return f"{self.subject.manager}.{self.subject.operation}"

    async def frame(self, kind: str, call_id: str | None = None, **fields: Any) -> None:
        """Sends one frame, by default under the call's own id."""
        frame = {"type": kind, "id": call_id or self.headers.id, **fields}
        await self.client.publish(self.reply, orjson.dumps(frame))

    async def accepted(self, trace_id: str | None = None) -> None:
        await self.frame("accepted", trace_id=trace_id)

    async def delta(self, text_offset: int, text: str, *, offset: int = 0, call_id: str | None = None) -> None:
        await self.frame("delta", call_id, offset=offset, tokens=1, text_offset=text_offset, text=text)

    async def done(self, result: Mapping[str, Any], call_id: str | None = None, **fields: Any) -> None:
        await self.frame("done", call_id, result=result, **fields)

    async def chat_done(self, text: str, call_id: str | None = None) -> None:
        """The end of a chat call whose answer is `text`."""
        result = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop", "model": "scripted"}
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "cached_tokens": 1}
        timings = {"queued_ms": 1.0, "scheduled_ms": 2.0, "first_token_ms": 3.0, "total_ms": 4.0}
        await self.done(result, call_id, usage=usage, timings=timings, worker="w1")

    async def error(self, error: AiosError, call_id: str | None = None) -> None:
        body = error.body(syscall_id=call_id or self.headers.id)
        await self.frame("error", call_id, error=body.model_dump(mode="json"))

    async def stream(self, *pieces: str) -> None:
        """Accepts the call, streams the pieces and ends it."""
        await self.accepted()
        at = 0
        for number, piece in enumerate(pieces):
            await self.delta(at, piece, offset=number)
            at += len(piece)
        await self.chat_done("".join(pieces))


Handler = Callable[[ScriptedCall], Awaitable[None]]


@dataclass
class ScriptedKernel:
    """Answers system calls by handlers named after operations, such as `llm.chat`; others wait in `calls`."""

    client: Client
    handlers: dict[str, Handler] = field(default_factory=dict)
    calls: "asyncio.Queue[ScriptedCall]" = field(default_factory=asyncio.Queue)
    received: list[ScriptedCall] = field(default_factory=list)
    faults: list[Exception] = field(default_factory=list)

    async def next(self, operation: str) -> ScriptedCall:
        """The next call without a handler; it must be of that operation."""
        async with asyncio.timeout(TIMEOUT_S):
            call = await self.calls.get()
        assert call.operation == operation, f"got {call.operation}, expected {operation}"
        return call

    async def on_message(self, message: Msg) -> None:
        subject = subjects.parse_syscall(message.subject)
        assert subject is not None
        try:
            parsed = headers.from_agent(message.headers)
            assert subjects.is_own_inbox(message.reply, subject.tenant, subject.agent), message.reply
            call = ScriptedCall(self.client, subject, parsed, orjson.loads(message.data), message.reply)
            self.received.append(call)
            handler = self.handlers.get(call.operation)
            if handler is None:
                self.calls.put_nowait(call)
            else:
                await handler(call)
        except Exception as error:  # the test looks at it when it ends
            self.faults.append(error)
            raise


@contextlib.asynccontextmanager
async def scripted_kernel(url: str, **options: Any) -> AsyncIterator[ScriptedKernel]:
    """A kernel on that server; it is back by itself when the server was restarted."""

    async def quiet(_: Exception) -> None: ...

    client = await nats.connect(
        url, max_reconnect_attempts=-1, reconnect_time_wait=0.05, error_cb=quiet, name="scripted kernel", **options
    )
    kernel = ScriptedKernel(client)
    await client.subscribe(subjects.ALL_SYSCALLS, queue=subjects.SYSCALL_QUEUE_GROUP, cb=kernel.on_message)
    await settle(client)
    try:
        yield kernel
    finally:
        await client.close()
    assert not kernel.faults, kernel.faults
