"""What comes back: the frames of a reply, in the order `pending_approval`? `delta`* (`done` | `error`).

Exactly one `done` or `error` ends every call. A durable call also gets `accepted` when it is on disk: it begins while
the disk is being written to, so `accepted` may come after first pieces, and of a call that ended sooner after the end,
where nobody listens any more. Each frame is one JSON object in one message to the caller's inbox.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from aios_proto.errors import ErrorBody
from aios_proto.messages.llm import TokenLogprob
from aios_proto.names import SyscallId


class _Frame(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    id: SyscallId


class Accepted(_Frame):
    """The call is stored on disk by the bus: from now on it ends in `done` or `error`, whatever process dies."""

    type: Literal["accepted"] = "accepted"
    trace_id: str | None = None


class PendingApproval(_Frame):
    """The call waits for a human."""

    type: Literal["pending_approval"] = "pending_approval"
    approval_id: str
    expires_ms: int = Field(description="Unix time in milliseconds at which the call is refused if nobody answers")


class Delta(_Frame):
    """A piece of a streamed answer.

    After a failover pieces may overlap. A reader keeps how many characters it has and drops what it has already:
    with `n` characters received, it appends `text[n - text_offset:]`; with `m` entries of `logprobs` received, it
    appends `logprobs[m - logprobs_offset:]`. An entry comes when it is certain that its token is part of the answer, so
    it may come after the frame that counts its token, as text does.
    """

    type: Literal["delta"] = "delta"
    offset: int = Field(ge=0, description="tokens of the answer before this piece")
    tokens: int = Field(ge=0, description="tokens in this piece")
    text_offset: int = Field(ge=0, description="Unicode code points of the answer before this piece")
    text: str = Field(description="whole characters only; may be empty while a character is incomplete")
    logprobs: list[TokenLogprob] | None = Field(
        None, description="of the answer's next tokens, where they are asked for"
    )
    logprobs_offset: int | None = Field(None, ge=0, description="entries before those; there if they are")


class Usage(BaseModel):
    """What a model call consumed, by the engine's own counts, in tokens."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)
    cached_tokens: int = Field(0, ge=0, description="part of prompt_tokens that the engine did not compute again")


class Timings(BaseModel):
    """Where a model call's time went, in milliseconds since access received it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    queued_ms: float = Field(ge=0, description="reached the scheduler's queue")
    scheduled_ms: float = Field(ge=0, description="given to a worker")
    first_token_ms: float | None = Field(None, ge=0)
    total_ms: float = Field(ge=0)


class Done(_Frame):
    """The call succeeded. `result` has the operation's result schema."""

    type: Literal["done"] = "done"
    result: dict[str, Any]
    usage: Usage | None = None
    timings: Timings | None = None
    worker: str | None = Field(None, description="the worker that ended a model call")


class Failed(_Frame):
    """The call failed."""

    type: Literal["error"] = "error"
    error: ErrorBody
    usage: Usage | None = None


Frame = Annotated[Accepted | PendingApproval | Delta | Done | Failed, Field(discriminator="type")]
FRAME: TypeAdapter[Accepted | PendingApproval | Delta | Done | Failed] = TypeAdapter(Frame)
