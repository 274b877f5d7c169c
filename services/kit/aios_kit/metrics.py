"""What every service counts: calls by operation and outcome, their duration, and work in flight.

Labels are bounded: operations and error codes, never ids, agents or inboxes.
"""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """One service's metrics, in a registry of their own, so that several services can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.calls = Counter(
            "aios_calls",
            "Calls ended here, by outcome: `ok` or an error code.",
            ["operation", "outcome"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "aios_call_seconds",
            "Time a call spent in this service.",
            ["operation"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.in_flight = Gauge("aios_in_flight", "Calls being worked on here.", registry=self.registry)
        self._before: list[Callable[[], None]] = []

    def before_shown(self, hook: Callable[[], None]) -> None:
        """Calls `hook` before each look at the metrics: whoever counts much adds it up there."""
        self._before.append(hook)

    def text(self) -> bytes:
        """The exposition text for Prometheus."""
        for hook in self._before:
            hook()
        return generate_latest(self.registry)
