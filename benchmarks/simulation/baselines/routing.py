"""What the baselines share: how many tokens are on each engine, and the three usual ways to choose one."""

from simulation.model import Fleet, Order, SimCall


class Quiet:
    """A strategy that does nothing of its own accord."""

    submits_graphs = False

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.tokens = [0] * len(fleet.engines)
        self.calls = [0] * len(fleet.engines)

    def took(self, call: SimCall, worker: int) -> None:
        """A call goes to an engine."""
        self.tokens[worker] += reserve(call)
        self.calls[worker] += 1

    def left(self, call: SimCall, worker: int) -> None:
        """It has left it; call it with `made` as it was when it came."""
        self.tokens[worker] -= reserve(call)
        self.calls[worker] -= 1

    def fits(self, call: SimCall, worker: int) -> bool:
        """Whether an engine can admit a call at once: input and all it may generate fit its KV cache."""
        return self.tokens[worker] + reserve(call) <= self.fleet.engines[worker].kv_tokens

    @property
    def least_loaded(self) -> int:
        """The engine with the fewest tokens."""
        return min(range(len(self.tokens)), key=lambda worker: (self.tokens[worker], worker))

    def first_token(self, call: SimCall, now: float) -> list[Order]:
        return []

    def stopped(self, call: SimCall, now: float) -> list[Order]:
        return []

    def tick(self, now: float) -> list[Order]:
        return []

    def next_wake(self, now: float) -> float | None:
        return None


def reserve(call: SimCall) -> int:
    """KV an engine reserves for a call: what is in its prompt and what it may generate; the sum survives preemption."""
    return call.spec.prompt_tokens + call.spec.max_tokens
