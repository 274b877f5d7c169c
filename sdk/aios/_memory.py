"""Notes that last: `agent.memory`."""

from collections.abc import Mapping, Sequence
from typing import Final, Unpack

from pydantic import JsonValue

from aios._call import Call
from aios._exchange import Exchange
from aios._reply import result_of
from aios._request import CallOptions
from aios_proto.frames import Done
from aios_proto.messages.memory import (
    ForgetResult,
    GrantsResult,
    InjectResult,
    MemoriesResult,
    Memory,
    MemoryIdResult,
    PoolInfo,
    PoolsResult,
    Right,
    SearchMode,
    UsageResult,
)

# In the class `list` is a method.
Pools = list[PoolInfo]

_memory: Final = result_of(Memory)
_memories: Final = result_of(MemoriesResult)
_memory_id: Final = result_of(MemoryIdResult)
_pool: Final = result_of(PoolInfo)
_grants: Final = result_of(GrantsResult)
_pools_result: Final = result_of(PoolsResult)


class Memories:
    """The notes of one agent, and of the pools it may use.

    Every method is on its way when it returns, and awaited for its result. The names of AIOS work too: `add_memory`,
    `get_memory`, `update_memory`, `remove_memory`, `retrieve_memory`, and of its SDK `create_memory`, `delete_memory`,
    `search_memories`.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def add(
        self,
        content: str,
        *,
        tags: Sequence[str] = (),
        metadata: Mapping[str, JsonValue] | None = None,
        pool: str | None = None,
        ttl_s: float | None = None,
        agentic: bool = False,
        **options: Unpack[CallOptions],
    ) -> Call[MemoryIdResult]:
        """Stores a note; when the call is answered it is on disk.

        Args:
            content: any text.
            tags: by which it can be asked for; at most 64.
            metadata: a JSON object that is kept with it.
            pool: a pool instead of the agent's own notes.
            ttl_s: seconds after which it is gone; None keeps it.
            agentic: let the model describe it and link it to similar notes, after the call was answered.
            **options: see `CallOptions`.

        Raises:
            InvalidRequest: an argument is wrong; `field` names it.
            RequestTooLarge: the note has more than 1 MiB.
        """
        body = {
            "content": content,
            "tags": list(tags),
            "metadata": dict(metadata or {}),
            "pool": pool,
            "ttl_s": ttl_s,
            "agentic": agentic or None,
        }
        return self._exchange.call("memory", "add", body, _memory_id, options, check=True)

    def get(
        self, memory_id: str, *, pool: str | None = None, agent: str | None = None, **options: Unpack[CallOptions]
    ) -> Call[Memory]:
        """Reads one note."""
        body = {"memory_id": memory_id, "pool": pool, "agent": agent}
        return self._exchange.call("memory", "get", body, _memory, options, check=True)

    def update(
        self,
        memory_id: str,
        content: str | None = None,
        *,
        tags: Sequence[str] | None = None,
        metadata: Mapping[str, JsonValue] | None = None,
        pool: str | None = None,
        **options: Unpack[CallOptions],
    ) -> Call[MemoryIdResult]:
        """Changes a note; what is left out stays."""
        body = {
            "memory_id": memory_id,
            "content": content,
            "tags": None if tags is None else list(tags),
            "metadata": None if metadata is None else dict(metadata),
            "pool": pool,
        }
        return self._exchange.call("memory", "update", body, _memory_id, options, check=True)

    def remove(
        self, memory_id: str, *, pool: str | None = None, **options: Unpack[CallOptions]
    ) -> Call[MemoryIdResult]:
        """Removes a note for good."""
        body = {"memory_id": memory_id, "pool": pool}
        return self._exchange.call("memory", "remove", body, _memory_id, options, check=True)

    def search(
        self,
        query: str,
        *,
        mode: SearchMode = "hybrid",
        limit: int = 10,
        tags: Sequence[str] = (),
        after_ms: int | None = None,
        before_ms: int | None = None,
        pool: str | None = None,
        agent: str | None = None,
        **options: Unpack[CallOptions],
    ) -> Call[MemoriesResult]:
        """Finds notes, the best first.

        Args:
            query: what they should be about.
            mode: by meaning, by words, or by both.
            limit: notes at most.
            tags: all of which a note must have.
            after_ms: made at this Unix time in milliseconds or later.
            before_ms: made before.
            pool: of a pool instead of the agent's own.
            agent: of another agent of the tenant, which has granted it.
            **options: see `CallOptions`.
        """
        body = {
            "query": query,
            "mode": mode,
            "limit": limit,
            "tags": list(tags),
            "after_ms": after_ms,
            "before_ms": before_ms,
            "pool": pool,
            "agent": agent,
        }
        return self._exchange.call("memory", "search", body, _memories, options, check=True)

    def list(
        self,
        *,
        limit: int = 100,
        cursor: str | None = None,
        tags: Sequence[str] = (),
        pool: str | None = None,
        agent: str | None = None,
        **options: Unpack[CallOptions],
    ) -> Call[MemoriesResult]:
        """Reads notes, the newest first; the result's `cursor` goes on where there are more."""
        body = {"limit": limit, "cursor": cursor, "tags": [*tags], "pool": pool, "agent": agent}
        return self._exchange.call("memory", "list", body, _memories, options, check=True)

    def inject(
        self,
        query: str,
        budget_tokens: int,
        *,
        mode: SearchMode = "hybrid",
        limit: int = 20,
        tags: Sequence[str] = (),
        model: str | None = None,
        pool: str | None = None,
        agent: str | None = None,
        **options: Unpack[CallOptions],
    ) -> Call[InjectResult]:
        """Finds what is worth remembering for a text, as one text of at most so many tokens.

        Put `result.text` into a system turn of the conversation, or append it to a context.
        """
        body = {
            "query": query,
            "budget_tokens": budget_tokens,
            "mode": mode,
            "limit": limit,
            "tags": [*tags],
            "model": model,
            "pool": pool,
            "agent": agent,
        }
        return self._exchange.call("memory", "inject", body, result_of(InjectResult), options, check=True)

    def forget(
        self,
        *,
        tags: Sequence[str] = (),
        before_ms: int | None = None,
        everything: bool = False,
        pool: str | None = None,
        **options: Unpack[CallOptions],
    ) -> Call[ForgetResult]:
        """Removes many notes for good: those that have all tags and were made before a time, or everything."""
        body = {"tags": [*tags], "before_ms": before_ms, "everything": everything or None, "pool": pool}
        return self._exchange.call("memory", "forget", body, result_of(ForgetResult), options, check=True)

    def usage(self, *, pool: str | None = None, **options: Unpack[CallOptions]) -> Call[UsageResult]:
        """Asks how much is stored, and how much may be."""
        return self._exchange.call("memory", "usage", {"pool": pool}, result_of(UsageResult), options, check=True)

    def grant(self, agent: str, **options: Unpack[CallOptions]) -> Call[GrantsResult]:
        """Lets another agent of the tenant read this one's own notes."""
        return self._exchange.call("memory", "grant", {"agent": agent}, _grants, options, check=True)

    def revoke(self, agent: str, **options: Unpack[CallOptions]) -> Call[GrantsResult]:
        """Takes a grant back."""
        return self._exchange.call("memory", "revoke", {"agent": agent}, _grants, options, check=True)

    def create_pool(
        self, pool: str, *, readers: Sequence[str] = (), writers: Sequence[str] = (), **options: Unpack[CallOptions]
    ) -> Call[PoolInfo]:
        """Makes a pool that the agents on its lists share; writers read too."""
        body = {"pool": pool, "readers": [*readers], "writers": [*writers]}
        return self._exchange.call("memory", "pool.create", body, _pool, options, check=True)

    def grant_pool(
        self, pool: str, agent: str, right: Right = "read", **options: Unpack[CallOptions]
    ) -> Call[PoolInfo]:
        """Puts an agent on a list of one's own pool."""
        body = {"pool": pool, "agent": agent, "right": right}
        return self._exchange.call("memory", "pool.grant", body, _pool, options, check=True)

    def revoke_pool(
        self, pool: str, agent: str, right: Right = "read", **options: Unpack[CallOptions]
    ) -> Call[PoolInfo]:
        """Takes an agent off a list of one's own pool; who may not read may not write either."""
        body = {"pool": pool, "agent": agent, "right": right}
        return self._exchange.call("memory", "pool.revoke", body, _pool, options, check=True)

    def pools(self, **options: Unpack[CallOptions]) -> Call[Pools]:
        """Asks which pools this agent can read."""
        return self._exchange.call("memory", "pool.list", None, _pools, options)

    add_memory = create_memory = add
    get_memory = get
    update_memory = update
    remove_memory = delete_memory = remove
    retrieve_memory = search_memories = search


def _pools(done: Done, trace_id: str | None) -> list[PoolInfo]:
    return _pools_result(done, trace_id).pools
