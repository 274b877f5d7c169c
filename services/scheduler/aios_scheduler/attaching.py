"""Who else hears a call: `syscall.attach`, whether the call waits, runs, or has ended."""

from nats.aio.msg import Msg

from aios_kit import replies
from aios_kit.service import Service
from aios_proto import headers as wire
from aios_proto.decode import decode
from aios_proto.errors import AiosError, SyscallUnknown
from aios_proto.messages import syscall
from aios_scheduler.core import SchedulerCore
from aios_scheduler.core.call import CallState
from aios_scheduler.ledger import Entry, Ledger
from aios_scheduler.management import SECOND_LOOK_S
from aios_scheduler.outbox import Outbox
from aios_scheduler.results import Results


class Attaching:
    """Answers `syscall.attach`.

    Args:
        service: its lane and tasks.
        core: where calls are.
        ledger: who listens to them, and how those that ended did.
        outbox: tells workers of listeners.
    """

    def __init__(self, service: Service, core: SchedulerCore, ledger: Ledger, outbox: Outbox) -> None:
        self._service = service
        self._core = core
        self._ledger = ledger
        self._outbox = outbox
        self._results: Results | None = None

    def open(self, results: Results) -> None:
        """Looks for calls that ended long ago there."""
        self._results = results

    async def on_attach(self, message: Msg) -> None:
        """One call of `syscall.attach`."""
        headers = wire.from_kernel(message.headers)
        await self._service.tasks.start(self._answer(headers, message.data), "attach")

    def listen(self, entry: Entry, inbox: str, text_offset: int) -> None:
        """Gives a call one more listener; of a call that waits its worker is told later."""
        entry.listeners[inbox] = text_offset
        call = self._core.calls.get(entry.headers.key)
        if call is not None and call.state is CallState.RUNNING and call.worker is not None:
            self._outbox.attach(call.worker, call.key, inbox, text_offset)

    async def _answer(self, headers: wire.CallHeaders, body: bytes) -> None:
        try:
            request = decode(syscall.AttachRequest, body)
            key = f"{headers.tenant}.{headers.agent}.{request.id}"
            if await self._attach_to(key, headers, request):
                return
            await self._ledger.arrival(key, SECOND_LOOK_S)
            if not await self._attach_to(key, headers, request):
                raise SyscallUnknown("no call of this id is known", field="id")
        except AiosError as error:
            await self._service.lane.reply(headers.reply, replies.failed(headers.id, error))

    async def _attach_to(self, key: str, headers: wire.CallHeaders, request: syscall.AttachRequest) -> bool:
        entry = self._ledger.open.get(key)
        if entry is not None:
            self.listen(entry, headers.reply, request.text_offset)
            return True
        end = self._ledger.end_of(key)
        frame = None if end is None else end.frame
        if frame is None and self._results is not None:
            frame = await self._results.find(key)
        if frame is not None:
            await self._service.lane.reply(headers.reply, frame)
            return True
        return end is not None and self._outbox.attach_to_ended(end, key, headers.reply, request.text_offset)
