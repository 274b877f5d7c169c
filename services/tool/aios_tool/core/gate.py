"""Which calls may run at the same time: by the resources they declare and by how many a tool takes at once.

A call takes all its resources and its slot in one step or none of them, so no call ever holds one and waits for
another: there is no deadlock (Coffman's hold-and-wait condition is never met). Each resource has a queue in order of
arrival. A reader may start when no writer is before it, a writer when nobody is before it; so conflicting calls run in
the order in which they came and none starves.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Claim:
    """What one call needs.

    Attributes:
        key: names the call.
        tool: whose slot it takes.
        limit: slots of that tool.
        reads: resources it reads.
        writes: resources it writes; one that stands in both is written.
    """

    key: str
    tool: str
    limit: int
    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()


class Gate:
    """Lets calls pass; each method returns the calls that may start now, in order of arrival."""

    def __init__(self) -> None:
        self._claims: dict[str, Claim] = {}
        self._running: set[str] = set()
        self._queues: dict[str, OrderedDict[str, bool]] = {}  # resource → calls in order; True writes
        self._slots: dict[str, int] = {}  # tool → calls that run
        self._waiting: dict[str, OrderedDict[str, None]] = {}  # tool → calls that wait, in order

    def __len__(self) -> int:
        return len(self._claims)

    def running(self, tool: str) -> int:
        """How many calls of a tool run now."""
        return self._slots.get(tool, 0)

    def arrive(self, claim: Claim) -> list[str]:
        """A call comes. It starts at once where nothing is in its way, else when `leave` says so.

        Raises:
            ValueError: a call of that key is here already.
        """
        if claim.key in self._claims:
            msg = f"the call {claim.key} is at the gate already"
            raise ValueError(msg)
        self._claims[claim.key] = claim
        for resource in claim.writes:
            self._queues.setdefault(resource, OrderedDict())[claim.key] = True
        for resource in claim.reads - claim.writes:
            self._queues.setdefault(resource, OrderedDict())[claim.key] = False
        self._waiting.setdefault(claim.tool, OrderedDict())[claim.key] = None
        return self._start((claim.key,))

    def leave(self, key: str) -> list[str]:
        """A call has ended, or gives up waiting. A key that is not here changes nothing."""
        claim = self._claims.pop(key, None)
        if claim is None:
            return []
        if key in self._running:
            self._running.discard(key)
            self._slots[claim.tool] -= 1
            if not self._slots[claim.tool]:
                del self._slots[claim.tool]
        else:
            self._no_longer_waits(claim)
        candidates: list[str] = []
        for resource in claim.reads | claim.writes:
            queue = self._queues[resource]
            del queue[key]
            if queue:
                candidates += self._front(queue)
            else:
                del self._queues[resource]
        # A slot, or the place in front of a slot, is free: the first of this tool that nothing else holds may go.
        candidates += self._waiting.get(claim.tool, ())
        return self._start(candidates)

    def _front(self, queue: OrderedDict[str, bool]) -> list[str]:
        """The calls that may use a resource now: its first writer, or all readers before the first writer."""
        front: list[str] = []
        for key, writes in queue.items():
            if writes:
                return front or [key]
            front.append(key)
        return front

    def _start(self, candidates: Iterable[str]) -> list[str]:
        started: list[str] = []
        for key in candidates:
            if key in self._running:
                continue
            claim = self._claims[key]
            if self._slots.get(claim.tool, 0) >= claim.limit or not self._is_free(claim):
                continue
            self._running.add(key)
            self._slots[claim.tool] = self._slots.get(claim.tool, 0) + 1
            self._no_longer_waits(claim)
            started.append(key)
        return started

    def _is_free(self, claim: Claim) -> bool:
        for resource in claim.writes:
            if next(iter(self._queues[resource])) != claim.key:
                return False
        for resource in claim.reads - claim.writes:
            for key, writes in self._queues[resource].items():
                if writes:
                    return False
                if key == claim.key:
                    break
        return True

    def _no_longer_waits(self, claim: Claim) -> None:
        waiting = self._waiting[claim.tool]
        del waiting[claim.key]
        if not waiting:
            del self._waiting[claim.tool]
