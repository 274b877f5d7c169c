"""Who else hears a call: `syscall.attach`, for calls that wait for a quota or a human; the others are the scheduler's.

A call goes one way: it waits for its quota, then for a human where one must agree, then it is the scheduler's. They are
asked in that order, so a call that goes on meanwhile is found by who is asked next.
"""

import time

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from aios_access.approval_service import ApprovalService
from aios_access.presence import PresenceTable
from aios_access.waiting_calls import WaitingCalls
from aios_kit import replies
from aios_kit.service import Service
from aios_proto import headers as wire
from aios_proto import subjects
from aios_proto.decode import decode
from aios_proto.errors import AiosError, BusUnavailable, ManagerUnavailable
from aios_proto.messages.syscall import AttachRequest

_OPERATION = ("syscall", "attach")


class Attaching:
    """Answers `syscall.attach`, or sends it on to who has the call.

    Args:
        service: the chassis.
        presence: whether a scheduler is there.
        approvals: the calls that wait for a human.
        waiting: the calls that wait for a quota.
    """

    def __init__(
        self, service: Service, presence: PresenceTable, approvals: ApprovalService, waiting: WaitingCalls
    ) -> None:
        self._service = service
        self._presence = presence
        self._approvals = approvals
        self._waiting = waiting
        self._here = subjects.waiting_calls(service.settings.instance, "attach")

    async def open(self) -> None:
        """Begins to listen: to what any replica may take, and to what others send here because the call waits here."""
        lane = self._service.lane
        await lane.subscribe(subjects.about_calls(*_OPERATION), self._on_attach, queue=self._service.role)
        await lane.subscribe(self._here, self._on_attach)

    async def _on_attach(self, message: Msg) -> None:
        await self._service.tasks.start(self._answer(message), "attach")

    async def _answer(self, message: Msg) -> None:
        headers = wire.from_kernel(message.headers)
        try:
            request = decode(AttachRequest, message.data)
            key = f"{headers.tenant}.{headers.agent}.{request.id}"
            if self._waiting.listen(key, headers.reply):
                return
            if message.subject != self._here and (replica := self._waiting.replica_of(key)) is not None:
                await self._send_on(subjects.waiting_calls(replica, "attach"), message)
                return
            if await self._is_parked(headers, request.id):
                return
            if not self._presence.serves(*_OPERATION, time.monotonic()):
                raise ManagerUnavailable("no running service offers syscall.attach now", retry_after_s=1)
            await self._send_on(subjects.kernel(*_OPERATION), message)
        except AiosError as error:
            await self._service.lane.reply(headers.reply, replies.failed(headers.id, error))

    async def _is_parked(self, headers: wire.CallHeaders, call_id: str) -> bool:
        try:
            return await self._approvals.attach(headers, call_id)
        except BusUnavailable as error:
            # What runs can be attached to while the bucket cannot be read.
            self._service.log.warning("whether a call is parked could not be read", error=error.message)
            return False

    async def _send_on(self, subject: str, message: Msg) -> None:
        try:
            await self._service.lane.publish(subject, message.data, headers=dict(message.headers or {}))
        except NatsError as error:
            raise BusUnavailable(f"the bus did not take the call: {error}") from error
