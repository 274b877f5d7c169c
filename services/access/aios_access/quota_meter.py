"""How much one replica may let pass of one limit, without asking the others for every call.

A limit is split in two. A small *base* share belongs to each replica and costs nothing to use. The rest, the *pool*, is
shared by all: a replica leases parts of it from a record in KV by compare-and-set, an eighth of what is left at a time,
so parts get smaller as the limit comes near. What has been leased never exceeds the pool and there are never more base
shares than `replicas`, so the sum of all replicas never exceeds the limit; a limit may be called exhausted while
another replica still holds an unused part.
"""

from dataclasses import dataclass
from typing import Final

POOL_PART: Final = 8
"""A lease takes one in so many of what is left in the pool."""

_ASK_AGAIN_S = 1.0


def base_share(limit: int, replicas: int) -> int:
    """What each replica may use of a limit without asking: a quarter of an even share; all of it, where it is alone."""
    return limit if replicas == 1 else limit // (4 * replicas)


@dataclass(frozen=True, slots=True)
class Exhausted:
    """Nothing is left for this call until `retry_after_s` from now."""

    retry_after_s: float


@dataclass(frozen=True, slots=True)
class NeedsLease:
    """The replica's own part does not suffice: `want` more must be leased from the pool of that window."""

    window: int
    want: int


class WindowMeter:
    """Counts amounts in windows aligned to the clock: calls in a second, tokens in an hour, money in a day.

    Args:
        limit: amount in each window.
        window_s: length of a window in seconds.
        base: part of the limit that this replica may use unasked.
        replicas: how many replicas have such a part.
    """

    def __init__(self, limit: int, window_s: float, base: int, replicas: int) -> None:
        self.limit = limit
        self.window_s = window_s
        self.base = base
        self.pool = limit - base * replicas
        self.window = -1
        self.held = base
        self.spent = 0
        self._left: int | None = None
        self._left_until = 0.0

    def limit_to(self, limit: int, window_s: float, base: int, replicas: int) -> None:
        """Another limit from now on; what is taken stays taken."""
        self.held += base - self.base
        self.limit, self.window_s, self.base, self.pool = limit, window_s, base, limit - base * replicas
        self._left = None

    def take(self, amount: int, now: float) -> Exhausted | NeedsLease | None:
        """Takes an amount, if this replica holds it; None says it did."""
        window = int(now // self.window_s)
        if window != self.window:
            self._roll(window)
        if self.spent + amount <= self.held:
            self.spent += amount
            return None
        want = self.spent + amount - self.held
        known = self.pool if self._left is None or now >= self._left_until else self._left
        debt = self.spent - self.held
        if want > known and debt > 0 and known > 0:
            return NeedsLease(self.window, min(debt, known))  # a debt is paid off, though nothing is left for the call
        if want > known:
            return Exhausted(max(0.0, (self.window + 1) * self.window_s - now))
        return NeedsLease(self.window, want)

    def take_ahead(self, amount: int, now: float) -> bool:
        """Takes an amount, of the next windows where this one has no more, up to one limit; whether it did."""
        window = int(now // self.window_s)
        if window != self.window:
            self._roll(window)
        if self.spent + amount > self.held + self.limit:
            return False
        self.spent += amount
        return True

    def leased(self, window: int, amount: int, left: int, now: float) -> None:
        """Takes in what a lease brought, and what is left in the pool after it."""
        self._roll(window)
        if window == self.window:
            self.held += amount
            self._left = left
            self._left_until = now + _ASK_AGAIN_S

    def give_back(self, amount: int, window: int) -> None:
        """Returns what was taken in a window and not used; negative where more was used than taken."""
        if window == self.window:
            self.spent -= amount
        elif amount < 0:
            # Used now, whichever window it was taken in.
            self.spent -= amount

    def left(self) -> int:
        """What this replica may still use in this window, with what it may lease, as far as it knows."""
        return max(0, self.held - self.spent + (self.pool if self._left is None else self._left))

    def unused(self) -> tuple[int, int]:
        """The window, and how much of the leased part was not used: what a replica that leaves returns to the pool."""
        return self.window, max(0, min(self.held - self.spent, self.held - self.base))

    def _roll(self, window: int) -> None:
        if window > self.window:
            debt = max(0, self.spent - self.held) if self.window >= 0 else 0
            unused = window - self.window - 1  # each pays off what it could have given
            self.window = window
            self.held = self.base
            self.spent = max(0, debt - unused * (self.base + self.pool))
            self._left = None


class SlotMeter:
    """Counts what is open now: calls that have begun and not ended.

    Args:
        limit: how many may be open on all replicas together.
        base: how many of them this replica may open unasked.
        replicas: how many replicas have such a part.
    """

    def __init__(self, limit: int, base: int, replicas: int) -> None:
        self.limit = limit
        self.base = base
        self.pool = limit - base * replicas
        self.leased = 0
        self.used = 0
        self.full_until = 0.0
        """Until when (on a steady clock) the pool need not be asked again."""

    def limit_to(self, limit: int, base: int, replicas: int) -> None:
        """Another limit from now on; what is open stays open."""
        self.limit, self.base, self.pool = limit, base, limit - base * replicas

    def take(self) -> bool:
        """Opens one, if this replica holds a slot."""
        if self.used < self.base + self.leased:
            self.used += 1
            return True
        return False

    def release(self) -> None:
        """One has ended."""
        self.used = max(0, self.used - 1)

    def idle(self) -> int:
        """Leased slots that nothing uses: to be returned."""
        return max(0, self.leased - max(0, self.used - self.base))
