"""What is removed for good: contexts and snapshots that have expired, and log segments nobody refers to any more.

Segments are shared by forks and snapshots, so none is removed with the context that wrote it. A sweep reads what all
heads and snapshots refer to; a segment is removed when two sweeps in a row, a grace apart, have found it unreferenced
and it was not written again meanwhile. A change that is under way when a sweep reads has ended long before the grace.
"""

import asyncio
import time
from dataclasses import dataclass

from aios_context.adapters.kv_context_store import KvContextStore
from aios_context.core.head import Head
from aios_context.ports import Stored
from aios_kit.logs import Log
from aios_kit.streams import IDEMPOTENCY_WINDOW_S
from aios_proto.errors import AiosError


@dataclass(frozen=True, slots=True)
class Swept:
    """What one sweep removed."""

    contexts: int
    snapshots: int
    segments: int


class Sweep:
    """Removes what is no longer of use.

    Args:
        store: what is swept.
        grace_s: seconds for which what nothing refers to is still kept.
        log: gets what was removed.
    """

    def __init__(self, store: KvContextStore, grace_s: float, log: Log) -> None:
        self._store = store
        self._grace_s = grace_s
        self._log = log
        self._unreferenced: dict[str, float] = {}

    async def run(self, interval_s: float) -> None:
        """Sweeps for ever. Several replicas may: each removal names what it judged."""
        while True:
            await asyncio.sleep(interval_s)
            try:
                swept = await self.once(time.time_ns() // 1_000_000, time.monotonic())
            except (AiosError, ValueError) as error:
                self._log.warning("a sweep was given up", error=str(error))
                continue
            if swept != Swept(0, 0, 0):
                self._log.info("swept", contexts=swept.contexts, snapshots=swept.snapshots, segments=swept.segments)

    async def once(self, now_ms: int, now_s: float) -> Swept:
        """One sweep.

        Args:
            now_ms: Unix time.
            now_s: by a clock that is never set.

        Raises:
            BusUnavailable: the store cannot be reached.
            ValueError: something in the store cannot be read; nothing is removed then.
        """
        referenced: set[str] = set()
        old_heads: list[Stored] = []
        old_snapshots: list[Head] = []
        snapshots: list[str] = []
        async for found in self._store.everything():
            if isinstance(found, Stored):
                if _is_over(found.head, now_ms):
                    old_heads.append(found)
                else:
                    referenced |= {ref.key for ref in found.head.segments}
            elif found[0].lives(now_ms):
                referenced |= {ref.key for ref in found[0].head.segments}
            else:
                old_snapshots.append(found[0].head)
                snapshots.append(found[0].id)
        old_segments = await self._old_segments(referenced, now_s)
        for stored in old_heads:
            await self._store.remove_head(stored)
        for head, snapshot in zip(old_snapshots, snapshots, strict=True):
            await self._store.remove_snapshot(head.tenant, head.agent, snapshot)
        for key, revision in old_segments:
            await self._store.remove_segment(key, revision)
            del self._unreferenced[key]
        return Swept(len(old_heads), len(old_snapshots), len(old_segments))

    async def _old_segments(self, referenced: set[str], now_s: float) -> list[tuple[str, int]]:
        seen: dict[str, float] = {}
        old: list[tuple[str, int]] = []
        async for key, revision, age_s in self._store.segment_ages():
            if key in referenced:
                continue
            since_s = seen[key] = self._unreferenced.get(key, now_s)
            if now_s - since_s >= self._grace_s and age_s >= self._grace_s:
                old.append((key, revision))
        self._unreferenced = seen
        return old


def _is_over(head: Head, now_ms: int) -> bool:
    """Whether it has expired, or was closed so long ago that its last calls do not come again."""
    if head.closed:
        return now_ms - head.changed_ms > IDEMPOTENCY_WINDOW_S * 1000
    return not head.lives(now_ms)
