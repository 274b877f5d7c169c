"""Parked calls on the bus: kept in the bucket `AIOS_APPROVALS`, shown, decided, sent on, redeemed, told, timed out."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

from nats.aio.msg import Msg

from aios_access import approvals
from aios_access.adapters.kv_parked_calls import KvParkedCalls
from aios_access.approvals import Action, Parked
from aios_access.audit_service import AuditService
from aios_access.core import AccessCore, Admitted
from aios_access.directory import Identity
from aios_access.parked_sending import ParkedSending
from aios_access.settings import AccessSettings
from aios_kit import replies
from aios_kit.service import Call, Service
from aios_kit.tasks import Tasks, end
from aios_proto import headers as wire
from aios_proto import subjects
from aios_proto.decode import decode
from aios_proto.errors import (
    AiosError,
    ApprovalDenied,
    BusUnavailable,
    QueueFull,
    ResourceConflict,
    ResourceNotFound,
    SyscallCancelled,
)
from aios_proto.headers import CallHeaders
from aios_proto.kernel import CallEnd, RedeemRequest, RedeemResult
from aios_proto.messages.access import (
    ApprovalDecision,
    ApprovalInfo,
    ApprovalListRequest,
    ApprovalListResult,
)
from aios_proto.messages.syscall import CancelResult, SyscallInfo
from aios_proto.operations import OPERATIONS, Operation

_QUEUE = "access-approvals"
_AT_ONCE = 64
_TRIES = 5
_QUEUED = "AIOS_SYSCALLS"
_ENDED = "ended"
_STEP_TIMEOUT_S = 30.0
_QUEUEING_S = 0.2
_OPEN = ("pending", "approved")


class ApprovalService:
    """Carries out what `aios_access.approvals` decides.

    Args:
        service: the chassis.
        settings: how long and how many.
        core: decides who manages whom, and decides again before a call is let pass.
        caller: who makes a call.
        audit: gets every step.
        passed: awaited with each call that goes on; gives the headers it goes on with.
    """

    def __init__(
        self,
        service: Service,
        settings: AccessSettings,
        core: AccessCore,
        caller: Callable[[CallHeaders], Awaitable[Identity]],
        audit: AuditService,
        passed: Callable[[CallHeaders, Operation, bytes], Awaitable[CallHeaders]],
    ) -> None:
        self._service = service
        self._settings = settings
        self._core = core
        self._caller = caller
        self._audit = audit
        self._sending = ParkedSending(service, settings.access_default_deadline_s, passed)
        self._calls: KvParkedCalls | None = None
        self._steps = Tasks(_AT_ONCE, service.log)
        self._starting: set[asyncio.Future[asyncio.Task[None]]] = set()
        self._timer: asyncio.Task[None] | None = None
        audit.on_end(self._heard_end)
        service.serve("access", "approvals", self._list)
        service.serve("access", "approve", self._approve)
        service.serve("access", "deny", self._deny)

    @property
    def calls(self) -> KvParkedCalls:
        """The parked calls; only after `open`."""
        if self._calls is None:
            msg = "the approvals are not open yet"
            raise RuntimeError(msg)
        return self._calls

    async def open(self) -> None:
        """Takes up what is parked and begins to watch."""
        service, settings = self._service, self._settings
        self._calls = await KvParkedCalls.open(
            service.js, settings.jetstream_replicas, service.log, settings.request_timeout_s
        )
        await service.lane.subscribe(subjects.REDEEM_APPROVAL, self._on_redeem, queue=_QUEUE)
        self._timer = asyncio.create_task(self._keep_time(), name="approvals")

    async def restart(self) -> None:
        """Watches anew, as after a lost connection."""
        if self._calls is not None:
            await self._calls.restart()

    async def close(self) -> None:
        """Ends what is under way; the rest another replica or the next start takes up."""
        if self._timer is not None:
            await end(self._timer)
        await self._steps.drain(1.0)
        if self._calls is not None:
            await self._calls.stop()

    async def park(self, admitted: Admitted, body: bytes) -> None:
        """Keeps a call until a human has decided, and tells its caller so.

        Raises:
            QueueFull: as many calls of its tenant wait as may.
            ApprovalDenied: the same call was refused before.
            ResourceConflict: the same call runs already.
            BusUnavailable: it could not be stored.
        """
        headers, name = admitted.headers, admitted.operation.full_name
        waiting = sum(known.tenant == headers.tenant and known.state == "pending" for known in self.calls.all())
        if waiting >= self._settings.access_approvals_per_tenant:
            raise QueueFull(f"{waiting} calls of this tenant wait for a human already", retry_after_s=60)
        fresh = approvals.parked(
            headers,
            name,
            body,
            why=", ".join(admitted.decision.policies),
            durable=admitted.operation.durability == "durable",
            keeps_deadline=admitted.own_deadline,
            now_ms=_now_ms(),
            timeout_s=self._settings.access_approval_timeout_s,
        )
        known = await self._keep(fresh, headers, name, body)
        frame = replies.pending_approval(headers.id, known.approval_id, known.expires_ms)
        await self._service.lane.reply(headers.reply, frame)

    async def _keep(self, fresh: Parked, headers: CallHeaders, name: str, body: bytes) -> Parked:
        for _ in range(_TRIES):
            try:
                await self.calls.put(fresh, 0)
            except ResourceConflict:
                pass
            else:
                self._audit.trail.approval(headers, fresh.approval_id, "pending")
                return fresh
            found = await self.calls.read(fresh.key)
            if found is None:
                continue
            again = approvals.asked_again(found[0], headers, name, body)
            with suppress(ResourceConflict):
                await self.calls.put(again, found[1])
                return again
        raise BusUnavailable("the parked call changes too fast to be read", retry_after_s=1)

    # What humans do

    async def _list(self, call: Call[ApprovalListRequest]) -> ApprovalListResult:
        tenant = self._core.managed_tenant(await self._caller(call.headers), call.body.tenant)
        mine = [known for known in self.calls.all() if known.tenant == tenant]
        shown = [known for known in mine if call.body.all or known.state == "pending"]
        return ApprovalListResult(approvals=[known.info() for known in sorted(shown, key=lambda each: each.parked_ms)])

    async def _approve(self, call: Call[ApprovalDecision]) -> ApprovalInfo:
        return await self._decide(call, "approved")

    async def _deny(self, call: Call[ApprovalDecision]) -> ApprovalInfo:
        return await self._decide(call, "denied")

    async def _decide(self, call: Call[ApprovalDecision], state: approvals.DecidedState) -> ApprovalInfo:
        caller = await self._caller(call.headers)
        tenant = self._core.managed_tenant(caller, call.body.tenant)
        for _ in range(_TRIES):
            found = await self.calls.read(f"{tenant}.{call.body.approval_id}")
            if found is None:
                raise ResourceNotFound("no call waits under this id", field="approval_id")
            known, revision = found
            decided = approvals.decided(
                known, state, tenant=caller.tenant, by=caller.agent, reason=call.body.reason, now_ms=_now_ms()
            )
            if state == "approved":
                self._ensure_still_allowed(known)
            with suppress(ResourceConflict):
                # Whoever takes this step does what follows it; others look again only if that does not happen.
                await self.calls.put(approvals.sent(decided, _now_ms()), revision)
                break
        else:
            raise BusUnavailable("the parked call changes too fast to be decided on", retry_after_s=1)
        headers = known.call_headers()
        self._audit.trail.approval(
            headers, known.approval_id, state, by_agent=f"{caller.tenant}.{caller.agent}", reason=call.body.reason
        )
        # The log knows of a consent before anything comes of it.
        await self._audit.stored(tenant)
        if state == "approved":
            await self._send(decided)
        else:
            await self._tell(decided)
        return decided.info()

    def _ensure_still_allowed(self, known: Parked) -> None:
        """The call's agent and its rights are judged as they are now, not as they were when it was parked.

        Raises:
            ResourceConflict: it may not be made any more.
        """
        headers = known.call_headers()
        identity = self._core.directory.find(known.tenant, headers.agent)
        manager, _, operation = known.operation.partition(".")
        entry = OPERATIONS.get((manager, operation))
        if identity is None or entry is None:
            raise ResourceConflict("the agent's credential has been revoked", field="approval_id")
        if self._core.decide(identity, entry, headers, known.call_body()).effect == "deny":
            raise ResourceConflict("the policies forbid this call by now", field="approval_id")

    # What its agent does

    def open_calls(self, tenant: str, agent: str) -> list[SyscallInfo]:
        """The calls of one agent that wait here, or are on their way to their manager."""
        now_ms = _now_ms()
        mine = [known for known in self.calls.all() if known.tenant == tenant and known.state in _OPEN]
        return [known.open_call(now_ms) for known in mine if known.call_headers().agent == agent]

    async def cancel(self, headers: CallHeaders, call_id: str, *, look: bool) -> CancelResult | None:
        """Ends a call of the same agent that has not begun; None where there is none, or a manager has it.

        Args:
            headers: of whoever cancels.
            call_id: names the call.
            look: whether the bucket is asked, too, and not only what this replica knows.

        Raises:
            BusUnavailable: the call could not be read or written, or is on its way into the queue.
        """
        key = f"{headers.tenant}.{approvals.approval_id_of_key(replace(headers, id=call_id).key)}"
        if not look and self.calls.get(key) is None:
            return None
        for _ in range(_TRIES):
            found = await self.calls.read(key)
            if found is None or found[0].state == "released":
                return None
            known, revision = found
            if known.state not in _OPEN:
                return CancelResult(id=call_id, state="ended")
            if approvals.is_being_queued(known):
                if look:
                    raise BusUnavailable("the call is on its way into the queue", retry_after_s=_QUEUEING_S)
                return None
            ended = approvals.sent(approvals.cancelled(known), _now_ms())
            with suppress(ResourceConflict):
                await self.calls.put(ended, revision)
                break
        else:
            raise BusUnavailable("the parked call changes too fast to be cancelled", retry_after_s=1)
        by = f"{headers.tenant}.{headers.agent}"
        self._audit.trail.approval(known.call_headers(), known.approval_id, "cancelled", by_agent=by)
        await self._tell(ended)
        return CancelResult(id=call_id, state=known.open_call(_now_ms()).state)

    async def attach(self, headers: CallHeaders, call_id: str) -> bool:
        """Sends the frames of a call of the same agent to one more inbox; False where it does not wait here.

        Args:
            headers: of whoever attaches.
            call_id: names the call.

        Raises:
            BusUnavailable: the call could not be read or written.
            InvalidRequest: such a call is answered at one inbox only.
        """
        key = f"{headers.tenant}.{approvals.approval_id_of_key(replace(headers, id=call_id).key)}"
        for _ in range(_TRIES):
            found = await self.calls.read(key)
            if found is None:
                return False
            try:
                heard = approvals.attached(found[0], headers.reply)
            except (ApprovalDenied, SyscallCancelled) as ended:
                await self._service.lane.reply(headers.reply, replies.failed(call_id, ended))
                return True
            if heard is None:
                return False
            with suppress(ResourceConflict):
                await self.calls.put(heard, found[1])
                frame = replies.pending_approval(call_id, heard.approval_id, heard.expires_ms)
                await self._service.lane.reply(headers.reply, frame)
                return True
        raise BusUnavailable("the parked call changes too fast to be attached to", retry_after_s=1)

    # What follows

    async def _send(self, known: Parked) -> None:
        """Sends an approved call to its manager. One that is queued counts as begun once it is on disk."""
        if await self._sending.send(known):
            await self._step(known.key, lambda stored: approvals.redeemed(stored, _QUEUED, _now_ms()), "released")

    async def _tell(self, known: Parked) -> None:
        """Tells the caller of a call that ended here."""
        await self._sending.tell(known)
        await self._step(known.key, approvals.told)

    async def _step(self, key: str, change: Callable[[Parked], Parked | None], audited: str | None = None) -> bool:
        """Takes one step from the present state; False where another was faster or it was not to be taken."""
        found = await self.calls.read(key)
        if found is None:
            return False
        try:
            after = change(found[0])
            if after is None:
                return True
            await self.calls.put(after, found[1])
        except ResourceConflict:
            return False
        if audited is not None:
            self._audit.trail.approval(after.call_headers(), after.approval_id, audited)
        return True

    async def _on_redeem(self, message: Msg) -> None:
        await self._steps.start(self._redeem(message), "redeem")

    async def _redeem(self, message: Msg) -> None:
        headers = wire.from_kernel(message.headers)
        try:
            request = decode(RedeemRequest, message.data)
            first = False
            for _ in range(_TRIES):
                # A lost race is looked at again: the winner may have been this same delivery, asking twice.
                first = await self._step(
                    f"{headers.tenant}.{request.approval_id}",
                    lambda known: approvals.redeemed(known, request.holder, _now_ms()),
                    "released",
                )
                if first:
                    await self._also_answer(f"{headers.tenant}.{request.approval_id}")
                    break
            frame = replies.done(headers.id, RedeemResult(first=first))
        except AiosError as error:
            frame = replies.failed(headers.id, error)
        await self._service.lane.reply(headers.reply, frame)

    async def _also_answer(self, key: str) -> None:
        known = self.calls.get(key)
        if known is not None and known.listeners:
            await self._sending.also_answer(known)

    async def _act(self, key: str, action: Action) -> None:
        async with asyncio.timeout(_STEP_TIMEOUT_S):
            try:
                if action == "expire":
                    await self._step(
                        key, lambda known: approvals.expired(known) if _is_due(known, action) else _lost(), "expired"
                    )
                    return
                claimed = await self._step(
                    key, lambda known: approvals.sent(known, _now_ms()) if _is_due(known, action) else _lost()
                )
                known = self.calls.get(key)
                if claimed and known is not None:
                    await (self._send(known) if action == "send" else self._tell(known))
            except (BusUnavailable, TimeoutError) as error:
                self._service.log.warning("a parked call has to wait for the bus", key=key, error=str(error))

    def _heard_end(self, end: CallEnd) -> None:
        """A call that has ended has run, even where its manager redeems nothing."""
        tenant, _, _ = end.key.partition(".")
        key = f"{tenant}.{approvals.approval_id_of_key(end.key)}"
        known = None if self._calls is None else self._calls.get(key)
        if known is not None and known.state == "approved":
            task = asyncio.ensure_future(self._steps.start(self._release(key), "release"))
            self._starting.add(task)
            task.add_done_callback(self._starting.discard)

    async def _release(self, key: str) -> None:
        with suppress(BusUnavailable):
            await self._step(key, lambda known: approvals.redeemed(known, _ENDED, _now_ms()), "released")

    async def _keep_time(self) -> None:
        while True:
            for key, action in await self.calls.next_due():
                await self._steps.start(self._act(key, action), f"approval {action}")


def _is_due(known: Parked, action: Action) -> bool:
    return approvals.due(known, _now_ms())[0] == action


def _lost() -> Parked:
    raise ResourceConflict("another replica was faster")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
