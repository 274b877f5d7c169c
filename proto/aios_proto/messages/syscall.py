"""Calls about calls: `syscall.cancel`, `syscall.attach`, `syscall.list`. An agent sees its own calls only."""

from typing import Literal

from pydantic import Field

from aios_proto.messages.base import Body, Result
from aios_proto.names import SyscallId

SyscallState = Literal["parked", "waiting", "queued", "running", "ended"]
"""`parked`: waits for a human; `waiting`: for other calls; `queued`: for its turn, with a worker or in a quota."""

Effect = Literal["possible"]


class CancelRequest(Body):
    """`tool.cancel`: the same as `syscall.cancel`."""

    id: SyscallId


class CancelCallRequest(CancelRequest):
    """`syscall.cancel`: end a call of a model or a tool, or one that waits for a human or a quota, wherever it is.

    That call answers `syscall.cancelled` itself; one of a model may be gone on from later.
    """

    keep: bool = Field(
        False,
        description="keep what a running model call has made for an hour, for calls that name it in `continue_from`",
    )


class CancelResult(Result):
    """What the call was doing when the cancel arrived; one that has `ended` stays as it ended, with what it did."""

    id: SyscallId
    state: SyscallState
    effect: Effect | None = Field(
        None, description="`possible`: a tool with effects was stopped while it ran; it may have had them or not"
    )


class AttachRequest(Body):
    """`syscall.attach`: send me the frames of that call, from a place on.

    The answer is the other call's frames, under the other call's id.
    """

    id: SyscallId
    text_offset: int = Field(0, ge=0, description="Unicode code points the caller has already")


class ListRequest(Body):
    """`syscall.list`: my calls that have not ended."""

    limit: int = Field(100, ge=1, le=1000)


class SyscallInfo(Result):
    """One open call."""

    id: SyscallId
    operation: str
    state: SyscallState
    program: str
    priority: int
    deadline_ms: int
    age_s: float
    worker: str | None = None
    why: str | None = Field(None, description="why it waits, for humans")


class ListResult(Result):
    """The oldest first."""

    calls: list[SyscallInfo]
