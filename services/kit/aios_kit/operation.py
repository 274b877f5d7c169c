"""What one call to a served operation gets for an answer: its result, or the error that says why not; never silence."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import orjson
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from aios_kit import replies
from aios_kit.lane import Lane
from aios_kit.logs import Log
from aios_kit.metrics import Metrics
from aios_kit.tracing import Tracing
from aios_proto import headers as wire
from aios_proto import subjects, telemetry
from aios_proto.decode import decode
from aios_proto.errors import AiosError, DeadlineExceeded, InternalError
from aios_proto.limits import BUS_MAX_PAYLOAD_BYTES
from aios_proto.messages.base import Body, Result

B = TypeVar("B", bound=Body)

# An operation's own work ends at the call's deadline; one that came without gets this many seconds.
_DEFAULT_DEADLINE_S = 30.0


@dataclass(frozen=True, slots=True)
class Call(Generic[B]):
    """One call as an operation's handler sees it; its `traceparent` is the handler's own span."""

    headers: wire.CallHeaders
    body: B


class Answering(Generic[B]):
    """Decodes the calls of one operation, has them handled, and answers.

    Args:
        role: the service, for the message of an unforeseen failure.
        name: the operation with its manager, such as `memory.add`.
        request: model of the body.
        handler: does the work; what it raises becomes the `error` frame.
        tracing: makes one span a call.
        metrics: counts outcomes and durations.
        log: gets the cause of unforeseen failures.
        may_begin: whether this is the first to run an approved call; None where none is to be run.
        ensure_active: raises where another instance does this work now; None where any may.
    """

    def __init__(
        self,
        role: str,
        name: str,
        request: type[B],
        handler: Callable[[Call[B]], Awaitable[Result]],
        tracing: Tracing,
        metrics: Metrics,
        log: Log,
        may_begin: Callable[[wire.CallHeaders, str], Awaitable[bool]] | None = None,
        ensure_active: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._role = role
        self._ensure_active = ensure_active
        self._may_begin = may_begin
        self._name = name
        self._request = request
        self._handler = handler
        self._tracing = tracing
        self._metrics = metrics
        self._log = log

    async def answer(self, lane: Lane, message: Msg) -> None:
        """Works on one call until its deadline and sends its last frame, whatever happens."""
        name = self._name
        started = time.monotonic()
        try:
            headers = wire.from_kernel(message.headers)
        except AiosError as error:
            # Access writes every call's headers: this came from nobody who could be answered.
            self._log.warning("a call without sound headers was dropped", operation=name, error=error.message)
            return
        if headers.approval and not (self._may_begin is not None and await self._may_begin(headers, name)):
            return
        hop = self._tracing.hop(
            name,
            headers.traceparent,
            attributes={
                telemetry.SYSCALL_ID: headers.id,
                telemetry.TENANT: headers.tenant,
                telemetry.AGENT: headers.agent,
            },
        )
        failure: AiosError | None = None
        untrusted = False
        self._metrics.in_flight.inc()
        deadline = asyncio.timeout(_seconds_left(headers))
        try:
            if _seconds_left(headers) <= 0:
                raise DeadlineExceeded(f"{name} could not begin before the call's deadline")
            async with deadline:
                if self._ensure_active is not None:
                    await self._ensure_active()
                inside = replace(headers, traceparent=hop.traceparent)
                result = await self._handler(Call(inside, decode(self._request, message.data)))
            untrusted = getattr(result, "untrusted", False) is True
            frame = replies.done(headers.id, result)
            if len(frame) > BUS_MAX_PAYLOAD_BYTES:
                raise InternalError(f"the result has {len(frame)} bytes, the bus carries {BUS_MAX_PAYLOAD_BYTES}")
        except AiosError as error:
            failure = error
        except Exception as error:
            if isinstance(error, TimeoutError) and deadline.expired():
                failure = DeadlineExceeded(f"{name} did not end before the call's deadline")
            else:
                self._log.exception("operation failed", operation=name, syscall_id=headers.id, trace_id=hop.trace_id)
                failure = replies.internal(self._role)
        finally:
            self._metrics.in_flight.dec()
        if failure is not None:
            frame = replies.failed(headers.id, failure, trace_id=hop.trace_id)
        await lane.reply(headers.reply, frame)
        if not headers.reply.startswith(subjects.SERVICE_INBOXES):
            await self._say_ended(lane, headers, failure, hop.trace_id, untrusted=untrusted)
        hop.end(failure)
        self._metrics.calls.labels(name, "ok" if failure is None else failure.code).inc()
        self._metrics.seconds.labels(name).observe(time.monotonic() - started)

    async def _say_ended(
        self, lane: Lane, headers: wire.CallHeaders, failure: AiosError | None, trace_id: str | None, *, untrusted: bool
    ) -> None:
        """Tells access, which accounts for every call."""
        end: dict[str, str | int | bool] = {
            "key": headers.key,
            "operation": self._name,
            "at_us": time.time_ns() // 1000,
        }
        if failure is not None:
            end["code"] = failure.code
        if headers.program is not None:
            end["program"] = headers.program
        if trace_id is not None:
            end["trace_id"] = trace_id
        if untrusted:
            end["untrusted"] = True
        with suppress(NatsError):  # the connection is away: the call's decision stands in the log, its end does not
            await lane.publish(subjects.CALL_ENDED, orjson.dumps(end))


def _seconds_left(headers: wire.CallHeaders) -> float:
    if headers.deadline_ms is None:
        return _DEFAULT_DEADLINE_S
    return max(0.0, headers.deadline_ms / 1000 - time.time())
