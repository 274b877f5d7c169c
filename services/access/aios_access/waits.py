"""Which calls wait for a quota, here and on other replicas, and what becomes of one that is sent again meanwhile.

A call waits on the replica that took it in. Each replica tells the others which calls begin and end to wait there, so
whichever of them is asked knows where a call is. The same call sent again joins the one that waits: it would take a
second share, and its refusal would reach the caller while the first one runs.
"""

import asyncio
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from aios_access.charges import Charge
from aios_access.core import Admitted
from aios_access.hearing import runs_once
from aios_proto.errors import AiosError, InvalidRequest, ResourceConflict, SyscallCancelled
from aios_proto.messages.syscall import SyscallInfo

_MOST_INBOXES = 8
_MOST_CANCELLED = 10_000
CANCELLED_S: Final = 60.0
"""For so long a cancelled call that arrives again is refused: a copy of it may have been on its way."""

Elsewhere = Literal["passed", "joined"]
"""What became of a call that waits no longer here: another replica let it pass, or waits for it too and goes on."""


class News(BaseModel):
    """What replicas tell each other.

    Attributes:
        kind: `begun`: a call waits; `over`: it does no longer; `again`: it was sent again to another replica than
            waits for it; `passed`: the sender let it pass; `tell`: the sender knows nothing yet.
        by: the sender.
        to: the one replica that is meant; empty is all.
        key: of the call.
        since_us: when it began to wait, in Unix microseconds.
        until_ms: its deadline.
        operation: of the call.
        reply: where its caller wants its frames.
        cancelled: whether it is over because its agent cancelled it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: Literal["begun", "over", "again", "passed", "tell"]
    by: str
    to: str = ""
    key: str = ""
    since_us: int = 0
    until_ms: int = 0
    operation: str = ""
    reply: str = ""
    cancelled: bool = False


@dataclass(slots=True)
class Waiting:
    """A call that waits on this replica.

    Attributes:
        charge: what it takes; its `pause` says what it waits for.
        since_us: when it was taken in, in Unix microseconds.
        task: waits for the quota; None before it has begun.
        told: whether the other replicas know.
        outcome: why it was given up; None while it waits, and where it passes or is refused by its quota.
        inboxes: where else its caller wants its frames, having sent it again or attached to it.
    """

    admitted: Admitted
    charge: Charge
    since_us: int
    task: asyncio.Task[None] | None = None
    told: bool = False
    outcome: AiosError | Elsewhere | None = None
    inboxes: list[str] = field(default_factory=list)

    @property
    def key(self) -> str:
        """Names the call."""
        return self.admitted.headers.key

    def was_given_up(self) -> bool:
        """Whether it was taken out of those that wait before it had its share."""
        return self.outcome is not None

    def join(self, operation: str, reply: str) -> None:
        """The same call was sent again.

        Raises:
            ResourceConflict: it is another call of the same id.
        """
        if operation != self.admitted.name:
            raise ResourceConflict("another call of this agent with this id waits for its quota", field="Aios-Id")
        self.listen(reply)

    def attach(self, reply: str) -> None:
        """Its agent attaches to it.

        Raises:
            InvalidRequest: sent from two inboxes it would run twice.
        """
        if not runs_once(self.admitted.name):
            raise InvalidRequest(f"{self.admitted.name} is answered only where it was called from", field="id")
        self.listen(reply)

    def listen(self, reply: str) -> None:
        """Its caller wants its frames there, too."""
        if reply != self.admitted.headers.reply and reply not in self.inboxes:
            self.inboxes = [*self.inboxes, reply][-_MOST_INBOXES:]

    def copies(self) -> list[Admitted]:
        """The call as if sent from its other inboxes: it runs once and answers each of them."""
        headers = self.admitted.headers
        return [replace(self.admitted, headers=replace(headers, reply=inbox), is_copy=True) for inbox in self.inboxes]

    def info(self, now_s: float) -> SyscallInfo:
        """What its agent is shown of it among its open calls."""
        headers, pause = self.admitted.headers, self.charge.pause
        return SyscallInfo(
            id=headers.id,
            operation=self.admitted.name,
            state="queued",
            program=headers.program or headers.agent,
            priority=headers.priority,
            deadline_ms=headers.deadline_ms or 0,
            age_s=round(max(0.0, now_s - self.since_us / 1e6), 3),
            why="a share of its quota is being leased" if pause is None else pause.why(now_s),
        )

    def news(self, by: str) -> News:
        """What the other replicas are told when it begins to wait."""
        until_ms = self.admitted.headers.deadline_ms or 0
        return News(kind="begun", by=by, key=self.key, since_us=self.since_us, until_ms=until_ms)


class Waits:
    """What one replica knows of waiting calls.

    Args:
        instance: this replica.
    """

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self._here: dict[str, Waiting] = {}
        self._elsewhere: dict[str, News] = {}
        self._cancelled: dict[str, float] = {}

    @property
    def has_any(self) -> bool:
        """Whether a call that arrives now could be waiting already, or have been cancelled while it did."""
        return bool(self._here or self._elsewhere or self._cancelled)

    def begin(self, admitted: Admitted, charge: Charge, now_us: int) -> Waiting:
        """A call waits here from now on."""
        waiting = Waiting(admitted, charge, now_us)
        self._here[waiting.key] = waiting
        return waiting

    def end(self, waiting: Waiting) -> None:
        """A call passes, or its quota refuses it: nobody else decides on it any more."""
        if self._here.get(waiting.key) is waiting:
            del self._here[waiting.key]

    def give_up(self, waiting: Waiting, outcome: AiosError | Elsewhere) -> None:
        """Ends a wait that has not ended; its task finds out why."""
        waiting.outcome = outcome
        self.end(waiting)
        if waiting.task is not None:
            waiting.task.cancel()

    def here(self, key: str) -> Waiting | None:
        """The call of this key that waits here."""
        return self._here.get(key)

    def all_here(self) -> list[Waiting]:
        """All that wait here."""
        return list(self._here.values())

    def elsewhere(self, key: str, now_ms: int) -> News | None:
        """The call of this key that waits on another replica, as far as is known."""
        found = self._elsewhere.get(key)
        if found is not None and found.until_ms < now_ms:
            del self._elsewhere[key]
            return None
        return found

    def owners(self, agent_key: str, now_ms: int) -> set[str]:
        """The other replicas where calls of this agent wait, as far as is known."""
        prefix = f"{agent_key}."
        for key in [key for key, news in self._elsewhere.items() if news.until_ms < now_ms]:
            del self._elsewhere[key]
        return {news.by for key, news in self._elsewhere.items() if key.startswith(prefix)}

    def was_cancelled(self, key: str, now_s: float) -> SyscallCancelled | None:
        """The error of a call that was cancelled a moment ago."""
        until_s = self._cancelled.get(key)
        if until_s is None:
            return None
        if until_s < now_s:
            del self._cancelled[key]
            return None
        return cancelled()

    def cancelled(self, key: str, now_s: float) -> None:
        """A call was cancelled while it waited; it is to be refused should it come again."""
        self._cancelled[key] = now_s + CANCELLED_S
        for old, until_s in list(islice(self._cancelled.items(), 2)):  # oldest first: two out for each one in
            if until_s < now_s or len(self._cancelled) > _MOST_CANCELLED:
                del self._cancelled[old]

    def forget(self, instance: str | None = None) -> None:
        """Forgets what waits on another replica; None is on all of them."""
        self._elsewhere = {} if instance is None else {k: n for k, n in self._elsewhere.items() if n.by != instance}

    def heard(self, news: News, now_s: float) -> Waiting | None:
        """Takes in that a call begins or ceases to wait on another replica.

        Returns:
            A call that waits here as well and now joins that one, which has waited for longer.
        """
        if news.kind == "over":
            known = self._elsewhere.get(news.key)
            if known is not None and known.by == news.by:
                del self._elsewhere[news.key]
            if news.cancelled:
                self.cancelled(news.key, now_s)
            return None
        own = self._here.get(news.key)
        if own is None or (news.since_us, news.by) < (own.since_us, self._instance):
            self._elsewhere[news.key] = news
            return own
        return None


def cancelled() -> SyscallCancelled:
    """What the caller of a cancelled call is told."""
    return SyscallCancelled("the caller cancelled the call while it waited for its quota")
