"""Which notes leave the hot tier: those whose K-th last use is longest ago (LRU-K).

A note used fewer than K times goes before any other, the least recently used of them first; what a note was used for is
remembered for a while after it left, so that one that comes back is not taken for new.

Source: O'Neil, O'Neil and Weikum, "The LRU-K Page Replacement Algorithm For Database Disk Buffering", SIGMOD 1993, with
retained history and no correlated reference period: the time is the number of uses, so a burst of calls on one note
counts as what it is.
"""

import heapq
from collections import OrderedDict
from typing import Final, Generic, TypeVar

K = TypeVar("K")

_HISTORIES_PER_RESIDENT: Final = 4
_HISTORIES_AT_LEAST: Final = 256
_STALE_SHARE: Final = 4


class LruK(Generic[K]):
    """Sizes and uses of what is resident.

    Args:
        k: how many uses count.
        capacity: largest sum of sizes, in whatever unit the sizes have.
    """

    def __init__(self, k: int, capacity: int) -> None:
        self._k = k
        self._capacity = capacity
        self._sizes: dict[K, int] = {}
        self._total = 0
        self._now = 0
        # The last k uses, the oldest first; the order is that of the last use.
        self._uses: OrderedDict[K, tuple[int, ...]] = OrderedDict()
        self._order: list[tuple[int, int, K]] = []

    def __contains__(self, key: object) -> bool:
        return key in self._sizes

    def __len__(self) -> int:
        return len(self._sizes)

    @property
    def total(self) -> int:
        """Sum of the sizes of what is resident."""
        return self._total

    def use(self, key: K, size: int) -> list[K]:
        """Notes a use; what was not resident becomes so, and what has to leave for it is returned.

        What is larger than the capacity is returned at once.
        """
        self._now += 1
        self._uses[key] = (*self._uses.get(key, ()), self._now)[-self._k :]
        self._uses.move_to_end(key)
        self._total += size - self._sizes.get(key, 0)
        self._sizes[key] = size
        heapq.heappush(self._order, (*self._rank(key), key))
        evicted = []
        while self._total > self._capacity:
            victim = key if size > self._capacity else self._victim(key)
            self._total -= self._sizes.pop(victim)
            evicted.append(victim)
        self._tidy()
        return evicted

    def remove(self, key: K) -> None:
        """Forgets a key with its history."""
        self._total -= self._sizes.pop(key, 0)
        self._uses.pop(key, None)

    def _rank(self, key: K) -> tuple[int, int]:
        uses = self._uses[key]
        return (uses[0] if len(uses) == self._k else 0), uses[-1]

    def _victim(self, newest: K) -> K:
        kept: list[tuple[int, int, K]] = []
        try:
            while True:
                kth, last, key = heapq.heappop(self._order)
                if key not in self._sizes or (kth, last) != self._rank(key):
                    continue  # it was used again, or has left
                if key == newest:
                    kept.append((kth, last, key))  # what is being used must not leave for itself
                    continue
                return key
        finally:
            for entry in kept:
                heapq.heappush(self._order, entry)

    def _tidy(self) -> None:
        limit = max(_HISTORIES_AT_LEAST, _HISTORIES_PER_RESIDENT * len(self._sizes))
        while len(self._uses) > limit:
            key = next((key for key in self._uses if key not in self._sizes), None)
            if key is None:
                break
            del self._uses[key]
        if len(self._order) > _STALE_SHARE * max(_HISTORIES_AT_LEAST, len(self._sizes)):
            self._order = [(*self._rank(key), key) for key in self._sizes]
            heapq.heapify(self._order)
