"""Parked calls in a JetStream KV bucket, as every replica sees them, and when each is to be looked at again."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress

from nats.js import JetStreamContext
from nats.js.api import KeyValueConfig

from aios_access import approvals
from aios_access.adapters.kv_table import Entry, KvTable
from aios_access.approvals import Action, Parked
from aios_kit.logs import Log
from aios_kit.streams import ensure_bucket
from aios_proto import subjects

_KEPT_S = 7 * 86_400
_ENDED_KEPT = 2000


class KvParkedCalls:
    """The bucket `AIOS_APPROVALS`. Decides nothing: what a call's next state is, its user says."""

    def __init__(self, log: Log) -> None:
        self._table: KvTable | None = None
        self._log = log
        self._known: dict[str, Parked] = {}
        self._looks: dict[str, int] = {}
        self._news = asyncio.Event()

    @classmethod
    async def open(cls, js: JetStreamContext, replicas: int, log: Log, timeout_s: float) -> "KvParkedCalls":
        """Opens the bucket, takes up what is parked, and watches from now on.

        Raises:
            BusUnavailable: JetStream cannot provide it.
            TimeoutError: reading it took longer than `timeout_s`.
        """
        config = KeyValueConfig(
            bucket=subjects.APPROVALS_BUCKET, history=1, ttl=_KEPT_S, replicas=replicas, direct=True
        )
        bucket = await ensure_bucket(js, config)
        made = cls(log)
        made._table = KvTable(js, bucket, subjects.APPROVALS_BUCKET, made._taken, log)
        await made._table.start(timeout_s)
        return made

    async def restart(self) -> None:
        """Watches anew, as after a lost connection."""
        await self._opened.restart()

    async def stop(self) -> None:
        """Watches no more."""
        await self._opened.stop()

    def all(self) -> Iterator[Parked]:
        """Those that wait, and those decided lately."""
        return iter(self._known.values())

    def get(self, key: str) -> Parked | None:
        """One of them, as this replica knows it."""
        return self._known.get(key)

    async def put(self, value: Parked, revision: int) -> None:
        """Writes a state where `revision` still stands; 0 is nothing.

        Raises:
            ResourceConflict: something else stands there.
            BusUnavailable: the bucket cannot be reached.
        """
        await self._opened.put(value.key, value.model_dump_json().encode(), revision=revision)

    async def read(self, key: str) -> tuple[Parked, int] | None:
        """The present state and its revision; None where there is none.

        Raises:
            BusUnavailable: the bucket cannot be reached.
        """
        entry = await self._opened.read(key)
        value = None if entry.value is None else approvals.read(entry.value)
        return None if value is None else (value, entry.revision)

    async def next_due(self) -> list[tuple[str, Action]]:
        """Waits until something is to be done about some calls; gives what. What stays due is given again later."""
        while True:
            self._news.clear()
            now = _now_ms()
            found: list[tuple[str, Action]] = []
            for key in [key for key, at_ms in self._looks.items() if at_ms <= now]:
                action = self._look(key, self._known[key], now)
                if action != "nothing":
                    found.append((key, action))
            if found:
                return found
            wake_s = None if not self._looks else max(0.0, (min(self._looks.values()) - _now_ms()) / 1000)
            with suppress(TimeoutError):
                async with asyncio.timeout(wake_s):
                    await self._news.wait()

    @property
    def _opened(self) -> KvTable:
        assert self._table is not None
        return self._table

    def _look(self, key: str, value: Parked, now_ms: int) -> Action:
        action, again_ms = approvals.due(value, now_ms)
        if again_ms:
            self._looks[key] = again_ms
        else:
            self._looks.pop(key, None)
        return action

    def _taken(self, entry: Entry) -> None:
        value = None if entry.value is None else approvals.read(entry.value)
        self._known.pop(entry.key, None)
        self._looks.pop(entry.key, None)
        if value is None:
            if entry.value is not None:
                self._log.error("a parked call cannot be read; it will not run", key=entry.key)
            return
        self._known[entry.key] = value
        now = _now_ms()
        if self._look(entry.key, value, now) != "nothing":
            self._looks[entry.key] = now
        self._forget_old()
        self._news.set()

    def _forget_old(self) -> None:
        """The bucket drops what has ended by age and does not say so."""
        if len(self._known) - len(self._looks) > _ENDED_KEPT:
            oldest = next(key for key in self._known if key not in self._looks)
            del self._known[oldest]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
