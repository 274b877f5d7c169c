"""Conversations: `context.open append get list fork snapshot restore compress close pin grant discard window record`.

A context is an append-only log of turns. Every change makes a new version; what a version showed can be read and
forked as long as the context lives. Turns are numbered from 0 in the order they were written; summaries are turns too.
"""

from typing import Annotated, Literal

from pydantic import Field

from aios_proto.messages.base import Body, Result
from aios_proto.messages.llm import ChatMessage
from aios_proto.names import Name, SyscallId

WindowPolicy = Literal["truncate", "sliding", "summarise"]

MIN_WINDOW_TOKENS = 16
MAX_READERS = 64
MAX_TTL_S = 100 * 365 * 24 * 3600

SnapshotId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class OpenRequest(Body):
    """`context.open`: a new, empty conversation, or one that starts with `messages`."""

    context: Name | None = Field(None, description="None lets the manager choose a name")
    window_tokens: int | None = Field(
        None, ge=MIN_WINDOW_TOKENS, description="most tokens of a prompt made of it; None is what the model takes"
    )
    policy: WindowPolicy = Field("truncate", description="what becomes of turns that do not fit the window")
    messages: list[ChatMessage] = Field(default_factory=list)
    pinned: bool = Field(False, description="whether these turns stay in every window")
    model: str | None = Field(None, description="whose tokens are counted; None is the pool's default model")
    ttl_s: float | None = Field(
        None,
        gt=0,
        le=MAX_TTL_S,
        description="seconds it is kept after its last change; None is the installation's default",
    )


class ContextRef(Body):
    """Names one of the caller's own contexts."""

    context: Name


class GetRequest(ContextRef):
    """`context.get`: the turns as they stand, or as they stood at a version."""

    owner: Name | None = Field(None, description="another agent of the tenant that has granted reading")
    at_version: int | None = Field(None, ge=1)
    full: bool = Field(False, description="also the turns that a summary stands for")
    skip: int = Field(0, ge=0, description="how many of the messages to leave out, because they were read before")


class AppendRequest(Body):
    """`context.append`: turns at the end. With `expect_version` it is a compare-and-set."""

    context: Name
    messages: list[ChatMessage] = Field(min_length=1)
    pinned: bool = Field(False, description="whether these turns stay in every window")
    expect_version: int | None = Field(None, ge=1)


class PinRequest(Body):
    """`context.pin`: keeps a turn in every window, or no longer."""

    context: Name
    turn: int = Field(ge=0, description="its number")
    pinned: bool = True


class GrantRequest(Body):
    """`context.grant`: lets another agent of the tenant read and fork this context, or no longer."""

    context: Name
    agent: Name
    revoke: bool = False


class ForkRequest(Body):
    """`context.fork`: a context of its own that shares the past (copy on write) up to `at_version`."""

    context: Name
    owner: Name | None = Field(None, description="another agent of the tenant that has granted reading")
    fork: Name | None = Field(None, description="name of the new context; None lets the manager choose")
    at_version: int | None = Field(None, ge=1)


class SnapshotRequest(ContextRef):
    """`context.snapshot`: keeps the context as it is now."""

    ttl_s: float | None = Field(
        None, gt=0, le=MAX_TTL_S, description="seconds it is kept; None is the installation's default"
    )


class SnapshotInfo(Result):
    """`context.snapshot`: an immutable copy of a context."""

    snapshot: str
    context: Name
    version: int
    turns: int
    digest: str = Field(description="SHA-256 over the stored log, in hexadecimal")
    expires_ms: int | None = Field(None, description="Unix time in milliseconds; None keeps it until it is discarded")


class SnapshotRef(Body):
    """`context.discard`: names the snapshot to remove."""

    snapshot: SnapshotId


class RestoreRequest(Body):
    """`context.restore`: a context as the snapshot has it: a new one, or an existing one taken back to it."""

    snapshot: SnapshotId
    context: Name | None = Field(None, description="an existing context is replaced; None lets the manager choose")


class CompressRequest(Body):
    """`context.compress`: puts a summary in the place of the oldest turns, keeping system and pinned turns.

    The turns it stands for stay in the log and can be read with `full`.
    """

    context: Name
    target_tokens: int = Field(ge=MIN_WINDOW_TOKENS)
    model: str | None = Field(None, description="who counts and summarises; None is the context's model")


class CompressResult(Result):
    """What compression did, in tokens of the context's model."""

    context: Name
    version: int
    before_tokens: int
    after_tokens: int
    summarised_turns: int = 0
    model_calls: int = Field(0, description="calls of the model it took")
    spent_prompt_tokens: int = Field(0, description="tokens those calls read")
    spent_completion_tokens: int = Field(0, description="tokens those calls wrote")


class ContextInfo(Result):
    """The head of one context."""

    context: Name
    version: int
    policy: WindowPolicy
    turns: int = Field(description="turns in the log, those that a summary stands for included")
    bytes: int = 0
    window_tokens: int | None = None
    model: str | None = None
    readers: list[Name] = Field(default_factory=list, description="other agents that may read it")
    expires_ms: int | None = Field(None, description="Unix time in milliseconds unless it changes before")
    digest: str = Field("", description="SHA-256 over the stored log, in hexadecimal")
    tokens: int | None = Field(None, description="of all turns shown, where they have been counted")


class ContextListResult(Result):
    """`context.list`: the caller's own contexts and snapshots, by name."""

    contexts: list[ContextInfo]
    snapshots: list[SnapshotInfo] = Field(default_factory=list)


class TurnInfo(Result):
    """What is known of one turn beside its message."""

    turn: int = Field(description="its number")
    version: int = Field(description="with which it was written")
    pinned: bool = False
    summary_of: tuple[int, int] | None = Field(None, description="first and last turn this summary stands for")
    tokens: int | None = Field(None, description="of the context's model, where they have been counted")


class ContextResult(ContextInfo):
    """`context.get`: the head and its turns."""

    messages: list[ChatMessage]
    details: list[TurnInfo] = Field(default_factory=list, description="one for each message")
    next_skip: int | None = Field(None, description="the rest did not fit the answer: ask again with this `skip`")


class WindowRequest(Body):
    """`context.window`: the messages a model call on this context sends."""

    context: Name
    messages: list[ChatMessage] = Field(default_factory=list, description="new turns that follow")
    model: str | None = None
    max_tokens: int | None = Field(
        None, ge=MIN_WINDOW_TOKENS, description="most tokens of the prompt; None is the context's window"
    )
    for_call: SyscallId | None = Field(None, description="as it was before this call's own turns were recorded")


class WindowResult(Result):
    """What of a conversation goes into a prompt."""

    context: Name
    version: int
    messages: list[ChatMessage]
    tokens: int = Field(description="of the prompt, as counted turn by turn")
    left_out: int = Field(0, description="turns that did not fit")
    left_out_tokens: int = 0


class RecordRequest(Body):
    """`context.record`: the new turns of a model call and its answer, once for each call id."""

    context: Name
    messages: list[ChatMessage] = Field(min_length=1)
    for_call: SyscallId
