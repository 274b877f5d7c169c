"""Which calls wait for which: `Aios-After`, the failure of one that fails the others, and the critical path."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator

from aios_scheduler.core.call import ModelCall

MAX_ENDED = 50_000
"""Calls whose end is remembered, for those that name them later."""

UNKNOWN_GRACE_S = 10.0
"""A call that is named but not known may still be on its way; after this time it is taken as not existing."""

_MAX_WALK = 10_000


class Dependencies:
    """Edges between calls that have not ended, and how those that have ended did."""

    def __init__(self) -> None:
        self._missing: dict[str, set[str]] = {}
        self._waiters: dict[str, dict[str, None]] = {}
        self._ended: OrderedDict[str, bool] = OrderedDict()

    def __len__(self) -> int:
        return len(self._missing)

    def outcome(self, key: str) -> bool | None:
        """Whether a call succeeded; None while it has not ended, or is not known."""
        return self._ended.get(key)

    def note_end(self, key: str, *, succeeded: bool) -> None:
        """A call has ended."""
        self._ended[key] = succeeded
        if len(self._ended) > MAX_ENDED:
            self._ended.popitem(last=False)

    def hold(self, call: ModelCall, missing: Iterable[str]) -> None:
        """A call waits for these."""
        keys = set(missing)
        self._missing[call.key] = keys
        for key in sorted(keys):
            self._waiters.setdefault(key, {})[call.key] = None

    def missing(self, key: str) -> frozenset[str]:
        """What a held call still waits for."""
        return frozenset(self._missing.get(key, ()))

    def release(self, ended: str) -> list[str]:
        """A call ended well: keys of those that need wait no longer, in the order in which they came."""
        free = []
        for waiter in self._waiters.pop(ended, {}):
            missing = self._missing.get(waiter)
            if missing is not None:
                missing.discard(ended)
                if not missing:
                    del self._missing[waiter]
                    free.append(waiter)
        return free

    def waiters(self, key: str) -> list[str]:
        """Keys of the calls that wait for this one, directly."""
        return list(self._waiters.get(key, ()))

    def drop(self, key: str) -> None:
        """A held call has ended: it waits for nothing any more. Those that wait for it still do."""
        for awaited in self._missing.pop(key, ()):
            waiters = self._waiters.get(awaited)
            if waiters is not None:
                waiters.pop(key, None)
                if not waiters:
                    del self._waiters[awaited]

    def forget(self, key: str) -> None:
        """Nobody needs to wait for a call any more: all that did were told."""
        self._waiters.pop(key, None)

    def closes_cycle(self, key: str, after: Iterable[str]) -> bool:
        """Whether a call that waits for `after` would wait for itself."""
        seen: set[str] = set()
        stack = list(after)
        while stack and len(seen) < _MAX_WALK:
            current = stack.pop()
            if current == key:
                return True
            if current not in seen:
                seen.add(current)
                stack.extend(self._missing.get(current, ()))
        return False

    def ancestors(self, key: str) -> Iterator[tuple[str, str]]:
        """Pairs (waiting, awaited) from a held call up to those that can run, nearest first."""
        seen: set[str] = set()
        stack = [key]
        while stack and len(seen) < _MAX_WALK:
            current = stack.pop(0)
            for awaited in sorted(self._missing.get(current, ())):
                yield current, awaited
                if awaited not in seen:
                    seen.add(awaited)
                    stack.append(awaited)
