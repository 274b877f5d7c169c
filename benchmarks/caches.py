"""Cache policies to measure LRU-K against, and traces to measure them on: hit rates, nothing else."""

import random
from collections import OrderedDict
from collections.abc import Iterable
from itertools import accumulate
from typing import Protocol

from aios_memory.core.lru_k import LruK


class Cache(Protocol):
    def use(self, key: int) -> bool:
        """Whether the key was there."""


class LruKCache:
    """What the memory manager uses."""

    def __init__(self, k: int, capacity: int) -> None:
        self._cache: LruK[int] = LruK(k, capacity)

    def use(self, key: int) -> bool:
        hit = key in self._cache
        self._cache.use(key, 1)
        return hit


class Lru:
    """The least recently used goes."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._keys: OrderedDict[int, None] = OrderedDict()

    def use(self, key: int) -> bool:
        hit = key in self._keys
        self._keys[key] = None
        self._keys.move_to_end(key)
        if len(self._keys) > self._capacity:
            self._keys.popitem(last=False)
        return hit


class Arc:
    """Megiddo and Modha, "ARC: A Self-Tuning, Low Overhead Replacement Cache", FAST 2003, figure 4."""

    def __init__(self, capacity: int) -> None:
        self._c = capacity
        self._p = 0.0
        self._t1: OrderedDict[int, None] = OrderedDict()
        self._t2: OrderedDict[int, None] = OrderedDict()
        self._b1: OrderedDict[int, None] = OrderedDict()
        self._b2: OrderedDict[int, None] = OrderedDict()

    def use(self, key: int) -> bool:
        t1, t2, b1, b2, c = self._t1, self._t2, self._b1, self._b2, self._c
        if key in t1 or key in t2:
            t1.pop(key, None)
            t2[key] = None
            t2.move_to_end(key)
            return True
        if key in b1:
            self._p = min(c, self._p + max(1.0, len(b2) / len(b1)))
            self._replace(key)
            del b1[key]
            t2[key] = None
            return False
        if key in b2:
            self._p = max(0.0, self._p - max(1.0, len(b1) / len(b2)))
            self._replace(key)
            del b2[key]
            t2[key] = None
            return False
        if len(t1) + len(b1) == c:
            if len(t1) < c:
                b1.popitem(last=False)
                self._replace(key)
            else:
                t1.popitem(last=False)
        elif len(t1) + len(b1) < c and len(t1) + len(t2) + len(b1) + len(b2) >= c:
            if len(t1) + len(t2) + len(b1) + len(b2) == 2 * c:
                b2.popitem(last=False)
            self._replace(key)
        t1[key] = None
        return False

    def _replace(self, key: int) -> None:
        t1, t2 = self._t1, self._t2
        if t1 and (len(t1) > self._p or (key in self._b2 and len(t1) == self._p)):
            self._b1[t1.popitem(last=False)[0]] = None
        elif t2:
            self._b2[t2.popitem(last=False)[0]] = None


def skewed_trace(keys: int, uses: int, *, exponent: float = 0.9, scan_share: float = 0.1, seed: int = 1) -> list[int]:
    """Uses as agents make them: a few notes again and again (Zipf), and now and then a walk through many."""
    chosen = random.Random(seed)
    weights = list(accumulate(1 / rank**exponent for rank in range(1, keys + 1)))
    order = list(range(keys))
    chosen.shuffle(order)
    trace: list[int] = []
    while len(trace) < uses:
        if chosen.random() < scan_share / 100:
            start = chosen.randrange(keys)
            trace += [(start + step) % keys for step in range(100)]
        else:
            trace.append(order[chosen.choices(range(keys), cum_weights=weights)[0]])
    return trace[:uses]


def hit_rate(cache: Cache, trace: Iterable[int]) -> float:
    """Share of uses that found their key."""
    hits = [cache.use(key) for key in trace]
    return sum(hits) / len(hits)
