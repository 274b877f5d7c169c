"""What can happen to the scheduler."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from aios_scheduler.core.call import ModelCall, WorkerId


@dataclass(frozen=True, slots=True)
class Arrived:
    """A call wants to run. `recovered`: it was accepted before this scheduler started, and must not be refused now."""

    call: ModelCall
    recovered: bool = False


@dataclass(frozen=True, slots=True)
class CancelAsked:
    """The owner of a call wants it ended, and what it has made kept if it runs and `keep` is set."""

    key: str
    keep: bool = False


@dataclass(frozen=True, slots=True)
class WorkerSeen:
    """A worker said that it lives.

    Attributes:
        incarnation: changes with every start of its process.
        limit: calls it wants at once.
        running: tokens made so far, by key of each call it works on.
        kv_tokens: tokens its KV cache holds; None where the engine does not tell.
        can_preempt: it can stop a call so that another worker goes on with it.
        engine: the same for workers that share an engine; empty where that is not known.
    """

    worker: WorkerId
    incarnation: str
    model: str
    limit: int
    ready: bool
    running: Mapping[str, int]
    max_input_tokens: int = 0
    max_total_tokens: int = 0
    kv_tokens: int | None = None
    can_preempt: bool = False
    engine: str = ""


@dataclass(frozen=True, slots=True)
class WorkerLeft:
    """A worker said goodbye: it has ended or returned all its calls."""

    worker: WorkerId
    incarnation: str


@dataclass(frozen=True, slots=True)
class ResultMade:
    """The caller of a running call has its result; `RunEnded` follows when that is stored."""

    key: str
    worker: WorkerId


@dataclass(frozen=True, slots=True)
class RunEnded:
    """A worker has sent the last frame of a call.

    Attributes:
        succeeded: it has a result; calls that wait for it may start.
        tool: name of the tool the answer asks for; empty where it asks for none.
    """

    key: str
    worker: WorkerId
    succeeded: bool = True
    code: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    tool: str = ""


@dataclass(frozen=True, slots=True)
class RunReturned:
    """A worker could not run a call, or was told to stop it, and sent nothing final. `tokens`: it had made so many."""

    key: str
    worker: WorkerId
    attempt: int
    reason: Literal["overloaded", "unavailable", "draining", "failed", "preempted"]
    message: str = ""
    retry_after_s: float = 0.0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class ResultChecked:
    """Answer to `CheckResult`: whether the call had ended."""

    key: str
    ended: bool


@dataclass(frozen=True, slots=True)
class EndKnown:
    """A call that ended before this scheduler knew of it has a result, or an error."""

    key: str
    succeeded: bool


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = (
    Arrived
    | CancelAsked
    | WorkerSeen
    | WorkerLeft
    | ResultMade
    | RunEnded
    | RunReturned
    | ResultChecked
    | EndKnown
    | Tick
)
