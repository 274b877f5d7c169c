"""When a tool that keeps failing is left alone for a while, and when it is tried again."""

from collections.abc import Callable


class Breaker:
    """One tool's circuit: closed, open, or half open while one call tries it.

    Only failures of whoever serves the tool count: lost, silent, or answering what its schema forbids. A tool that says
    that it cannot do what it was asked works.

    Source: M. Nygard, Release It!, 2007, "Circuit Breaker".

    Args:
        failures: in a row, after which the circuit opens.
        rest_s: seconds it stays open at first; doubled each time the trial fails.
        longest_rest_s: the most it grows to.
    """

    def __init__(self, failures: int = 5, rest_s: float = 5.0, longest_rest_s: float = 60.0) -> None:
        self._limit = failures
        self._first_rest_s = rest_s
        self._longest_rest_s = longest_rest_s
        self._failed = 0
        self._rest_s = rest_s
        self._open_until: float | None = None
        self._trial = False

    @property
    def closed(self) -> bool:
        """Whether calls pass freely."""
        return self._open_until is None

    def wait_s(self, now: float) -> float:
        """Seconds after which a call may pass; 0 lets this one pass, on trial where the circuit is open."""
        if self._open_until is None:
            return 0.0
        if now < self._open_until:
            return self._open_until - now
        if self._trial:
            return self._first_rest_s
        self._trial = True
        return 0.0

    def ended(self, now: float, *, well: bool) -> None:
        """A call that was let pass has ended."""
        if well:
            self._failed = 0
            self._rest_s = self._first_rest_s
            self._open_until = None
            self._trial = False
            return
        self._failed += 1
        if self._trial:
            self._rest_s = min(self._rest_s * 2, self._longest_rest_s)
        elif self._failed < self._limit:
            return
        self._trial = False
        self._open_until = now + self._rest_s

    def abandoned(self) -> None:
        """A call that was let pass has ended without saying anything about the tool, as when it was cancelled."""
        self._trial = False


class Breakers:
    """One circuit a tool, by the tool's key."""

    def __init__(self, make: Callable[[], Breaker] = Breaker) -> None:
        self._make = make
        self._by_tool: dict[str, Breaker] = {}

    def of(self, key: str) -> Breaker:
        """The circuit of a tool; a new one is closed."""
        return self._by_tool.setdefault(key, self._make())

    def forget(self, key: str) -> None:
        """The tool is no more, or was registered anew."""
        self._by_tool.pop(key, None)
