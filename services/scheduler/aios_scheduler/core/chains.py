"""Calls that wait for calls: which of them may start, which fail with the one they wait for, which wait for nobody."""

from collections.abc import Iterator, Mapping

from aios_proto.errors import AiosError, DependencyCycle, DependencyFailed
from aios_scheduler.core.call import CallState, ModelCall
from aios_scheduler.core.dependencies import UNKNOWN_GRACE_S, Dependencies
from aios_scheduler.core.pools import Pools


class Chains:
    """Held calls.

    Args:
        calls: all open calls by their keys.
        pools: those of them that may run.
    """

    def __init__(self, calls: Mapping[str, ModelCall], pools: Pools) -> None:
        self._calls = calls
        self._pools = pools
        self._dependencies = Dependencies()
        self._unresolved: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._dependencies)

    def missing(self, call: ModelCall) -> list[str]:
        """Keys of the calls it must wait for.

        Raises:
            DependencyFailed: one of them failed.
            DependencyCycle: one of them waits for it.
        """
        missing = []
        for key in call.after:
            outcome = None if key in self._calls else self._dependencies.outcome(key)
            if outcome is False:
                raise DependencyFailed(f"the call {_id_of(key)} that this one waits for failed", field="Aios-After")
            if outcome is None:
                missing.append(key)
        if missing and self._dependencies.closes_cycle(call.key, missing):
            raise DependencyCycle("the calls would wait for each other for ever", field="Aios-After")
        return missing

    def unknown_ends(self, call: ModelCall) -> list[str]:
        """Keys of calls that a call waits for and of which nothing is known here: they may have ended long ago."""
        return [key for key in call.after if key not in self._calls and self._dependencies.outcome(key) is None]

    def waits_for(self, call: ModelCall) -> list[str]:
        """Ids of the calls that a held call still waits for."""
        return sorted(_id_of(key) for key in self._dependencies.missing(call.key))

    def is_awaited(self, key: str) -> bool:
        """Whether calls wait for this one."""
        return bool(self._dependencies.waiters(key))

    def hold(self, call: ModelCall, missing: list[str], now: float) -> None:
        """A call waits for these; the chains behind them are longer now."""
        call.state = CallState.HELD
        self._dependencies.hold(call, missing)
        if any(key not in self._calls for key in missing):
            self._unresolved[call.key] = now + UNKNOWN_GRACE_S
        for waiter_key, key in self._dependencies.ancestors(call.key):
            waiter, awaited = self._calls.get(waiter_key), self._calls.get(key)
            if waiter is None or awaited is None or awaited.work + waiter.path_work <= awaited.path_work:
                continue
            awaited.path_work = awaited.work + waiter.path_work
            if awaited.state is CallState.QUEUED:
                pool = self._pools.of(awaited)
                pool.queue.remove(awaited)
                pool.assignment.enqueue(awaited)

    def drop(self, key: str) -> None:
        """A call has ended, and waits for nothing any more."""
        self._unresolved.pop(key, None)
        self._dependencies.drop(key)

    def succeeded(self, key: str) -> list[ModelCall]:
        """A call has a result: the calls that need wait no longer."""
        self._dependencies.note_end(key, succeeded=True)
        free = []
        for waiter in self._dependencies.release(key):
            self._unresolved.pop(waiter, None)
            call = self._calls.get(waiter)
            if call is not None:
                free.append(call)
        return free

    def failed(self, key: str, cause: AiosError) -> Iterator[tuple[ModelCall, AiosError]]:
        """A call has none: the calls that fail with it, and what to tell their callers."""
        self._dependencies.note_end(key, succeeded=False)
        for waiter in self._dependencies.waiters(key):
            call = self._calls.get(waiter)
            if call is not None:
                text = f"the call {_id_of(key)} that this one waits for failed: {cause.code}: {cause.message}"
                yield call, DependencyFailed(text)
        self._dependencies.forget(key)

    def next_giving_up(self) -> float | None:
        """When the next call has waited long enough for one that nobody has heard of (Unix seconds)."""
        return next(iter(self._unresolved.values()), None)

    def give_up(self, now: float) -> Iterator[tuple[ModelCall, AiosError]]:
        """Calls that waited long enough for calls nobody has heard of."""
        while self._unresolved:
            key, until = next(iter(self._unresolved.items()))
            if until > now:
                return
            del self._unresolved[key]
            call = self._calls.get(key)
            if call is None or call.state is not CallState.HELD:
                continue
            unknown = [_id_of(name) for name in self._dependencies.missing(key) if name not in self._calls]
            if unknown:
                text = f"calls that this one waits for are not known: {', '.join(sorted(unknown))}"
                yield call, DependencyFailed(text, field="Aios-After")


def _id_of(key: str) -> str:
    return key.rsplit(".", 1)[-1]
