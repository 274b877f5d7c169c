"""Which held KV is kept in memory once it has lost its slot: the newest, as many bytes as are allowed."""

from collections import OrderedDict
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ShelvedKv:
    """The KV of one sequence.

    Attributes:
        tokens: whose KV it is, from position 0.
        state: llama.cpp's bytes, as the context here takes them.
    """

    tokens: tuple[int, ...]
    state: bytes | bytearray


class KvShelf:
    """KV by key, bounded in bytes."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._kept: OrderedDict[str, ShelvedKv] = OrderedDict()
        self._bytes = 0

    def put(self, key: str, kv: ShelvedKv) -> list[str]:
        """Keeps KV, and returns the keys that are not kept any more; its own, if it is too large."""
        self.drop(key)
        self._kept[key] = kv
        self._bytes += len(kv.state)
        gone = []
        while self._bytes > self._limit:
            oldest = next(iter(self._kept))
            self.drop(oldest)
            gone.append(oldest)
        return gone

    def get(self, key: str) -> ShelvedKv | None:
        """The KV of a key, if it is kept."""
        return self._kept.get(key)

    def drop(self, key: str) -> bool:
        """Forgets a key; whether it was there."""
        kv = self._kept.pop(key, None)
        if kv is None:
            return False
        self._bytes -= len(kv.state)
        return True
