"""What the scheduler wants done."""

from dataclasses import dataclass
from typing import Literal

from aios_proto.errors import AiosError
from aios_scheduler.core.call import ModelCall, WorkerId


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Give this call to this worker, for the `attempt`-th time; not to a later start of it than `incarnation`."""

    call: ModelCall
    worker: WorkerId
    attempt: int
    incarnation: str = ""


@dataclass(frozen=True, slots=True)
class Adopt:
    """This worker runs the call already: tell it who else listens."""

    call: ModelCall
    worker: WorkerId


@dataclass(frozen=True, slots=True)
class CancelRun:
    """Tell this worker to end this call; the worker answers the caller."""

    call: ModelCall
    worker: WorkerId
    reason: Literal["cancelled", "paused", "deadline"]


@dataclass(frozen=True, slots=True)
class Preempt:
    """Tell this worker to stop this call and return it, so that a more urgent one can run."""

    call: ModelCall
    worker: WorkerId


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer the caller with this error; the call has ended."""

    call: ModelCall
    error: AiosError


@dataclass(frozen=True, slots=True)
class Forget:
    """The call has ended and was answered: take it out of the durable queue."""

    call: ModelCall
    worker: WorkerId | None


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Look up whether this durable call ended before its worker was lost, and say so with `ResultChecked`."""

    call: ModelCall


Command = Dispatch | Adopt | CancelRun | Preempt | Refuse | Forget | CheckResult
