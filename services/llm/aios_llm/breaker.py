"""Whether an engine that keeps failing is left alone for a while (circuit breaker; Nygard, "Release It!", 2007)."""


class Breaker:
    """Opens after several failures in a row, and lets a try through after a pause.

    Args:
        failures: in a row, after which nothing is let through,
        pause_s: for so long.
    """

    def __init__(self, failures: int, pause_s: float) -> None:
        self._most = failures
        self._pause_s = pause_s
        self._failures = 0
        self._open_until = 0.0

    def left_s(self, now: float) -> float:
        """Seconds until the next try; 0 where one may be made now.

        Args:
            now: seconds of any steady clock.
        """
        return max(0.0, self._open_until - now)

    def succeeded(self) -> None:
        """The engine did what it was asked."""
        self._failures = 0
        self._open_until = 0.0

    def failed(self, now: float) -> None:
        """The engine failed, or could not be reached."""
        self._failures += 1
        if self._failures >= self._most:
            self._open_until = now + self._pause_s
