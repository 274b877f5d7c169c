"""What happens to one `tool.call` from its arrival to its last frame; and to the same call sent twice.

A call id runs once: while it runs, a second message with it gets the same frames from there on; after its end it gets
the last frame again. For tools with effects that also holds when the manager is killed in between, by a claim on disk.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace

from nats.aio.msg import Msg
from pydantic import JsonValue

from aios_kit import replies
from aios_kit.service import Service
from aios_kit.tasks import Tasks
from aios_kit.tracing import Hop
from aios_proto import headers as wire
from aios_proto import subjects, telemetry
from aios_proto.decode import decode
from aios_proto.errors import (
    AiosError,
    BusUnavailable,
    DeadlineExceeded,
    InvalidRequest,
    ManagerUnavailable,
    QueueFull,
    SyscallCancelled,
    SyscallUnknown,
)
from aios_proto.headers import CallHeaders
from aios_proto.kernel import CallFact
from aios_proto.messages.syscall import CancelResult, ListResult, SyscallInfo, SyscallState
from aios_proto.messages.tool import ToolCallRequest, ToolSpec
from aios_tool.attempts import Attempts, Stop
from aios_tool.core import effects
from aios_tool.core.gate import Gate
from aios_tool.core.registry import Registry, Tool
from aios_tool.core.resources import claim_of
from aios_tool.settings import ToolSettings

OPERATION = "tool.call"
DEFAULT_DEADLINE_S = 120.0

SIGN_OF_LIFE_S = 10.0
"""A caller that hears nothing for twenty seconds asks again; an empty piece of progress tells it that the call runs."""

SECOND_LOOK_S = 0.5
"""A call that access has passed on may not be here yet when its cancel is: so long it is waited for."""

_REMEMBERED_BYTES = 64 << 20


@dataclass(eq=False)
class _Running:
    """A call that has not ended.

    Attributes:
        replies: everyone who asked for it under its id.
        task: serves it.
        tool: what it calls; None until that is found.
        arrived: Unix time in seconds.
        said: characters of progress so far.
        pieces: of progress so far.
        stop: whether it may still be cancelled.
        started: it has passed the gate.
        begun: its task answers it from now on, or has found that another manager does.
        harmless: it has not begun, or does no harm when it is begun again.
        at_gate: resolves when it may start.
    """

    headers: CallHeaders
    replies: list[str]
    task: "asyncio.Task[None] | None" = None
    tool: ToolSpec | None = None
    arrived: float = field(default_factory=time.time)
    said: int = 0
    pieces: int = 0
    stop: Stop = field(default_factory=Stop)
    started: bool = False
    harmless: bool = True
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    at_gate: "asyncio.Future[None] | None" = field(default=None, repr=False)


class Calls:
    """All calls of tools, open and lately ended.

    Args:
        service: the chassis.
        settings: limits.
        registry: the tools.
        attempts: runs them.
        ensure_active: raises BusUnavailable where another tool manager takes the calls now.
    """

    def __init__(
        self,
        service: Service,
        settings: ToolSettings,
        registry: Registry,
        attempts: Attempts,
        ensure_active: Callable[[], Awaitable[None]],
    ) -> None:
        self._service = service
        self._ensure_active = ensure_active
        self._settings = settings
        self._registry = registry
        self._attempts = attempts
        self._gate = Gate()
        self._tasks = Tasks(settings.tool_max_calls, service.log)
        self._running: dict[str, _Running] = {}
        self._awaited: dict[str, asyncio.Event] = {}
        self._ended: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._ended_bytes = 0

    def __len__(self) -> int:
        return len(self._running)

    async def drain(self, timeout_s: float) -> int:
        """Waits for the calls to end; those that do not are ended and their callers told. Returns how many."""
        return await self._tasks.drain(timeout_s)

    async def on_call(self, message: Msg) -> None:
        """Takes one `tool.call` from access."""
        try:
            headers = wire.from_kernel(message.headers)
        except AiosError as error:
            self._service.log.warning("a call without sound headers was dropped", error=error.message)
            return
        running = self._running.get(headers.key)
        if running is not None:
            if headers.reply not in running.replies:
                running.replies.append(headers.reply)
            await self._send(headers.reply, replies.delta(headers.id, 0, 0, running.said, ""))
            return
        ended = self._ended.get(headers.key)
        if ended is not None and ended[0] > time.monotonic():
            await self._send(headers.reply, ended[1])
            return
        try:
            await self._ensure_active()
        except BusUnavailable as error:
            await self._send(headers.reply, replies.failed(headers.id, error))
            return
        if len(self._running) >= self._settings.tool_max_calls:
            full = QueueFull(f"{len(self._running)} calls of tools are open", retry_after_s=1)
            await self._send(headers.reply, replies.failed(headers.id, full))
            return
        running = self._running[headers.key] = _Running(headers, [headers.reply])
        if (awaited := self._awaited.pop(headers.key, None)) is not None:
            awaited.set()
        running.task = await self._tasks.start(self._serve(running, message.data), OPERATION)

    async def give_signs_of_life(self) -> None:
        """Lets the callers of open calls know now and then that these are alive; cancel it to stop."""
        while True:
            await asyncio.sleep(SIGN_OF_LIFE_S)
            for running in list(self._running.values()):
                await self._progress(running, "")

    async def cancel(self, headers: CallHeaders, call_id: str) -> CancelResult:
        """Ends a call of the same agent; the tool is told. One whose tool has answered already ends as it says.

        Raises:
            SyscallUnknown: there is no such call (any more).
        """
        key = replace(headers, id=call_id).key
        if key not in self._running and key not in self._ended:
            await self._arrival(key)
        running = self._running.get(key)
        if running is not None:
            await running.begun.wait()  # a task that is cancelled before its first step answers nobody
            running = self._running.get(key)
        if running is None or running.task is None:
            if key in self._ended:
                return CancelResult(id=call_id, state="ended")
            raise SyscallUnknown(f"no call {call_id} of a tool is open", field="id")
        stop = running.stop
        if stop.settled and not stop.cancelled:
            return CancelResult(id=call_id, state="ended")
        if not stop.cancelled:  # a second one would disturb what the first began
            stop.cancelled = True
            running.task.cancel()
        possible = running.started and running.tool is not None and effects.has_effects(running.tool)
        return CancelResult(id=call_id, state=_state(running), effect="possible" if possible else None)

    def open_calls(self, headers: CallHeaders, limit: int) -> ListResult:
        """The calls of one agent that have not ended, the oldest first."""
        mine = [
            running
            for running in self._running.values()
            if (running.headers.tenant, running.headers.agent) == (headers.tenant, headers.agent)
        ]
        return ListResult(calls=[_shown(running) for running in mine[:limit]])

    async def _arrival(self, key: str) -> None:
        """Waits a moment for a call that access has passed on and that is not here yet."""
        awaited = self._awaited.setdefault(key, asyncio.Event())
        try:
            async with asyncio.timeout(SECOND_LOOK_S):
                await awaited.wait()
        except TimeoutError:
            if self._awaited.get(key) is awaited:
                del self._awaited[key]

    async def _serve(self, running: _Running, body: bytes) -> None:
        headers, begun = running.headers, time.monotonic()
        if headers.approval and not await self._service.may_begin(headers, OPERATION):
            del self._running[headers.key]
            running.begun.set()
            return
        running.begun.set()
        hop = self._service.tracing.hop(
            OPERATION,
            headers.traceparent,
            attributes={
                telemetry.SYSCALL_ID: headers.id,
                telemetry.TENANT: headers.tenant,
                telemetry.AGENT: headers.agent,
                telemetry.GEN_AI_OPERATION: "execute_tool",
            },
        )
        failure: AiosError | None = None
        deadline = asyncio.timeout(_seconds_left(headers))
        self._service.metrics.in_flight.inc()
        try:
            async with deadline:
                frame = await self._run(running, decode(ToolCallRequest, body), hop)
        except AiosError as error:
            failure = error
        except asyncio.CancelledError:
            failure = (
                _cancelled(running)
                if running.stop.cancelled
                else ManagerUnavailable("the tool manager stopped before the call ended", retryable=running.harmless)
            )
        except Exception as error:
            if isinstance(error, TimeoutError) and deadline.expired():
                failure = DeadlineExceeded("the tool did not end before the call's deadline")
            else:
                self._service.log.exception("a tool call failed", syscall_id=headers.id, trace_id=hop.trace_id)
                failure = replies.internal("tool")
        finally:
            self._service.metrics.in_flight.dec()
        if failure is not None:
            frame = replies.failed(headers.id, failure, trace_id=hop.trace_id)
        del self._running[headers.key]
        if not isinstance(failure, BusUnavailable):  # nothing has run then, and the caller sends the same id again
            self._remember(headers.key, frame)
        for reply in running.replies:
            await self._send(reply, frame)
        hop.end(failure)
        code = None if failure is None else failure.code
        self._service.metrics.calls.labels(OPERATION, code or "ok").inc()
        self._service.metrics.seconds.labels(OPERATION).observe(time.monotonic() - begun)
        await self._tell(headers, code, hop)

    async def _run(self, running: _Running, body: ToolCallRequest, hop: Hop) -> bytes:
        headers = running.headers
        tool = self._registry.find(headers.tenant, body.name)
        running.tool = tool.spec
        hop.set({telemetry.GEN_AI_TOOL_NAME: tool.spec.name, telemetry.TOOL_SOURCE: tool.record.source})
        fault = tool.input_schema.check(body.arguments, "arguments")
        if fault is not None:
            raise InvalidRequest(f"{fault[0]}: {fault[1]}", field=fault[0])
        await self._through_the_gate(running, tool, body.arguments)
        try:
            running.started, running.harmless = True, tool.spec.repeatable
            inside = replace(headers, traceparent=hop.traceparent)

            async def progress(text: str) -> None:
                await self._progress(running, text)

            return await self._attempts.run(inside, tool, body.arguments, progress, hop, running.stop)
        finally:
            self._leave(headers.key)

    async def _through_the_gate(self, running: _Running, tool: Tool, arguments: Mapping[str, JsonValue]) -> None:
        key = running.headers.key
        claim = claim_of(key, tool.record, running.headers.tenant, arguments)
        if self._gate.arrive(claim):
            return
        running.at_gate = asyncio.get_running_loop().create_future()
        try:
            await running.at_gate
        except BaseException:
            self._leave(key)
            raise

    def _leave(self, key: str) -> None:
        for started in self._gate.leave(key):
            waiting = self._running[started].at_gate if started in self._running else None
            if waiting is not None and not waiting.done():  # one that gave up is about to leave
                waiting.set_result(None)

    async def _progress(self, running: _Running, text: str) -> None:
        piece = replies.delta(running.headers.id, running.pieces, 0, running.said, text)
        running.pieces += 1
        running.said += len(text)
        for reply in running.replies:
            await self._send(reply, piece)

    async def _send(self, reply: str, frame: bytes) -> None:
        await self._service.lane.reply(reply, frame)

    def _remember(self, key: str, frame: bytes) -> None:
        now = time.monotonic()
        self._ended_bytes -= len(self._ended.pop(key, (0.0, b""))[1])
        self._ended[key] = (now + self._settings.tool_result_memory_s, frame)
        self._ended_bytes += len(frame)
        while self._ended:
            oldest, (until, kept) = next(iter(self._ended.items()))
            if until > now and self._ended_bytes <= _REMEMBERED_BYTES:
                return
            del self._ended[oldest]
            self._ended_bytes -= len(kept)

    async def _tell(self, headers: CallHeaders, code: str | None, hop: Hop) -> None:
        """Publishes the fact that the call has ended; holds no content."""
        fact = CallFact(
            id=headers.id,
            agent=headers.agent,
            operation=OPERATION,
            program=headers.program,
            code=code,
            trace_id=hop.trace_id,
            at_ms=time.time_ns() // 1_000_000,
        )
        kind = "syscall.completed" if code is None else "syscall.failed"
        await self._send(subjects.event(headers.tenant, kind), fact.model_dump_json(exclude_none=True).encode())


def _state(running: _Running) -> SyscallState:
    return "running" if running.started else "queued"


def _cancelled(running: _Running) -> SyscallCancelled:
    if running.started and running.tool is not None:
        return effects.cancelled(running.tool)
    return SyscallCancelled("the caller cancelled the call before it ran")


def _shown(running: _Running) -> SyscallInfo:
    headers, now = running.headers, time.time()
    name = "its tool" if running.tool is None else running.tool.name
    why = None if running.started else f"waits for other calls of {name}, or for what they read and write"
    return SyscallInfo(
        id=headers.id,
        operation=OPERATION,
        state=_state(running),
        program=headers.program or headers.agent,
        priority=headers.priority,
        deadline_ms=headers.deadline_ms or int((running.arrived + DEFAULT_DEADLINE_S) * 1000),
        age_s=round(max(0.0, now - running.arrived), 3),
        why=why,
    )


def _seconds_left(headers: CallHeaders) -> float:
    if headers.deadline_ms is None:
        return DEFAULT_DEADLINE_S
    return max(0.0, headers.deadline_ms / 1000 - time.time())
