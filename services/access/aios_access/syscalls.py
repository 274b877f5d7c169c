"""What happens to one system call at the first hop: who calls is found, it is decided on, and passed on or refused."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from nats.aio.msg import Msg
from opentelemetry.trace import SpanKind

from aios_access.audit_service import AuditService
from aios_access.charges import Charge
from aios_access.core import AccessCore, Admitted
from aios_access.passing import Passing, seconds_to
from aios_access.quota_guard import QuotaGuard
from aios_access.refusing import Refusing
from aios_access.routes import Route, Routes
from aios_access.taint_service import TaintService
from aios_access.waiting_calls import WaitingCalls
from aios_access.waits import Waiting
from aios_kit import replies
from aios_kit.service import Service
from aios_kit.tasks import Tasks
from aios_kit.tracing import Hop
from aios_proto import headers as wire
from aios_proto import telemetry
from aios_proto.errors import AiosError, BusUnavailable, DeadlineExceeded, QuotaExhausted
from aios_proto.names import is_syscall_id

UNREADABLE_ID = "unreadable"
"""The id in the error frame of a call whose own id could not be read."""

_LOOKUPS_AT_ONCE = 64
_LOOKUP_TIMEOUT_S = 2.0
_MAX_WAITING = 4096


class Syscalls:
    """Takes calls in, one after another; what must wait for something goes on in a task of its own.

    Args:
        service: the chassis.
        core: decides.
        quotas: takes calls' shares.
        audit: gets every decision.
        taint: what must be read anew before some calls are decided on.
        passing: sends on what may pass.
        waits: knows which calls wait for a quota.
        look_up: asks the store for an agent that is not known, by its key.
    """

    def __init__(
        self,
        service: Service,
        core: AccessCore,
        quotas: QuotaGuard,
        audit: AuditService,
        taint: TaintService,
        passing: Passing,
        waits: WaitingCalls,
        look_up: Callable[[str], Awaitable[None]],
    ) -> None:
        self._service = service
        self._core = core
        self._quotas = quotas
        self._audit = audit
        self._taint = taint
        self._passing = passing
        self._waits = waits
        self._refusing = Refusing(service, audit)
        self._look_up = look_up
        self._routes = Routes()
        self._lookups = Tasks(_LOOKUPS_AT_ONCE, service.log)
        self._waiting = Tasks(_MAX_WAITING, service.log)

    async def take(self, message: Msg) -> None:
        """Takes one call in."""
        route = self._routes.find(message.subject)
        if route is None:
            return
        wanted = self._taint.must_look(route.subject, message.headers, message.data)
        if wanted or not self._core.directory.has(route.agent_key):
            await self._lookups.start(self._look_up_first(route, message, wanted), "caller")
        else:
            await self._decide(route, message, None)

    async def drain(self, timeout_s: float) -> None:
        """Waits for the calls under way."""
        await self._lookups.drain(_LOOKUP_TIMEOUT_S)
        await self._waiting.drain(timeout_s)

    async def _look_up_first(self, route: Route, message: Msg, wanted: list[str]) -> None:
        if not self._core.directory.has(route.agent_key):
            await self._look_up(route.agent_key)
        unread: BusUnavailable | None = None
        try:
            await self._taint.look(wanted)
        except BusUnavailable as error:
            unread = error
        await self._decide(route, message, unread)

    async def _decide(self, route: Route, message: Msg, unread: BusUnavailable | None) -> None:
        """Decides on a call; `unread` is why something could not be read without which nothing may be allowed."""
        now_us = time.time_ns() // 1000
        body, raw = message.data, message.headers
        hop = self._service.tracing.hop(
            telemetry.SPAN_ACCESS, raw.get(wire.TRACEPARENT) if raw else None, kind=SpanKind.SERVER
        )
        if hop.recording:
            hop.set(_attributes(route, message))
        try:
            self._audit.ensure_room()
            admitted = self._core.admit(route, message.reply, raw, body, now_us, time.monotonic())
            if unread is not None:
                raise unread
            if self._waits.has_any and await self._waits.joined(admitted):
                hop.end()
                return
            charge = self._quotas.charge(admitted.identity, admitted.operation, admitted.headers, body, now_us / 1e6)
            if charge is not None and not charge.complete and len(self._waiting) >= _MAX_WAITING:
                raise QuotaExhausted("too many calls wait for their quotas", retry_after_s=1)
        except AiosError as refusal:
            await self._refusing.refuse(route.subject, message.reply, _readable_id(message), refusal, hop, len(body))
            return
        except Exception:
            call_id = _readable_id(message)
            self._service.log.exception("access failed", syscall_id=call_id, trace_id=hop.trace_id)
            failure = replies.internal("access")
            await self._refusing.refuse(route.subject, message.reply, call_id, failure, hop, len(body))
            return
        if charge is None:
            await self._passing.pass_on(admitted, body, hop, now_us)
        elif charge.complete:
            await self._passing.pass_on(_charged(admitted, charge), body, hop, now_us)
        else:
            waiting = self._waits.begin(admitted, charge, now_us)
            await self._waiting.start(self._pass_on_when_due(route, waiting, body, hop), "waits for quota")

    async def _pass_on_when_due(self, route: Route, waiting: Waiting, body: bytes, hop: Hop) -> None:
        error: AiosError | None = None
        try:
            await self._wait(route, waiting, body)
            if waiting.outcome in (None, "passed"):
                self._judge_again(route, waiting, body)
        except AiosError as refused:
            error = refused
        except Exception:
            self._service.log.exception("access failed", syscall_id=waiting.admitted.headers.id, trace_id=hop.trace_id)
            error = replies.internal("access")
        # Whoever takes a call out of those that wait decides on it; nothing is awaited between its share and this.
        self._waits.end(waiting)
        if isinstance(waiting.outcome, AiosError):
            error = waiting.outcome
        if waiting.charge.complete and (error is not None or waiting.was_given_up()):
            self._quotas.cancel(waiting.charge)
        await self._waits.tell_over(waiting, passed=not waiting.was_given_up() and error is None)
        if error is not None:
            await self._refuse(waiting, error, hop, len(body))
        elif waiting.outcome == "joined":
            hop.end()
        else:
            # What another replica let pass is answered here too, and has been charged there.
            if not waiting.was_given_up():
                waiting.admitted = _charged(waiting.admitted, waiting.charge)
            await self._passing.pass_on(waiting.admitted, body, hop, time.time_ns() // 1000)
            for copy in waiting.copies():
                await self._passing.pass_on(copy, body, Hop(hop.traceparent), time.time_ns() // 1000)

    def _judge_again(self, route: Route, waiting: Waiting, body: bytes) -> None:
        """Decides on a call that has waited as if it came now: rights may have been taken from its agent meanwhile.

        Raises:
            AiosError: why it may not pass any more.
        """
        self._audit.ensure_room()
        waiting.admitted = self._core.admit_again(waiting.admitted, route, body, time.monotonic())

    async def _wait(self, route: Route, waiting: Waiting, body: bytes) -> None:
        """Returns when a call has its share and can be judged, or was given up; see its `outcome`.

        Raises:
            AiosError: the quota refuses it, or its deadline has passed, or what it is judged by cannot be read.
        """
        if waiting.was_given_up():
            return
        waiting.task = task = asyncio.current_task()
        assert task is not None
        try:
            async with asyncio.timeout(max(0.001, seconds_to(waiting.admitted.headers.deadline_ms))):
                await self._quotas.wait(waiting.charge, lambda: self._waits.tell(waiting))
                headers = waiting.admitted.headers
                raw = {wire.PROGRAM: headers.program} if headers.program else None
                if wanted := self._taint.must_look(route.subject, raw, body):
                    await self._taint.look(wanted)
        except TimeoutError as error:
            raise DeadlineExceeded("the deadline passed while the call waited for its quota") from error
        except asyncio.CancelledError:
            if not waiting.was_given_up():
                raise
            task.uncancel()

    async def _refuse(self, waiting: Waiting, error: AiosError, hop: Hop, size: int) -> None:
        trace_id = hop.trace_id
        await self._refusing.refuse_admitted(waiting.admitted, error, hop, size)
        for inbox in waiting.inboxes:
            frame = replies.failed(waiting.admitted.headers.id, error, trace_id=trace_id)
            await self._service.lane.reply(inbox, frame)


def _charged(admitted: Admitted, charge: Charge) -> Admitted:
    """The call with what it may use; it is a copy where another delivery of its id was charged and is open."""
    headers, is_copy = admitted.headers, not charge.call
    if charge.budget_tokens is not None and admitted.decision.effect != "ask":
        headers = replace(headers, budget_tokens=charge.budget_tokens)
    elif not is_copy:  # a parked call runs on another day's quota
        return admitted
    return replace(admitted, headers=headers, is_copy=is_copy)


def _attributes(route: Route, message: Msg) -> dict[str, str | int | float | bool]:
    subject = route.subject
    return {
        telemetry.SYSCALL_ID: _readable_id(message),
        telemetry.TENANT: subject.tenant,
        telemetry.AGENT: subject.agent,
        telemetry.SYSCALL_OPERATION: f"{subject.manager}.{subject.operation}"[:64],
    }


def _readable_id(message: Msg) -> str:
    call_id = (message.headers or {}).get(wire.ID, "")
    return call_id if is_syscall_id(call_id) else UNREADABLE_ID
