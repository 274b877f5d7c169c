"""When the tokens of a stream are sent on: the first at once, then together with those that follow closely."""


class Coalescer:
    """Decides for one stream.

    Args:
        interval_s: longest time a token waits.
        tokens: most tokens that wait for each other.
    """

    def __init__(self, interval_s: float, tokens: int) -> None:
        self._interval_s = interval_s
        self._most = tokens
        self._waiting = 0
        self._sent_at: float | None = None

    def add(self, tokens: int, now: float) -> float | None:
        """Takes tokens in. Returns None when everything waiting should be sent now, else when at the latest.

        Args:
            tokens: how many came.
            now: seconds of any steady clock.
        """
        self._waiting += tokens
        if self._sent_at is None or self._waiting >= self._most:
            return None
        due = self._sent_at + self._interval_s
        return due if now < due else None

    def sent(self, now: float) -> None:
        """Everything waiting has been sent."""
        self._waiting = 0
        self._sent_at = now
