"""Tools that agents serve: how an invocation reaches one of their processes, and how its death is noticed.

An invocation goes to `_INBOX.<tenant>.<agent>.<replica>.tools`, where only that process listens. The manager chooses
the process with the fewest of its calls, instead of leaving it to a queue group, because it must know which one to
cancel and whose death ends which call. Every message has a reply subject of our own, at which the bus answers at once
where nobody listens any more ("no responders"): so a process that was killed is noticed with the next ping, and a call
that was never delivered goes to another process without any risk. Results come as the system call `tool.result`.
"""

import asyncio
import itertools
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from pydantic import JsonValue

from aios_proto import subjects
from aios_proto.errors import AccessDenied, BusUnavailable, InvalidRequest, ToolFailed
from aios_proto.headers import CallHeaders
from aios_proto.messages.tool import ToolResultRequest
from aios_tool.core.registry import Tool
from aios_tool.ports import Attempt, NotStarted, OwnerLost, Progress

_NO_RESPONDERS = "503"


@dataclass(eq=False)
class _Open:
    """An invocation on its way.

    Attributes:
        replica: process it was given to.
        answer: resolves to the content, or raises.
    """

    attempt: Attempt
    replica: str
    progress: Progress
    answer: "asyncio.Future[JsonValue]" = field(repr=False)


class AgentRunner:
    """Runs tools in the processes of the agents that registered them.

    Args:
        lost: told of a process of a tool that is gone.
        ping_s: seconds between looks whether the process of an open invocation lives.
    """

    def __init__(self, lost: Callable[[Tool, str], Awaitable[None]], ping_s: float) -> None:
        self._lost = lost
        self._ping_s = ping_s
        self._nc: Client | None = None
        self._inbox = f"{subjects.service_inbox_prefix('tool')}.owner.{secrets.token_hex(6)}."
        self._numbers = itertools.count(1)
        self._prefix = secrets.token_hex(6)
        self._open: dict[str, _Open] = {}
        self._load: dict[tuple[str, str, str], int] = {}
        self._any_open = asyncio.Event()

    async def open(self, nc: Client) -> None:
        """Listens for what the bus says about processes that are gone."""
        self._nc = nc
        await nc.subscribe(self._inbox + "*", cb=self._on_status)

    async def watch(self) -> None:
        """Looks after the processes of open invocations, for ever; cancel it to stop."""
        while True:
            await self._any_open.wait()
            await asyncio.sleep(self._ping_s)
            for name, invocation in list(self._open.items()):
                await self._send(invocation, name, {"type": "ping", "invocation": name})
            if not self._open:
                self._any_open.clear()

    async def run(self, attempt: Attempt, progress: Progress) -> JsonValue:
        """See `Runner.run`."""
        tried: set[str] = set()
        while True:
            replica = self._choose(attempt.tool, tried)
            if replica is None:
                raise NotStarted
            tried.add(replica)
            try:
                return await self._run_at(replica, attempt, progress)
            except NotStarted:
                await self._lost(attempt.tool, replica)
            except OwnerLost:
                await self._lost(attempt.tool, replica)
                raise

    async def result(self, headers: CallHeaders, body: ToolResultRequest) -> bool:
        """Takes what a process says about an invocation; returns whether it was waited for.

        Raises:
            AccessDenied: the invocation was given to another agent.
            InvalidRequest: it says several things at once.
        """
        if len(body.model_fields_set & {"content", "fault", "progress", "unknown"}) > 1:
            raise InvalidRequest("give one of content, fault, progress and unknown", field="content")
        invocation = self._open.get(body.invocation)
        if invocation is None or invocation.answer.done():
            return False
        record = invocation.attempt.tool.record
        if (headers.tenant, headers.agent) != (record.tenant, record.owner):
            raise AccessDenied("this invocation was not given to this agent", field="invocation")
        if body.progress is not None:
            await invocation.progress(body.progress)
        elif body.fault is not None:
            fault = body.fault
            invocation.answer.set_exception(ToolFailed(fault.message, retryable=fault.retryable, field=fault.field))
        elif body.unknown:
            invocation.answer.set_exception(NotStarted())
        else:
            invocation.answer.set_result(body.content)
        return True

    def _choose(self, tool: Tool, tried: set[str]) -> str | None:
        """The process that has the fewest of our calls, of those not tried yet."""
        owner = (tool.record.tenant, tool.record.owner)
        left = [replica for replica in tool.record.replicas if replica not in tried]
        return min(left, key=lambda replica: self._load.get((*owner, replica), 0), default=None)

    async def _run_at(self, replica: str, attempt: Attempt, progress: Progress) -> JsonValue:
        record = attempt.tool.record
        place = (record.tenant, record.owner, replica)
        name = f"{self._prefix}-{next(self._numbers)}"
        answer: asyncio.Future[JsonValue] = asyncio.get_running_loop().create_future()
        invocation = self._open[name] = _Open(attempt, replica, progress, answer)
        self._load[place] = self._load.get(place, 0) + 1
        self._any_open.set()
        try:
            await self._send(
                invocation,
                name,
                {
                    "type": "call",
                    "invocation": name,
                    "tool": record.tool.name,
                    "arguments": attempt.arguments,
                    "deadline_ms": int((time.time() + attempt.timeout_s) * 1000),
                    "call_id": attempt.call.key,
                    "fencing_token": attempt.fencing_token,
                    "traceparent": attempt.call.traceparent,
                },
            )
            return await answer
        finally:
            del self._open[name]
            self._load[place] -= 1
            if not self._load[place]:
                del self._load[place]
            if answer.done() and not answer.cancelled():
                answer.exception()  # seen, also where the wait was given up at the same moment
            else:
                await self._send(invocation, name, {"type": "cancel", "invocation": name})

    async def _send(self, invocation: _Open, name: str, message: dict[str, object]) -> None:
        nc = self._nc
        record = invocation.attempt.tool.record
        kind = message["type"]
        if nc is None or not nc.is_connected:
            if kind == "call":
                raise BusUnavailable("the bus is not connected")
            return
        subject = subjects.tool_replica(record.tenant, record.owner, invocation.replica)
        reply = "" if kind == "cancel" else f"{self._inbox}{kind}-{name}"
        try:
            await nc.publish(subject, orjson.dumps(message), reply)
        except NatsError as error:
            if kind == "call":
                raise BusUnavailable(f"the bus did not take the invocation: {error}") from error

    async def _on_status(self, message: Msg) -> None:
        if (message.headers or {}).get("Status") != _NO_RESPONDERS:
            return
        kind, _, name = message.subject[len(self._inbox) :].partition("-")
        invocation = self._open.get(name)
        if invocation is None or invocation.answer.done():
            return
        invocation.answer.set_exception(NotStarted() if kind == "call" else OwnerLost())
