"""Calls of an agent to the context manager as access would forward them, and workers that count and answer."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from support.nats_server import NatsServer, settle
from support.running_service import InProcess

from aios_kit.kernel_calls import KernelCalls
from aios_kit.settings import ServiceSettings
from aios_kit.tracing import Tracing
from aios_proto import headers as wire
from aios_proto.headers import CallHeaders
from aios_proto.messages.base import Result
from aios_proto.messages.context import ContextInfo, ContextResult
from aios_proto.operations import OPERATIONS

R = TypeVar("R", bound=Result)
StartContexts = Callable[..., contextlib.AbstractAsyncContextManager[InProcess]]


class ContextCaller:
    """One agent's calls to the context manager."""

    def __init__(self, calls: KernelCalls, agent: str = "alice", tenant: str = "acme") -> None:
        self._calls = calls
        self._behalf = CallHeaders(id="outer", program="run", tenant=tenant, agent=agent, group="agent")

    def as_agent(self, agent: str, tenant: str = "acme") -> "ContextCaller":
        """Another agent on the same connection."""
        return ContextCaller(self._calls, agent, tenant)

    async def call(
        self, operation: str, result: type[R], *, call_id: str | None = None, deadline_s: float = 15, **body: Any
    ) -> R:
        """Makes one call; `body` are the fields of its request.

        Raises:
            AiosError: what the manager answered.
        """
        request = OPERATIONS["context", operation].request.model_validate(body)
        return await self._calls.call(
            "context", operation, request, result, on_behalf=self._behalf, call_id=call_id, deadline_s=deadline_s
        )

    async def open(self, *texts: str, call_id: str | None = None, **body: Any) -> ContextInfo:
        """A new context with these turns."""
        return await self.call("open", ContextInfo, call_id=call_id, messages=said(*texts), **body)

    async def append(self, context: str, *texts: str, call_id: str | None = None, **body: Any) -> ContextInfo:
        """Turns at the end."""
        return await self.call("append", ContextInfo, call_id=call_id, context=context, messages=said(*texts), **body)

    async def texts(self, context: str, **body: Any) -> list[str | None]:
        """What the turns say."""
        read = await self.call("get", ContextResult, context=context, **body)
        return [message.content for message in read.messages]


def said(*texts: str) -> list[dict[str, str]]:
    """Turns of the user; a text that begins with `s:` is the system's, with `a:` the assistant's."""
    roles = {"s:": "system", "a:": "assistant"}
    return [{"role": roles.get(text[:2], "user"), "content": text} for text in texts]


@contextlib.asynccontextmanager
async def context_caller(server: NatsServer) -> AsyncIterator[ContextCaller]:
    """A caller with a connection of its own; it comes back by itself when the server was restarted."""

    async def quiet(_: Exception) -> None: ...

    nc = await server.connect(error_cb=quiet)
    settings = ServiceSettings(nats_url=server.url)
    calls = KernelCalls("gateway", Tracing("gateway", settings))
    await calls.open(nc)
    await settle(nc)
    try:
        yield ContextCaller(calls)
    finally:
        await nc.close()


@dataclass
class ScriptedLlm:
    """Answers `llm.tokenize` and `llm.chat` on the kernel's subjects.

    A token is a word; the template adds two tokens to a turn and three to a prompt.

    Attributes:
        counted: texts it was asked to count, one list a call.
        asked: bodies of the chat calls.
        priorities: of the chat calls.
        answer: makes an answer from the body of a chat call; one that waits can be held open.
    """

    nc: Client
    max_input_tokens: int = 8192
    counted: list[list[str]] = field(default_factory=list)
    asked: list[dict[str, object]] = field(default_factory=list)
    priorities: list[int] = field(default_factory=list)
    answer: Callable[[dict[str, object]], str] = lambda _: "a short summary"
    answering: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def on_tokenize(self, message: Msg) -> None:
        texts = orjson.loads(message.data)["texts"]
        self.counted.append(texts)
        await self._reply(
            message,
            {
                "counts": [len(text.split()) for text in texts],
                "turn_overhead_tokens": 2,
                "prompt_overhead_tokens": 3,
                "max_input_tokens": self.max_input_tokens,
                "max_total_tokens": self.max_input_tokens,
                "model": "scripted",
            },
        )

    async def on_chat(self, message: Msg) -> None:
        task = asyncio.ensure_future(self._chat(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _chat(self, message: Msg) -> None:
        headers, body = wire.from_kernel(message.headers), orjson.loads(message.data)
        self.asked.append(body)
        self.priorities.append(headers.priority)
        await self.answering.wait()
        answer = {"role": "assistant", "content": self.answer(body)}
        await self._reply(message, {"message": answer, "finish_reason": "stop", "model": "scripted"})

    async def _reply(self, message: Msg, result: dict[str, object]) -> None:
        headers = wire.from_kernel(message.headers)
        await self.nc.publish(headers.reply, orjson.dumps({"type": "done", "id": headers.id, "result": result}))


@contextlib.asynccontextmanager
async def scripted_llm(server: NatsServer) -> AsyncIterator[ScriptedLlm]:
    """Workers of one model, until the block ends; they answer at once."""
    nc = await server.connect()
    llm = ScriptedLlm(nc)
    llm.answering.set()
    await nc.subscribe("aios.k.llm.tokenize", cb=llm.on_tokenize)
    await nc.subscribe("aios.k.llm.chat", cb=llm.on_chat)
    await settle(nc)
    try:
        yield llm
    finally:
        await nc.close()
