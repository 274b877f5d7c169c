"""Which texts go to the embedding server together: those of all callers in turn, so that a long list delays nobody."""

from collections import OrderedDict
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Place:
    """Whose text it is, and the how-many-eth of them."""

    call: int
    index: int


@dataclass(slots=True)
class _Waiting:
    texts: list[str]
    next: int = 0


@dataclass(slots=True)
class Batches:
    """The texts that wait. No clock, no I/O."""

    _calls: OrderedDict[int, _Waiting] = field(default_factory=OrderedDict)
    _count: int = 0

    def __len__(self) -> int:
        """How many texts wait."""
        return self._count

    def add(self, call: int, texts: list[str]) -> None:
        """One caller's texts; each call has a number of its own."""
        self._calls[call] = _Waiting(texts)
        self._count += len(texts)

    def remove(self, call: int) -> None:
        """Forgets what still waits of a call that was given up; nothing where none does."""
        waiting = self._calls.pop(call, None)
        if waiting is not None:
            self._count -= len(waiting.texts) - waiting.next

    def take(self, limit: int) -> list[tuple[Place, str]]:
        """The next batch, at most `limit` texts: one of each call in turn."""
        batch: list[tuple[Place, str]] = []
        while self._calls and len(batch) < limit:
            call, waiting = self._calls.popitem(last=False)
            batch.append((Place(call, waiting.next), waiting.texts[waiting.next]))
            waiting.next += 1
            if waiting.next < len(waiting.texts):
                self._calls[call] = waiting
        self._count -= len(batch)
        return batch
