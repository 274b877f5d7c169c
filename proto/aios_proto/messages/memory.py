"""Notes of agents and of pools: `memory.add get update remove search list inject forget grant revoke`, `memory.pool.*`.

A note belongs to the agent that made it, or to a pool. Where a request has both `pool` and `agent`, at most one may be
given: `agent` names another agent of the tenant, who must have granted the caller to read.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, model_validator

from aios_proto.messages.base import Body, Result
from aios_proto.names import Name

SearchMode = Literal["semantic", "keyword", "hybrid"]
Right = Literal["read", "write"]
MemoryId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$", description="as `memory.add` gave it")]
Tag = Annotated[str, Field(min_length=1, max_length=128)]
Tags = Annotated[list[Tag], Field(max_length=64)]


class _Readable(Body):
    """Whose notes are read: the caller's own, a pool's, or another agent's."""

    pool: Name | None = None
    agent: Name | None = Field(None, description="another agent that has granted the caller to read")

    @model_validator(mode="after")
    def _one_owner(self) -> Self:
        if self.pool is not None and self.agent is not None:
            msg = "pool and agent cannot both be given"
            raise ValueError(msg)
        return self


class AddRequest(Body):
    """`memory.add`: a new note, the agent's own or a pool's."""

    content: str = Field(min_length=1)
    tags: Tags = Field(default_factory=list)
    metadata: dict[str, JsonValue] = Field(default_factory=dict)
    pool: Name | None = None
    ttl_s: float | None = Field(None, ge=1, le=10 * 365 * 86400, description="seconds after which the note is gone")
    agentic: bool = Field(
        False, description="let the model add keywords and context, link similar notes and revise them, afterwards"
    )


class MemoryRef(_Readable):
    """`memory.get`: one note."""

    memory_id: MemoryId


class RemoveRequest(Body):
    """`memory.remove`: one note, for good."""

    memory_id: MemoryId
    pool: Name | None = None


class UpdateRequest(Body):
    """`memory.update`: fields left out keep their value."""

    memory_id: MemoryId
    content: str | None = Field(None, min_length=1)
    tags: Tags | None = None
    metadata: dict[str, JsonValue] | None = None
    pool: Name | None = None


class SearchRequest(_Readable):
    """`memory.search`. Semantic search waits for notes just written, up to two seconds."""

    query: str = Field(min_length=1, max_length=16_384)
    mode: SearchMode = "hybrid"
    limit: int = Field(10, ge=1, le=1000)
    tags: Tags = Field(default_factory=list, description="all of which a note must have")
    after_ms: int | None = Field(None, ge=0, description="made at this Unix time in milliseconds or later")
    before_ms: int | None = Field(None, ge=0, description="made before")


class ListRequest(_Readable):
    """`memory.list`: the newest first."""

    limit: int = Field(100, ge=1, le=1000)
    cursor: str | None = Field(None, max_length=128)
    tags: Tags = Field(default_factory=list)


class InjectRequest(_Readable):
    """`memory.inject`: what is worth remembering for a text, as one text within a token budget."""

    query: str = Field(min_length=1, max_length=16_384)
    budget_tokens: int = Field(ge=16, le=1_000_000)
    mode: SearchMode = "hybrid"
    limit: int = Field(20, ge=1, le=100, description="notes at most")
    tags: Tags = Field(default_factory=list)
    model: str | None = Field(None, description="whose tokens are counted; None is the pool's default")


class ForgetRequest(Body):
    """`memory.forget`: removes many notes for good: those of all the filters given, or `everything`."""

    pool: Name | None = None
    tags: Tags = Field(default_factory=list)
    before_ms: int | None = Field(None, ge=0, description="made before this Unix time in milliseconds")
    everything: bool = False

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not (self.everything or self.tags or self.before_ms is not None):
            msg = "say which notes: tags, before_ms, or everything"
            raise ValueError(msg)
        return self


class Memory(Result):
    """One note."""

    memory_id: str
    content: str
    tags: list[str]
    metadata: dict[str, JsonValue]
    created_ms: int
    updated_ms: int
    expires_ms: int | None = None
    author: str | None = Field(None, description="the agent that made it")
    keywords: list[str] = Field(default_factory=list, description="of an agentic note")
    context: str | None = Field(None, description="of an agentic note: what it is about")
    links: list[str] = Field(default_factory=list, description="of an agentic note: ids of notes it belongs with")
    score: float | None = None


class MemoryIdResult(Result):
    """The note a write made, changed or removed."""

    memory_id: str


class MemoriesResult(Result):
    """Notes, best or newest first.

    `modes` tells what a search used: a hybrid one goes on with keywords alone while no embeddings can be had.
    """

    memories: list[Memory]
    cursor: str | None = None
    modes: list[Literal["semantic", "keyword"]] = Field(default_factory=list)


class InjectResult(Result):
    """`memory.inject`: empty text and no notes where nothing was found."""

    text: str
    tokens: int
    memory_ids: list[str]
    counted: Literal["model", "estimate"] = Field(
        description="`estimate`: no model could be asked; each two bytes count as a token, more than most texts have"
    )


class ForgetResult(Result):
    """`memory.forget`."""

    forgotten: int


class GrantRequest(Body):
    """`memory.grant` and `memory.revoke`: whether another agent of the tenant may read the caller's own notes."""

    agent: Name


class GrantsResult(Result):
    """Who may read the caller's own notes."""

    readers: list[Name]


class UsageRequest(Body):
    """`memory.usage`."""

    pool: Name | None = None


class UsageResult(Result):
    """`memory.usage`: what is stored, and the quota."""

    items: int
    bytes: int
    max_items: int
    max_bytes: int
    unembedded: int = Field(description="notes semantic search does not know yet")


class PoolCreateRequest(Body):
    """`memory.pool.create`: a pool shared by those on its lists."""

    pool: Name
    readers: list[Name] = Field(default_factory=list)
    writers: list[Name] = Field(default_factory=list)


class PoolGrantRequest(Body):
    """`memory.pool.grant` and `memory.pool.revoke`."""

    pool: Name
    agent: Name
    right: Right


class PoolInfo(Result):
    """One pool."""

    pool: Name
    owner: Name
    readers: list[Name]
    writers: list[Name]


class PoolsResult(Result):
    """`memory.pool.list`: the pools the caller can read."""

    pools: list[PoolInfo]
