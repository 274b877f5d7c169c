"""Which call a message belongs to, and who owns the tasks: all open calls of one agent over its one connection."""

import asyncio
import contextvars
import itertools
import logging
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from pydantic import BaseModel

from aios._call import Call
from aios._link import Link
from aios._reply import reply, result_of
from aios._request import CALL_OPTIONS, CallOptions, Request, make_request
from aios._tool_host import ToolHost
from aios._tracing import Tracing, inherited_headers
from aios_proto.errors import AccessError, AiosError, BusUnavailable, InternalError, RequestTooLarge
from aios_proto.frames import Done
from aios_proto.headers import PROGRAM
from aios_proto.messages.syscall import CancelResult
from aios_proto.tokens import AgentToken

R = TypeVar("R")

HEADER_ROOM_BYTES: Final = 8192
"""Kept free of the bus's largest payload for headers, which count too."""

CANCEL_DEADLINE_S: Final = 10.0

TOOLS_TOKEN: Final = "tools"
"""The token below the process' inbox at which the tool manager asks it to run tools."""

log: Final = logging.getLogger("aios")

current_program: contextvars.ContextVar[str | None] = contextvars.ContextVar("aios_program", default=None)


class Exchange:
    """Makes calls and hands each what comes for it.

    Args:
        token: whose calls these are.
        program: of calls that name none.
        tracing: makes their spans.
    """

    def __init__(self, token: AgentToken, program: str, tracing: Tracing) -> None:
        self._token = token
        self._program = program
        self._tracing = tracing
        self._link: Link | None = None
        self._calls: dict[str, Call[object]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers = itertools.count()
        self.tools = ToolHost(self._replica, self, tracing)

    @property
    def opened(self) -> bool:
        """Whether there is a link, even one that is reconnecting now."""
        return self._link is not None

    async def open(self, link: Link, timeout_s: float) -> None:
        """Connects.

        Raises:
            AccessError: the bus does not let the agent in.
            BusUnavailable: no server answered in time.
        """
        await link.open(timeout_s)
        self._link = link

    async def close(self) -> None:
        """Lets go of all calls and disconnects. Calls that run go on in the kernel; who waits here gets an error."""
        await asyncio.sleep(0)  # what was made just now is sent first
        await self.tools.close()
        link, self._link = self._link, None
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for call in list(self._calls.values()):
            call.fail(BusUnavailable("the agent was closed before the call ended", retryable=False))
        if link is not None:
            await link.close()

    def call(
        self,
        manager: str,
        operation: str,
        body: Mapping[str, object] | BaseModel | None,
        decode: Callable[[Done, str | None], R],
        options: CallOptions,
        *,
        check: bool = False,
    ) -> Call[R]:
        """Makes a call and sends it.

        Raises:
            InvalidRequest: an option or, with `check`, a field of the body is wrong.
            RequestTooLarge: the body is larger than the bus carries.
            AccessError: the bus has begun to refuse the agent.
            BusUnavailable: the agent is not open.
        """
        unknown = options.keys() - CALL_OPTIONS
        if unknown:
            raise TypeError(f"not an option of a call: {', '.join(sorted(unknown))}")
        request = self._request(manager, operation, body, options, check=check)
        self._check_link(request)
        fields = body if isinstance(body, Mapping) else {}
        span = self._tracing.start(
            request.operation, request.call_id, request.headers[PROGRAM], fields.get("model"), fields.get("max_tokens")
        )
        context = span.headers if span is not None else inherited_headers()
        token = f"{next(self._numbers):x}"
        return self._start(token, Call(self, token, request, decode, span=span, context=context))

    def attach(
        self, call_id: str, text_offset: int, decode: Callable[[Done, str | None], R], options: CallOptions
    ) -> Call[R]:
        """Takes up a call that was made before, perhaps by another process of the same agent."""
        body = {"id": call_id, "text_offset": text_offset}
        request = self._request("syscall", "attach", body, options, check=True)
        self._check_link(request)
        token = f"{next(self._numbers):x}"
        call = Call(
            self,
            token,
            request,
            decode,
            context=inherited_headers(),
            attached_id=call_id,
            text_offset=text_offset,
        )
        return self._start(token, call)

    def _check_link(self, request: Request) -> None:
        if self._link is None:
            raise BusUnavailable("the agent is not connected: use `async with agent:` or `await agent.connect()`")
        if self._link.refusal is not None:
            raise AiosError.from_body(self._link.refusal.body())
        limit = self._link.max_payload_bytes
        if limit is not None and len(request.body) > limit - HEADER_ROOM_BYTES:
            raise RequestTooLarge(f"the body has {len(request.body)} bytes, the bus takes {limit}", field="body")

    def _start(self, token: str, call: Call[R]) -> Call[R]:
        self._calls[token] = call
        task = asyncio.create_task(call.run(), name=f"aios-call-{call.id}")
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("call %s could not be carried on", call.id, exc_info=error)
                call.fail(InternalError(f"the SDK failed: {error!r}"))

        task.add_done_callback(ended)
        return call

    def _replica(self) -> str:
        if self._link is None:
            raise BusUnavailable("the agent is not connected: use `async with agent:` or `await agent.connect()`")
        return self._link.replica

    async def request(self, operation: str, body: Mapping[str, object], deadline_s: float) -> object:
        """Makes a system call of the tool manager for the tools that are served here, and waits for its end."""
        return await self.call("tool", operation, body, reply, {"deadline_s": deadline_s})

    # What calls need (`aios._call.Line`).

    @property
    def connected(self) -> bool:
        """Whether something sent now leaves at once."""
        return self._link is not None and self._link.connected

    async def send(self, token: str, request: Request, context: dict[str, str]) -> None:
        """Publishes a request; its answers come back under the token.

        Raises:
            BusUnavailable: there is no connection now.
        """
        if self._link is None:
            raise BusUnavailable("the agent was closed")
        headers = {**request.headers, **context} if context else request.headers
        await self._link.publish(request.subject, self._link.reply_subject(token), headers, request.body)

    def attach_request(self, call_id: str, text_offset: int, deadline_s: float) -> Request:
        """A request for the frames of a call that runs."""
        body = {"id": call_id, "text_offset": text_offset}
        return self._request("syscall", "attach", body, {"deadline_s": deadline_s}, check=False)

    def _request(
        self,
        manager: str,
        operation: str,
        body: Mapping[str, object] | BaseModel | None,
        options: CallOptions,
        *,
        check: bool,
    ) -> Request:
        tenant, agent, program = self._token.tenant, self._token.agent, current_program.get() or self._program
        return make_request(tenant, agent, manager, operation, body, options, program=program, check=check)

    async def cancel(self, call_id: str) -> CancelResult:
        """Ends a call of this agent."""
        options: CallOptions = {"deadline_s": CANCEL_DEADLINE_S}
        return await self.call("syscall", "cancel", {"id": call_id}, result_of(CancelResult), options, check=True)

    def forget(self, token: str) -> None:
        """The call has ended: drop what still comes under its token."""
        self._calls.pop(token, None)

    # What the connection tells (`aios._link.Listener`).

    def on_message(self, token: str, data: bytes, status: str | None) -> None:
        """A message to the reply subject of that token."""
        if token == TOOLS_TOKEN:
            self.tools.receive(data)
            return
        call = self._calls.get(token)
        if call is not None:
            call.receive(data, status)

    def on_connected(self) -> None:
        """A new connection is up."""
        self.tools.reconnected()
        for call in list(self._calls.values()):
            call.reconnected()

    def on_refused(self, error: AccessError) -> None:
        """The bus goes on refusing the agent."""
        for call in list(self._calls.values()):
            call.fail(AiosError.from_body(error.body()))

    def on_denied(self, subject: str | None) -> None:
        """The bus refused a message for that subject, in lower case; None means replies cannot be received."""
        for call in list(self._calls.values()):
            call.denied(subject)
