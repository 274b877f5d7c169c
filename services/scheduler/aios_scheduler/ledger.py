"""What the scheduler's shell keeps of each open call: its bytes, its reply subjects, its acknowledgement."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field

from nats.aio.msg import Msg

from aios_kit.tracing import Hop
from aios_proto.headers import CallHeaders
from aios_scheduler.core.call import WorkerId

_REMEMBERED_ENDS = 20_000


@dataclass(slots=True)
class Entry:
    """One open call.

    Attributes:
        headers: as access stamped them.
        operation: full name, such as `llm.chat`.
        body: passed on to the worker as it came.
        queued_us: Unix time in microseconds at which it was queued.
        queued_message: the JetStream message to acknowledge when it has ended; None for a volatile call.
        listeners: further inboxes that want its frames, with the text offset from which on.
        hop: the span of its wait; ended when it is dispatched.
    """

    headers: CallHeaders
    operation: str
    body: bytes
    queued_us: int
    queued_message: Msg | None
    hop: Hop
    listeners: dict[str, int] = field(default_factory=dict)

    @property
    def inboxes(self) -> list[str]:
        """Everyone who must hear how it ended."""
        return [self.headers.reply, *(inbox for inbox in self.listeners if inbox != self.headers.reply)]


@dataclass(frozen=True, slots=True)
class End:
    """How a call ended.

    Attributes:
        worker: who ended it, with its incarnation; None where the scheduler did.
        frame: its last frame, where the scheduler wrote it.
    """

    worker: tuple[WorkerId, str] | None = None
    frame: bytes | None = None


class Ledger:
    """Entries of open calls, and for a while how the others ended."""

    def __init__(self) -> None:
        self.open: dict[str, Entry] = {}
        self._ends: OrderedDict[str, End] = OrderedDict()
        self._awaited: dict[str, asyncio.Event] = {}

    def enter(self, entry: Entry) -> None:
        """Opens a call."""
        key = entry.headers.key
        self.open[key] = entry
        self._ends.pop(key, None)
        if (awaited := self._awaited.pop(key, None)) is not None:
            awaited.set()

    def close(self, key: str, end: End) -> Entry | None:
        """Takes an entry out and remembers how the call ended."""
        self._ends[key] = end
        if len(self._ends) > _REMEMBERED_ENDS:
            self._ends.popitem(last=False)
        return self.open.pop(key, None)

    def end_of(self, key: str) -> End | None:
        """How this call ended, if that was not long ago."""
        return self._ends.get(key)

    async def arrival(self, key: str, timeout_s: float) -> bool:
        """Waits until the call is opened; False if it is not within `timeout_s`."""
        awaited = self._awaited.setdefault(key, asyncio.Event())
        try:
            await asyncio.wait_for(awaited.wait(), timeout_s)
        except TimeoutError:
            if self._awaited.get(key) is awaited:
                del self._awaited[key]
            return False
        return True
