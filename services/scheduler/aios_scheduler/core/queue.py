"""The bounded queue of waiting calls, in the policy's order, in lanes of those that compete for the same workers.

There is a lane for each model asked for, because a call for a model nobody serves now must not hold up those behind
it, apart for calls that are bound to this pool and calls that may go to another; and one for each worker, for calls of
programs that live there. Each operation costs O(log n); what has become
stale in a heap stays there until it comes up, or until it is the greater part of all.
"""

import heapq
from collections import Counter
from collections.abc import Iterator

from aios_proto.errors import QueueFull
from aios_proto.messages.scheduler import QueueLimits
from aios_scheduler.core.call import ModelCall, WorkerId
from aios_scheduler.core.policies import Flow, Policy, Rank

_REBUILD_ABOVE = 1000

LaneId = tuple[str, ...]
"""`("free", model)`, `("free",)` for any model, the same with `"bound"`, or `("worker", pool, name)`."""


class _Lane:
    """Calls that compete, in flows."""

    __slots__ = ("entries", "flows", "heap", "tie")

    def __init__(self) -> None:
        self.entries: dict[Flow, int] = {}
        self.flows: dict[Flow, list[tuple[Rank, int, ModelCall]]] = {}
        self.heap: list[tuple[Rank, int, Flow]] = []
        self.tie = 0

    def offer(self, flow: Flow, rank: Rank) -> None:
        """Puts a flow at its place; an entry it had before is void."""
        self.tie += 1
        self.entries[flow] = self.tie
        heapq.heappush(self.heap, (rank, self.tie, flow))


