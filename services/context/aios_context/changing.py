"""How a head is changed: read, decided on, written if nobody else wrote it meanwhile, else all over again."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from weakref import WeakValueDictionary

from aios_context.core.head import Head
from aios_context.core.segments import spill
from aios_context.logs import Logs
from aios_context.ports import Changed, ContextStore, Stored
from aios_context.together import together
from aios_proto.errors import AiosError, ResourceConflict

_ATTEMPTS = 16
_REMEMBERED_HEADS = 4096
_RETRY_AFTER_S = 0.1

Decide = Callable[[Head | None], Head]


class Changing:
    """Changes heads, one change of a context at a time in this process and by compare-and-set against others.

    The first attempt goes out from the head as this process wrote or read it last: where it still stands, a change is
    one write. An attempt from an old head fails at the store, and what it would refuse is judged again on a fresh one.

    Args:
        store: has the heads.
        logs: is told of the segments that were written.
    """

    def __init__(self, store: ContextStore, logs: Logs) -> None:
        self._store = store
        self._logs = logs
        self._locks: WeakValueDictionary[tuple[str, str, str], asyncio.Lock] = WeakValueDictionary()
        self._seen: OrderedDict[tuple[str, str, str], Stored | None] = OrderedDict()

    def saw(self, tenant: str, agent: str, name: str, stored: Stored | None) -> None:
        """Takes note of what was just read, for the first attempt of the next change; None is that there was none."""
        self._remember((tenant, agent, name), stored)

    async def change(self, tenant: str, agent: str, name: str, call_id: str, decide: Decide) -> Head:
        """Changes a context, unless this call has changed it before.

        Args:
            tenant: of its owner.
            agent: its owner.
            name: its name.
            call_id: the call that changes it.
            decide: makes the new head from the present one; None is that there is none.

        Raises:
            AiosError: what `decide` raised.
            BusUnavailable: the store cannot be reached; the change may have happened, and the same call may come again.
            ResourceConflict: others changed it all the time.
        """
        key = (tenant, agent, name)
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            fresh = key not in self._seen
            stored = self._seen.pop(key, None)
            for _ in range(_ATTEMPTS):
                if fresh:
                    stored = await self._store.head(tenant, agent, name)
                try:
                    head = await self._attempt(key, stored, call_id, decide)
                except AiosError:
                    if fresh:
                        raise
                    head = None
                if head is not None:
                    return head
                fresh = True
        raise ResourceConflict(
            "the context is changed by others all the time",
            field="context",
            retryable=True,
            retry_after_s=_RETRY_AFTER_S,
        )

    async def _attempt(
        self, key: tuple[str, str, str], stored: Stored | None, call_id: str, decide: Decide
    ) -> Head | None:
        """The head as it is now, or None where someone else was faster."""
        if stored is not None and stored.head.recall(call_id) is not None:
            self._remember(key, stored)
            return stored.head
        head, segments = spill(decide(None if stored is None else stored.head))
        await together(self._store.put_segment(segment, value) for segment, value in segments.items())
        try:
            revision = await self._store.write(head, 0 if stored is None else stored.revision)
        except Changed:
            return None
        for segment, value in segments.items():
            self._logs.keep(segment, value)
        self._remember(key, Stored(head, revision))
        return head

    def _remember(self, key: tuple[str, str, str], stored: Stored | None) -> None:
        self._seen[key] = stored
        self._seen.move_to_end(key)
        while len(self._seen) > _REMEMBERED_HEADS:
            self._seen.popitem(last=False)
