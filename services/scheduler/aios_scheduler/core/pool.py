"""One pool of workers: its queue, its accounts, what was learnt of its calls, and who runs where.

Pools share nothing but the calls that wait for each other: a tenant's counter in one says nothing about another, and a
model of another pool answers at other lengths.
"""

from aios_scheduler.core.accounting import Accounts
from aios_scheduler.core.assignment import Assignment
from aios_scheduler.core.call import ModelCall
from aios_scheduler.core.configuration import PoolConfiguration
from aios_scheduler.core.isolation import Isolation
from aios_scheduler.core.learnt import Learnt
from aios_scheduler.core.policies import make_policy
from aios_scheduler.core.queue import CallQueue
from aios_scheduler.core.workers import PoolWorkers

_RETRY_AFTER_BOUNDS_S = (0.5, 30.0)


class Pool:
    """See the module.

    Args:
        name: as workers say it.
        configuration: what holds here.
        workers: those of this pool.
        calls: all open calls of all pools.

    Attributes:
        open_calls: how many wait or run here.
    """

    def __init__(
        self, name: str, configuration: PoolConfiguration, workers: PoolWorkers, calls: dict[str, ModelCall]
    ) -> None:
        self.name = name
        self.configuration = configuration
        self.workers = workers
        self.accounts = Accounts(configuration.weights)
        self.learnt = Learnt()
        policy = make_policy(configuration.policy, self.accounts, self.learnt)
        self.queue = CallQueue(policy, configuration.limits)
        isolation = Isolation(lambda tenant: self.accounts.tenant(tenant).weight, configuration.flood_share)
        self.assignment = Assignment(self.queue, workers, calls, self.accounts, self.learnt, isolation)
        self.open_calls = 0
        self._calls = calls
        self._seconds_per_call = 1.0
        self._last_end: float | None = None

    def configure(self, configuration: PoolConfiguration) -> None:
        """Decides by this from now on. No waiting call is lost, also where fewer may wait from now on.

        Raises:
            InvalidRequest: there is no policy of that name.
        """
        before = self.configuration
        if configuration == before:
            return
        policy = make_policy(configuration.policy, self.accounts, self.learnt)
        self.configuration = configuration
        self.queue.limit_to(configuration.limits)
        reweighted = configuration.weights != before.weights
        if reweighted:
            self.accounts.use_weights(configuration.weights)
        if reweighted or configuration.flood_share != before.flood_share:
            mine = [call for call in self._calls.values() if call.pool == self.name]
            self.assignment.isolation.use(configuration.flood_share, mine)
        if reweighted or configuration.policy != before.policy:
            self.queue.use(policy)
        self.assignment.look_again()

    def serves(self, model: str | None) -> bool:
        """Whether a worker here takes new calls for a model; None is any."""
        return any(worker.serves(model) and worker.ready and not worker.draining for worker in self.workers)

    def estimate(self, call: ModelCall) -> None:
        """What a call that comes to this pool will likely cost, and by when it must start."""
        call.step = self.accounts.program(call).calls
        call.prompt_tokens = self.learnt.prompt_tokens(call)
        call.expected_output = self.learnt.expected_output(call)
        if call.budget_tokens is not None:
            call.expected_output = min(call.expected_output, max(1, call.budget_tokens - call.prompt_tokens))
        call.path_work = call.work
        call.needs = self.assignment.needs(call)
        if call.has_deadline:
            call.latest_start = self.assignment.deadlines.latest_start(call)

    def take_in(self, call: ModelCall, now: float) -> None:
        """A call belongs to this pool from now on."""
        self.open_calls += 1
        self.accounts.opened(call)
        self.assignment.came_back(call)
        self.assignment.isolation.asked(call.tenant, call.work, now)

    def give_away(self, call: ModelCall, now: float) -> None:
        """A call that does not run belongs to this pool no more."""
        self.open_calls -= 1
        self.queue.remove(call)
        self.assignment.close_promise(call)
        self.assignment.leave(call, now)
        self.accounts.closed(call, now)

    def next_wakes(self, now: float) -> list[float]:
        """When something happens to a waiting call by the passing of time alone (Unix seconds)."""
        times = [worker.paused_until for worker in self.workers if worker.paused_until > now]
        urgent, expiry = self.queue.next_urgent(), self.assignment.residency.next_expiry(now)
        if urgent is not None and urgent > now:
            times.append(urgent)
        if expiry is not None:
            times.append(expiry)
        return times

    def call_ended(self, now: float) -> None:
        """A worker here has answered a call."""
        if self._last_end is not None:
            gap = max(0.0, now - self._last_end)
            self._seconds_per_call += 0.1 * (gap - self._seconds_per_call)
        self._last_end = now

    def retry_after_s(self) -> float:
        """When a caller may try again for whom there is no room: when about half of those waiting have ended."""
        low, high = _RETRY_AFTER_BOUNDS_S
        return round(min(high, max(low, self._seconds_per_call * len(self.queue) / 2)), 1)
