"""When a call is sent again, asked for again, or given up: decisions only, with the time passed in.

Sending again is safe: the kernel runs an id once and answers as often as it is asked.
"""

from enum import Enum
from typing import Final

GRACE_S: Final = 2.0
"""How long after the deadline the kernel's own `deadline.exceeded` is waited for before the client says it itself."""

FIRST_RETRY_S: Final = 2.0
RETRY_GROWTH: Final = 1.5
LONGEST_RETRY_S: Final = 30.0

SILENCE_S: Final = 20.0
"""After so long without a frame a call that was answered before is asked for again: a frame may have been lost."""

GAP_RETRY_S: Final = 1.0

FIRST_DESERTED_RETRY_S: Final = 0.1
LONGEST_DESERTED_RETRY_S: Final = 2.0
DESERTED_PATIENCE_S: Final = 20.0
"""How long the kernel may be without any access service, as during its restart, before a call that was never answered
fails."""


UNKNOWN_RETRY_S: Final = 0.5
MOST_UNKNOWN: Final = 3
"""How often the kernel may say that it does not know the call, each time followed by sending it again, before that is
the answer."""


class Action(Enum):
    """What to do now."""

    WAIT = "wait"
    SEND = "send"
    ATTACH = "attach"
    EXPIRE = "expire"
    DESERT = "desert"


class Course:
    """One call's way from the caller's side.

    Args:
        now: seconds on the clock that all other times are of.
        deadline: when the answer is of no use any more.
        attach_only: the call was sent by somebody else; it is only asked for.
    """

    __slots__ = (
        "_attach_only",
        "_deadline",
        "_deserted_retry_s",
        "_deserted_since",
        "_due",
        "_gap_due",
        "_postponed_since",
        "_tries",
        "_unknown",
        "heard",
    )

    def __init__(self, now: float, deadline: float, *, attach_only: bool = False) -> None:
        self._attach_only = attach_only
        self._deadline = deadline
        self._due = now
        self._tries = 0
        self._gap_due = now
        self._deserted_since: float | None = None
        self._deserted_retry_s = FIRST_DESERTED_RETRY_S
        self._postponed_since: float | None = None
        self._unknown = 0
        self.heard = False

    def decide(self, now: float, *, connected: bool) -> tuple[Action, float]:
        """What to do, and when to ask again if nothing happens before."""
        expires = self._deadline + GRACE_S
        if now >= expires:
            return Action.EXPIRE, now
        if not connected:
            return Action.WAIT, expires
        if self._deserted_since is not None and not self.heard and now - self._deserted_since >= DESERTED_PATIENCE_S:
            return Action.DESERT, now
        if now < self._due:
            return Action.WAIT, min(self._due, expires)
        self._due = now + min(FIRST_RETRY_S * RETRY_GROWTH**self._tries, LONGEST_RETRY_S)
        self._tries = min(self._tries + 1, 16)
        attach = self.heard or self._attach_only
        return (Action.ATTACH if attach else Action.SEND), min(self._due, expires)

    def frame(self, now: float) -> None:
        """A frame of the call came."""
        self.heard = True
        self._tries = 0
        self._due = now + SILENCE_S
        self._deserted_since = None

    def gap(self, now: float) -> None:
        """A delta came that does not follow on what is there."""
        if now >= self._gap_due:
            self._gap_due = now + GAP_RETRY_S
            self._due = now

    def reconnected(self, now: float) -> None:
        """There is a new connection; what was sent on the old one, either way, may be lost."""
        self._tries = 0
        self._due = now

    def unknown(self, now: float) -> bool:
        """The kernel does not know the call: it has to be sent again. False where that was tried often enough."""
        if self._attach_only or self._unknown >= MOST_UNKNOWN:
            return False
        self.heard = False
        self._due = now + self._unknown * UNKNOWN_RETRY_S
        self._unknown += 1
        return True

    def parked(self) -> None:
        """The kernel says that the call waits for a human. Who runs calls does not know it, which is no fault then."""
        self._unknown = 0

    def postponed(self, now: float, retry_after_s: float) -> bool:
        """The kernel could not store the call now: it has to be sent again. False where that was tried long enough."""
        if self._attach_only:
            return False
        if self._postponed_since is None:
            self._postponed_since = now
        self.heard = False
        self._due = now + max(retry_after_s, FIRST_DESERTED_RETRY_S)
        return self._due - self._postponed_since < DESERTED_PATIENCE_S

    def deserted(self, now: float) -> None:
        """The bus says that nobody listens for system calls."""
        if self._deserted_since is None:
            self._deserted_since = now
            self._deserted_retry_s = FIRST_DESERTED_RETRY_S
        self._due = now + self._deserted_retry_s
        self._deserted_retry_s = min(self._deserted_retry_s * 2, LONGEST_DESERTED_RETRY_S)
