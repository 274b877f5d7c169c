"""The pools of limits in KV, from which replicas lease their parts by compare-and-set; see `quota_meter`."""

from collections.abc import Callable

import orjson

from aios_access.adapters.kv_table import Entry, KvTable
from aios_access.quota_meter import POOL_PART, NeedsLease, SlotMeter, WindowMeter
from aios_proto.errors import BusUnavailable, ResourceConflict

_TRIES = 64


class KvAllowances:
    """Leases for one replica.

    Args:
        rates: a bucket in memory, for what a second's window allows.
        ledger: a bucket on disk, for longer windows and for slots.
        instance: this replica.
        is_alive: whether another replica lives, by its name; the slots of those that do not are free again.
    """

    def __init__(self, rates: KvTable, ledger: KvTable, instance: str, is_alive: Callable[[str], bool]) -> None:
        self._rates = rates
        self._ledger = ledger
        self._instance = instance
        self._is_alive = is_alive
        self._known: dict[str, Entry] = {}

    async def lease(self, key: str, meter: WindowMeter, needed: NeedsLease, now: float) -> None:
        """Leases at least what is needed from a window's pool, or tells the meter that there is not so much.

        Raises:
            BusUnavailable: the bucket cannot be reached.
        """
        table = self._rates if meter.window_s <= 1 else self._ledger
        for _ in range(_TRIES):
            entry = await self._read(table, key)
            window, granted = _window(entry, meter, needed.window)
            left = meter.pool - granted
            if left < needed.want:
                self._known.pop(key, None)  # another may return some
                meter.leased(window, 0, max(0, left), now)
                return
            part = max(needed.want, left // POOL_PART)
            if await self._write(table, entry, {"window": window, "s": meter.window_s, "granted": granted + part}):
                meter.leased(window, part, left - part, now)
                return
        raise BusUnavailable("a quota is contended too much", retry_after_s=1)

    async def return_unused(self, key: str, meter: WindowMeter) -> None:
        """Gives what was leased and not used back to the pool.

        Raises:
            BusUnavailable: the bucket cannot be reached.
        """
        if meter.window_s <= 1:
            return
        window, unused = meter.unused()
        if not unused:
            return
        for _ in range(_TRIES):
            entry = await self._read(self._ledger, key)
            current, granted = _window(entry, meter, window)
            if current != window:
                return
            record = {"window": window, "s": meter.window_s, "granted": max(0, granted - unused)}
            if await self._write(self._ledger, entry, record):
                meter.held -= unused
                return

    async def hold_slots(self, key: str, meter: SlotMeter, wanted: int) -> bool:
        """Holds so many of a pool's slots from now on, more or fewer than before; False where there are not so many.

        Raises:
            BusUnavailable: the bucket cannot be reached.
        """
        for _ in range(_TRIES):
            entry = await self._read(self._ledger, key)
            held = orjson.loads(entry.value) if entry.value else {}
            others = {name: count for name, count in held.items() if name != self._instance and self._is_alive(name)}
            if wanted > meter.leased and sum(others.values()) + wanted > meter.pool:
                self._known.pop(key, None)
                return False  # another may return some
            if await self._write(self._ledger, entry, {**others, self._instance: wanted}):
                meter.leased = wanted
                return True
        raise BusUnavailable("a quota is contended too much", retry_after_s=1)

    async def granted(self, key: str, meter: WindowMeter, now: float) -> int:
        """How much of this window's pool all replicas have leased.

        Raises:
            BusUnavailable: the bucket cannot be reached.
        """
        entry = await self._ledger.read(key)
        return _window(entry, meter, int(now // meter.window_s))[1]

    async def _read(self, table: KvTable, key: str) -> Entry:
        return self._known.get(key) or await table.read(key)

    async def _write(self, table: KvTable, entry: Entry, record: dict[str, int | float]) -> bool:
        value = orjson.dumps(record)
        try:
            revision = await table.put(entry.key, value, revision=entry.revision)
        except ResourceConflict:
            self._known.pop(entry.key, None)
            return False
        except BusUnavailable:
            self._known.pop(entry.key, None)
            raise
        self._known[entry.key] = Entry(entry.key, revision, value)
        return True


def _window(entry: Entry, meter: WindowMeter, window: int) -> tuple[int, int]:
    """The window a record is about now, and what of its pool is leased."""
    if not entry.value:
        return window, 0
    record = orjson.loads(entry.value)
    if record["s"] != meter.window_s:
        return window, int(record["granted"])  # the window's length was changed: what is used stays used
    if record["window"] > window:
        return int(record["window"]), int(record["granted"])  # another replica's clock is ahead
    return window, int(record["granted"]) if record["window"] == window else 0
