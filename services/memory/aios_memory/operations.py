"""The operations of the contract: what each request means to the library, and how its answer is said."""

from aios_kit.service import Call, Service
from aios_memory.access_lists import AccessLists
from aios_memory.agentic_notes import AgenticNotes
from aios_memory.core.note import Note, Owner
from aios_memory.core.sharing import Right, Sharing
from aios_memory.core.space import Filter
from aios_memory.injection import Injection
from aios_memory.library import Library
from aios_proto.errors import AccessDenied, InvalidRequest
from aios_proto.headers import CallHeaders
from aios_proto.messages.base import Empty
from aios_proto.messages.memory import (
    AddRequest,
    ForgetRequest,
    ForgetResult,
    GrantRequest,
    GrantsResult,
    InjectRequest,
    InjectResult,
    ListRequest,
    MemoriesResult,
    Memory,
    MemoryIdResult,
    MemoryRef,
    PoolCreateRequest,
    PoolGrantRequest,
    PoolInfo,
    PoolsResult,
    RemoveRequest,
    SearchRequest,
    UpdateRequest,
    UsageRequest,
    UsageResult,
)


class Operations:
    """The handlers; they work once `open` was called."""

    def __init__(self, service: Service) -> None:
        self._library: Library | None = None
        self._access: AccessLists | None = None
        self._agentic: AgenticNotes | None = None
        self._injection: Injection | None = None
        service.serve("memory", "add", self._add)
        service.serve("memory", "get", self._get)
        service.serve("memory", "update", self._update)
        service.serve("memory", "remove", self._remove)
        service.serve("memory", "search", self._search)
        service.serve("memory", "list", self._list)
        service.serve("memory", "inject", self._inject)
        service.serve("memory", "forget", self._forget)
        service.serve("memory", "grant", self._grant)
        service.serve("memory", "revoke", self._revoke)
        service.serve("memory", "usage", self._usage)
        service.serve("memory", "pool.create", self._pool_create)
        service.serve("memory", "pool.grant", self._pool_grant)
        service.serve("memory", "pool.revoke", self._pool_revoke)
        service.serve("memory", "pool.list", self._pool_list)

    def open(self, library: Library, access: AccessLists, agentic: AgenticNotes, injection: Injection) -> None:
        """From now on calls can be answered."""
        self._library, self._access, self._agentic, self._injection = library, access, agentic, injection

    @property
    def _notes(self) -> Library:
        assert self._library is not None
        return self._library

    @property
    def _lists(self) -> AccessLists:
        assert self._access is not None
        return self._access

    # Notes

    async def _add(self, call: Call[AddRequest]) -> MemoryIdResult:
        headers, body = call.headers, call.body
        owner = await self._lists.reach(headers, "write", pool=body.pool)

        def draft(name: str, now_ms: int) -> Note:
            return Note(
                id=name,
                content=body.content,
                tags=tuple(dict.fromkeys(body.tags)),
                metadata=body.metadata,
                author=headers.agent,
                created_ms=now_ms,
                updated_ms=now_ms,
                expires_ms=None if body.ttl_s is None else now_ms + int(body.ttl_s * 1000),
                wants_model=body.agentic,
            )

        note = await self._notes.add(owner, headers, draft, body.ttl_s)
        if note.wants_model and self._agentic is not None:
            self._agentic.add_note(owner, note.id)
        return MemoryIdResult(memory_id=note.id)

    async def _get(self, call: Call[MemoryRef]) -> Memory:
        body = call.body
        owner = await self._lists.reach(call.headers, "read", pool=body.pool, agent=body.agent)
        return _memory(await self._notes.get(owner, body.memory_id))

    async def _update(self, call: Call[UpdateRequest]) -> MemoryIdResult:
        headers, body = call.headers, call.body
        owner = await self._lists.reach(headers, "write", pool=body.pool)

        def change(note: Note, now_ms: int) -> Note:
            return note.changed(
                headers.id,
                now_ms,
                content=note.content if body.content is None else body.content,
                tags=note.tags if body.tags is None else tuple(dict.fromkeys(body.tags)),
                metadata=note.metadata if body.metadata is None else body.metadata,
            )

        changed = await self._notes.change(owner, body.memory_id, headers.id, change)
        return MemoryIdResult(memory_id=changed.id)

    async def _remove(self, call: Call[RemoveRequest]) -> MemoryIdResult:
        owner = await self._lists.reach(call.headers, "write", pool=call.body.pool)
        await self._notes.remove(owner, call.body.memory_id, call.headers.id)
        return MemoryIdResult(memory_id=call.body.memory_id)

    async def _search(self, call: Call[SearchRequest]) -> MemoriesResult:
        body = call.body
        owner = await self._lists.reach(call.headers, "read", pool=body.pool, agent=body.agent)
        wanted = Filter(tuple(body.tags), body.after_ms, body.before_ms)
        found = await self._notes.search(owner, call.headers, body.query, body.mode, wanted, body.limit)
        return MemoriesResult(memories=[_memory(note, score) for note, score in found.notes], modes=list(found.modes))

    async def _list(self, call: Call[ListRequest]) -> MemoriesResult:
        body = call.body
        owner = await self._lists.reach(call.headers, "read", pool=body.pool, agent=body.agent)
        notes, cursor = await self._notes.page(owner, Filter(tuple(body.tags)), body.limit, body.cursor)
        return MemoriesResult(memories=[_memory(note) for note in notes], cursor=cursor)

    async def _inject(self, call: Call[InjectRequest]) -> InjectResult:
        assert self._injection is not None
        owner = await self._lists.reach(call.headers, "read", pool=call.body.pool, agent=call.body.agent)
        return await self._injection.inject(owner, call.headers, call.body)

    async def _forget(self, call: Call[ForgetRequest]) -> ForgetResult:
        headers, body = call.headers, call.body
        owner = await self._lists.reach(headers, "write", pool=body.pool)
        if body.pool is not None:
            await self._check_master(owner, headers)
        wanted = Filter(tuple(body.tags), None, body.before_ms)
        return ForgetResult(forgotten=await self._notes.forget(owner, wanted, headers.id))

    async def _usage(self, call: Call[UsageRequest]) -> UsageResult:
        space = await self._notes.usage(await self._lists.reach(call.headers, "read", pool=call.body.pool))
        return UsageResult(
            items=len(space),
            bytes=space.bytes,
            max_items=space.limits.items,
            max_bytes=space.limits.bytes,
            unembedded=len(space.unembedded),
        )

    # Sharing

    async def _grant(self, call: Call[GrantRequest]) -> GrantsResult:
        headers = call.headers
        owner = Owner(headers.tenant, "agent", headers.agent)
        if call.body.agent == headers.agent:
            raise InvalidRequest("an agent may read its own notes anyway", field="agent")
        sharing = await self._lists.share(
            owner, lambda current: current.granted(call.body.agent, "read"), master=headers.agent
        )
        return GrantsResult(readers=list(sharing.readers))

    async def _revoke(self, call: Call[GrantRequest]) -> GrantsResult:
        headers = call.headers
        owner = Owner(headers.tenant, "agent", headers.agent)
        sharing = await self._lists.share(
            owner, lambda current: current.revoked(call.body.agent, "read"), master=headers.agent
        )
        return GrantsResult(readers=list(sharing.readers))

    async def _pool_create(self, call: Call[PoolCreateRequest]) -> PoolInfo:
        headers, body = call.headers, call.body
        owner = Owner(headers.tenant, "pool", body.pool)
        sharing = Sharing(headers.agent, tuple(dict.fromkeys(body.readers)), tuple(dict.fromkeys(body.writers)))
        return _pool(body.pool, await self._lists.found_pool(owner, sharing))

    async def _pool_grant(self, call: Call[PoolGrantRequest]) -> PoolInfo:
        return await self._change_pool(call, "grant")

    async def _pool_revoke(self, call: Call[PoolGrantRequest]) -> PoolInfo:
        return await self._change_pool(call, "revoke")

    async def _change_pool(self, call: Call[PoolGrantRequest], what: str) -> PoolInfo:
        headers, body = call.headers, call.body
        owner = Owner(headers.tenant, "pool", body.pool)
        await self._check_master(owner, headers)
        right: Right = body.right

        def change(current: Sharing) -> Sharing:
            return current.granted(body.agent, right) if what == "grant" else current.revoked(body.agent, right)

        return _pool(body.pool, await self._lists.share(owner, change, master=headers.agent))

    async def _pool_list(self, call: Call[Empty]) -> PoolsResult:
        found = await self._lists.pools(call.headers.tenant, call.headers.agent)
        return PoolsResult(pools=[_pool(name, sharing) for name, sharing in found])

    async def _check_master(self, owner: Owner, headers: CallHeaders) -> None:
        sharing = await self._lists.sharing(owner)
        if sharing is None or sharing.master != headers.agent:
            raise AccessDenied(f"only who made the pool {owner.name} may do this", field="pool")


def _memory(note: Note, score: float | None = None) -> Memory:
    return Memory(
        memory_id=note.id,
        content=note.content,
        tags=list(note.tags),
        metadata=note.metadata,
        created_ms=note.created_ms,
        updated_ms=note.updated_ms,
        expires_ms=note.expires_ms,
        author=note.author,
        keywords=list(note.keywords),
        context=note.context or None,
        links=list(note.links),
        score=score,
    )


def _pool(name: str, sharing: Sharing) -> PoolInfo:
    return PoolInfo(pool=name, owner=sharing.master, readers=list(sharing.readers), writers=list(sharing.writers))
