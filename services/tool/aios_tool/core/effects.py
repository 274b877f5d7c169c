"""What may be done about a run that did not end well, by what the tool says about its effects."""

from typing import Literal

from aios_proto.errors import (
    AiosError,
    SyscallCancelled,
    ToolFailed,
    ToolInvalidOutput,
    ToolLimitExceeded,
    ToolUnavailable,
)
from aios_proto.messages.tool import ToolSpec

Failure = Literal["not_started", "owner_lost", "timeout", "said_no", "invalid_output"]

FIRST_PAUSE_S = 0.05
_PAUSE_GROWTH = 3.0


def may_run_again(spec: ToolSpec, failure: Failure, runs: int, *, retryable: bool) -> bool:
    """Whether to run the tool again for the same call.

    What certainly did not run may be tried again by any tool that declares retries; what may have run, only by one
    whose repetition does no harm. A lost owner is always replaced for those: another process may still serve the tool.

    Args:
        spec: of the tool.
        failure: of the last run.
        runs: so far.
        retryable: whether the tool itself said that trying again may help.
    """
    if not spec.repeatable or failure in ("not_started", "invalid_output"):
        return False
    if failure == "owner_lost":
        return runs <= max(spec.retries, 1)
    return runs <= spec.retries and (failure == "timeout" or retryable)


def pause_s(runs: int) -> float:
    """Seconds to wait before the run after that many."""
    return FIRST_PAUSE_S * _PAUSE_GROWTH ** (runs - 1)


def counts_against(failure: Failure, error: AiosError) -> bool:
    """Whether a failure says that whoever serves the tool is not well; see `Breaker`."""
    return failure in ("owner_lost", "timeout", "invalid_output") or isinstance(error, ToolUnavailable)


def not_started(name: str) -> AiosError:
    """Nobody took the call."""
    return ToolUnavailable(f"no process serves the tool {name} now", retry_after_s=1)


def owner_lost(spec: ToolSpec) -> AiosError:
    """Whoever ran it is gone."""
    if spec.repeatable:
        return ToolFailed(f"the process that ran {spec.name} was lost", retryable=True)
    return ToolFailed(f"the process that ran {spec.name} was lost; it may have had its effect or not", retryable=False)


def timed_out(spec: ToolSpec, timeout_s: float) -> AiosError:
    """The tool took too long."""
    return ToolLimitExceeded(f"{spec.name} did not end within its {timeout_s:.3g} s", retryable=spec.repeatable)


def cancelled(spec: ToolSpec) -> SyscallCancelled:
    """Its caller gave the call up while the tool ran."""
    if not has_effects(spec):
        return SyscallCancelled("the caller cancelled the call")
    return SyscallCancelled(f"the caller cancelled the call while {spec.name} ran; it may have had its effect or not")


def has_effects(spec: ToolSpec) -> bool:
    """Whether a run may change anything."""
    return "read_only" not in spec.effects


def interrupted_before(spec: ToolSpec) -> AiosError:
    """A manager that is gone had begun the call."""
    return ToolFailed(
        f"the tool manager was lost while it ran {spec.name}; it may have had its effect or not", retryable=False
    )


def invalid_output(spec: ToolSpec, path: str, reason: str) -> AiosError:
    """The answer is not what the tool's own schema says."""
    return ToolInvalidOutput(f"the answer of {spec.name} is not what it declares: {path}: {reason}", field=path)