class CallQueue:
    """Waiting calls. Calls are known by their key."""

    def __init__(self, policy: Policy, limits: QueueLimits) -> None:
        self._policy = policy
        self._limits = limits
        self._calls: dict[str, ModelCall] = {}
        self._lane_of: dict[str, LaneId] = {}
        self._lanes: dict[LaneId, _Lane] = {}
        self._by_tenant: Counter[str] = Counter()
        self._bytes = 0
        self._urgent: list[tuple[float, int, str]] = []
        self._entries = 0
        self._parked: set[Flow] = set()

    def __len__(self) -> int:
        return len(self._calls)

    def __iter__(self) -> Iterator[ModelCall]:
        return iter(self._calls.values())

    def __contains__(self, call: ModelCall) -> bool:
        return self._calls.get(call.key) is call

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._policy

    @property
    def size_bytes(self) -> int:
        """Bytes of the bodies of all waiting calls."""
        return self._bytes

    @property
    def by_tenant(self) -> dict[str, int]:
        """How many calls of each tenant wait."""
        return dict(self._by_tenant)

    def check_room(self, call: ModelCall, retry_after_s: float) -> None:
        """Whether one more call of this tenant may wait.

        Raises:
            QueueFull: it may not, for about `retry_after_s` seconds.
        """
        if self._by_tenant[call.tenant] >= self._limits.per_tenant:
            raise QueueFull(f"{self._limits.per_tenant} calls of this tenant wait already", retry_after_s=retry_after_s)
        if len(self._calls) >= self._limits.per_pool:
            raise QueueFull(f"{len(self._calls)} calls wait already", retry_after_s=retry_after_s)

    def push(self, call: ModelCall, worker: WorkerId | None = None) -> None:
        """Adds a call, at the place the policy gives it.

        Args:
            call: not waiting yet.
            worker: where its program lives; None lets any worker with its model take it.
        """
        self._calls[call.key] = call
        self._by_tenant[call.tenant] += 1
        self._bytes += call.size_bytes
        call.flow, call.rank = self._policy.flow(call), self._policy.rank(call)
        if self._policy.overrides_deadlines and call.has_deadline:
            heapq.heappush(self._urgent, (call.latest_start, call.order, call.key))
        self._enter(call, lane_of_model(call.model, bound=call.bound) if worker is None else ("worker", *worker))
        if self._entries > 2 * len(self._calls) + _REBUILD_ABOVE:
            self._rebuild()

    def move(self, call: ModelCall) -> None:
        """Its program has no home any more: any worker with its model may take it."""
        self._enter(call, lane_of_model(call.model, bound=call.bound))

    def remove(self, call: ModelCall) -> None:
        """Takes a call out, wherever it stands."""
        if self._calls.pop(call.key, None) is not None:
            self._lane_of.pop(call.key, None)
            self._by_tenant[call.tenant] -= 1
            self._bytes -= call.size_bytes
            if not self._by_tenant[call.tenant]:
                del self._by_tenant[call.tenant]

    def first(self, model: str) -> ModelCall | None:
        """The call that runs next on a worker with this model: of those that name it and those that name none."""
        unbound, named, any_model = self.first_unbound(model), self._head(("bound", model)), self._head(("bound",))
        if named is None and any_model is None:
            return unbound
        return min((call for call in (unbound, named, any_model) if call is not None), key=self.key)

    def first_unbound(self, model: str) -> ModelCall | None:
        """The same, of the calls that may also run in another pool."""
        named, any_model = self._head(("free", model)), self._head(("free",))
        if named is None or any_model is None:
            return named or any_model
        return min(named, any_model, key=self.key)

    def first_at(self, worker: WorkerId) -> ModelCall | None:
        """The call that runs next of those whose program lives on this worker."""
        return self._head(("worker", *worker))

    def first_urgent(self, now: float) -> ModelCall | None:
        """The call that must start now to meet its deadline, the earliest first."""
        while self._urgent:
            latest_start, order, key = self._urgent[0]
            call = self._calls.get(key)
            if call is not None and (call.latest_start, call.order) == (latest_start, order):
                return call if latest_start <= now else None
            heapq.heappop(self._urgent)
        return None

    def next_urgent(self) -> float | None:
        """When the next call becomes urgent (Unix seconds)."""
        return self._urgent[0][0] if self._urgent else None

    def key(self, call: ModelCall) -> tuple[Rank, Rank]:
        """What the policy compares waiting calls by."""
        return self._policy.flow_rank(call.flow), call.rank

    def waits_at(self, worker: WorkerId) -> bool:
        """Whether calls wait for this worker alone."""
        return ("worker", *worker) in self._lanes

    def waits_of(self, tenant: str) -> int:
        """How many calls of a tenant wait."""
        return self._by_tenant.get(tenant, 0)

    def park(self, call: ModelCall) -> None:
        """Passes over the flow of the call that `first` or `first_at` has just returned, until `unpark`."""
        self._parked.add(call.flow)
        for lane in self._lanes.values():
            lane.entries.pop(call.flow, None)

    def unpark(self) -> None:
        """Takes all flows up again."""
        for flow in self._parked:
            for lane in self._lanes.values():
                if flow in lane.flows and flow not in lane.entries:
                    lane.offer(flow, self._policy.flow_rank(flow))
        self._parked.clear()

    @property
    def parked(self) -> bool:
        """Whether flows are passed over."""
        return bool(self._parked)

    def lowered(self, flow: Flow) -> None:
        """A flow's rank fell, because what had been charged was too much."""
        for lane in self._lanes.values():
            if flow in lane.entries:
                lane.offer(flow, self._policy.flow_rank(flow))

    def use(self, policy: Policy) -> None:
        """Orders all waiting calls by another policy from now on."""
        self._policy = policy
        calls = list(self._calls.values())
        self._lanes.clear()
        self._entries = 0
        self._urgent.clear()
        for call in calls:
            self.remove(call)
            self.push(call)

    def limit_to(self, limits: QueueLimits) -> None:
        """Other bounds from now on; what waits already goes on waiting."""
        self._limits = limits

    def _enter(self, call: ModelCall, lane_id: LaneId) -> None:
        self._lane_of[call.key] = lane_id
        lane = self._lanes.get(lane_id)
        if lane is None:
            lane = self._lanes[lane_id] = _Lane()
        flow = lane.flows.get(call.flow)
        if flow is None:
            flow = lane.flows[call.flow] = []
            lane.offer(call.flow, self._policy.flow_rank(call.flow))
        lane.tie += 1
        self._entries += 1
        heapq.heappush(flow, (call.rank, lane.tie, call))

    def _rebuild(self) -> None:
        """Drops what has become stale."""
        lane_of = dict(self._lane_of)
        self._lanes.clear()
        self._entries = 0
        for call in self._calls.values():
            self._enter(call, lane_of[call.key])
        self._urgent = [entry for entry in self._urgent if entry[2] in self._calls]
        heapq.heapify(self._urgent)

    def _head(self, lane_id: LaneId) -> ModelCall | None:
        lane = self._lanes.get(lane_id)
        if lane is None:
            return None
        heap = lane.heap
        while heap:
            rank, entry, flow_id = heap[0]
            if lane.entries.get(flow_id) != entry:
                heapq.heappop(heap)
                continue
            flow = lane.flows[flow_id]
            while flow:
                head_rank, _, call = flow[0]
                if (
                    self._calls.get(call.key) is call
                    and call.rank == head_rank
                    and self._lane_of.get(call.key) == lane_id
                ):
                    break
                heapq.heappop(flow)
                self._entries -= 1
            if not flow:
                del lane.flows[flow_id], lane.entries[flow_id]
                heapq.heappop(heap)
                continue
            current = self._policy.flow_rank(flow_id)
            if current > rank:
                heapq.heapreplace(heap, (current, entry, flow_id))
                continue
            return flow[0][2]
        if not lane.flows:
            del self._lanes[lane_id]
        return None


def lane_of_model(model: str | None, *, bound: bool) -> LaneId:
    """The lane of calls that ask for a model, or for none."""
    kind = "bound" if bound else "free"
    return (kind,) if model is None else (kind, model)
