"""Which ids of durable calls are known to be new, so that one may begin before the durable queue has delivered it.

Access sends a durable call twice: at once, and through the stream, which refuses an id it had within
`IDEMPOTENCY_WINDOW_S`. The first copy may only begin where its id cannot have been used within that time.
"""

from typing import Final

GENERATION: Final = 200_000
"""One id costs about 70 bytes."""


class Arrivals:
    """Ids of the durable calls that came.

    Args:
        window_s: seconds for which an id names the same call.
        complete: whether all calls of the last `window_s` are known, because there were none before the start.
        now: seconds of a steady clock.
        generation: how many ids each of two generations keeps.
    """

    def __init__(self, window_s: float, *, complete: bool, now: float, generation: int = GENERATION) -> None:
        self._window_s = window_s
        self._generation = generation
        self._complete_since = now - window_s if complete else now
        self._generation_since = now
        self._recent: set[int] = set()
        self._older: set[int] = set()

    def add(self, key: str, now: float) -> None:
        """Remembers a call; both of its copies may be added."""
        if len(self._recent) >= self._generation or now - self._generation_since > self._window_s:
            if self._older and now - self._generation_since <= self._window_s:
                # More came than are kept: what was in the older generation is forgotten too early.
                self._complete_since = self._generation_since
            self._older, self._recent = self._recent, set()
            self._generation_since = now
        self._recent.add(hash(key))

    def known(self, key: str) -> bool:
        """Whether a call of this id came before."""
        value = hash(key)
        return value in self._recent or value in self._older

    def surely_new(self, key: str, now: float) -> bool:
        """Whether no call of this id can have come within the window."""
        return now - self._complete_since >= self._window_s and not self.known(key)
