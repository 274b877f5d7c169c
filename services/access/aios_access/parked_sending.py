"""What is sent of a parked call once it is decided: the call to its manager, or its end to whoever waits for it."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

import orjson
from nats.errors import Error as NatsError
from nats.js.errors import APIError

from aios_access import approvals
from aios_access.approvals import Parked
from aios_kit import replies
from aios_kit.service import Service
from aios_proto import headers as wire
from aios_proto import subjects
from aios_proto.errors import BusUnavailable
from aios_proto.headers import CallHeaders
from aios_proto.operations import OPERATIONS, Operation

_TOOL_CALL: Final = "tool.call"

Passed = Callable[[CallHeaders, Operation, bytes], Awaitable[CallHeaders]]


class ParkedSending:
    """Sends parked calls and their ends; what state they are in by then, its user keeps.

    Args:
        service: the chassis.
        default_deadline_s: for calls whose caller named no deadline, counted from their consent on.
        passed: awaited with each call that goes on; gives the headers it goes on with.
    """

    def __init__(self, service: Service, default_deadline_s: float, passed: Passed) -> None:
        self._service = service
        self._default_deadline_ms = int(default_deadline_s * 1000)
        self._passed = passed

    async def send(self, known: Parked) -> bool:
        """Sends an approved call to its manager; whether it is on disk in the queue now."""
        out, service = self._outgoing(known), self._service
        operation = OPERATIONS[out.manager, out.operation]
        try:
            headers = await self._passed(out.headers, operation, out.body)
        except BusUnavailable as error:
            service.log.warning("an approved call could not be marked yet", error=error.message)
            return False
        target, stamped = subjects.kernel(out.manager, out.operation), headers.to_wire()
        if known.durable:
            queued = {**stamped, wire.MSG_ID: headers.key}
            try:
                await service.js.publish(subjects.durable(out.manager, out.operation), out.body, headers=queued)
            except (APIError, NatsError, TimeoutError) as error:
                service.log.warning("an approved call could not be queued yet", error=str(error))
                return False
            for inbox in known.inboxes:
                await service.lane.reply(inbox, replies.accepted(headers.id, None))
            if known.listeners:
                # The scheduler knows it for the queued one, and has it before it is asked to answer others, too.
                await service.lane.publish(target, out.body, headers={**stamped, wire.DURABILITY: "durable"})
        else:
            await service.lane.publish(target, out.body, headers=stamped)
        if operation.durability == "durable":
            attach = orjson.dumps({"id": headers.id})
            for inbox in known.listeners:
                there = {**stamped, wire.REPLY: inbox}
                await service.lane.publish(subjects.kernel("syscall", "attach"), attach, headers=there)
        return known.durable

    async def also_answer(self, known: Parked) -> None:
        """Has the tool manager answer an approved call it has begun at all its inboxes.

        It joins the same id from another inbox to the call that runs. What other managers run is answered where it was
        asked last.
        """
        if known.operation != _TOOL_CALL:
            return
        out = self._outgoing(known)
        for inbox in known.inboxes:
            there = replace(out.headers, reply=inbox).to_wire()
            await self._service.lane.publish(subjects.kernel(out.manager, out.operation), out.body, headers=there)

    async def tell(self, known: Parked) -> None:
        """Tells the caller how a call ended here."""
        frame = replies.failed(known.call_headers().id, approvals.refusal_of(known))
        for inbox in known.inboxes:
            await self._service.lane.reply(inbox, frame)

    def _outgoing(self, known: Parked) -> approvals.Outgoing:
        now_ms = time.time_ns() // 1_000_000
        return approvals.outgoing(known, now_ms=now_ms, default_deadline_ms=self._default_deadline_ms)
