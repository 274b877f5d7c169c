"""The operations on contexts and snapshots: who may, on what, and what the store is told."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from aios_context.changing import Changing
from aios_context.core import history
from aios_context.core.head import Head, Snapshot
from aios_context.core.history import Change, Limits
from aios_context.core.record import Message
from aios_context.core.view import Turn, all_turns, visible
from aios_context.counting import Counting
from aios_context.logs import Logs
from aios_context.ports import Changed, ContextStore
from aios_context.together import both
from aios_proto.errors import InvalidRequest, QuotaExhausted, ResourceConflict, ResourceNotFound
from aios_proto.headers import CallHeaders
from aios_proto.messages.context import (
    AppendRequest,
    ContextInfo,
    ContextListResult,
    ContextRef,
    ContextResult,
    ForkRequest,
    GetRequest,
    GrantRequest,
    OpenRequest,
    PinRequest,
    RecordRequest,
    RestoreRequest,
    SnapshotInfo,
    SnapshotRef,
    SnapshotRequest,
    TurnInfo,
)
from aios_proto.messages.llm import ChatMessage

MOST_ANSWER_BYTES = 2 << 20
"""Of the messages in one answer of `get`; the bus carries 4 MiB, frame and details included."""


@dataclass(frozen=True, slots=True)
class Quotas:
    """What one agent may have, and how long what names no time is kept.

    Attributes:
        limits: of one context.
        contexts: how many.
        snapshots: how many.
        ttl_s: of contexts.
        snapshot_ttl_s: of snapshots.
    """

    limits: Limits
    contexts: int
    snapshots: int
    ttl_s: float
    snapshot_ttl_s: float


class Contexts:
    """Serves the operations that need no model.

    Args:
        store: where everything is kept.
        logs: reads from it.
        changing: writes to it.
        counting: knows tokens that were counted before.
        quotas: what an agent may have.
        now_ms: Unix time.
    """

    def __init__(
        self,
        store: ContextStore,
        logs: Logs,
        changing: Changing,
        counting: Counting,
        quotas: Quotas,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._store = store
        self._logs = logs
        self._changing = changing
        self._counting = counting
        self._quotas = quotas
        self._now_ms = now_ms

    async def open(self, caller: CallHeaders, request: OpenRequest) -> ContextInfo:
        """See `context.open`."""
        change = self._change(caller)
        new = Head(
            tenant=caller.tenant,
            agent=caller.agent,
            name=request.context or _made_name(caller),
            version=0,
            policy=request.policy,
            created_by=caller.id,
            created_ms=change.now_ms,
            changed_ms=change.now_ms,
            window_tokens=request.window_tokens,
            model=request.model,
            ttl_s=request.ttl_s or self._quotas.ttl_s,
        )
        messages = plain(request.messages)

        def decide(stored: Head | None) -> Head:
            empty = self._in_free_place(new, stored)
            if messages:
                return history.append(empty, change, messages, self._quotas.limits, pinned=request.pinned)
            return history.remember(replace(empty, version=1), 0, change)

        return await self._make(caller, new.name, decide)

    async def append(self, caller: CallHeaders, request: AppendRequest) -> ContextInfo:
        """See `context.append`."""
        change, messages = self._change(caller), plain(request.messages)
        return await self._change_own(
            caller,
            request.context,
            caller.id,
            lambda head: history.append(
                head,
                change,
                messages,
                self._quotas.limits,
                pinned=request.pinned,
                expect_version=request.expect_version,
            ),
        )

    async def record(self, caller: CallHeaders, request: RecordRequest) -> ContextInfo:
        """See `context.record`: an append that happens once for each model call, whoever asks for it how often."""
        change, messages = Change(request.for_call, self._now_ms()), plain(request.messages)
        return await self._change_own(
            caller,
            request.context,
            request.for_call,
            lambda head: history.append(head, change, messages, self._quotas.limits),
        )

    async def pin(self, caller: CallHeaders, request: PinRequest) -> ContextInfo:
        """See `context.pin`."""
        change = self._change(caller)
        return await self._change_own(
            caller,
            request.context,
            caller.id,
            lambda head: history.pin(head, change, request.turn, self._quotas.limits, pinned=request.pinned),
        )

    async def grant(self, caller: CallHeaders, request: GrantRequest) -> ContextInfo:
        """See `context.grant`."""
        if request.agent == caller.agent:
            raise InvalidRequest("the owner may read it anyway", field="agent")
        change = self._change(caller)
        return await self._change_own(
            caller,
            request.context,
            caller.id,
            lambda head: history.grant(head, change, request.agent, revoke=request.revoke),
        )

    async def close(self, caller: CallHeaders, request: ContextRef) -> ContextInfo:
        """See `context.close`."""
        change = self._change(caller)
        return await self._change_own(caller, request.context, caller.id, lambda head: history.close(head, change))

    async def get(self, caller: CallHeaders, request: GetRequest) -> ContextResult:
        """See `context.get`."""
        head = await self.readable(caller, request.context, request.owner)
        if request.at_version is not None:
            head = history.at(head, await self._logs.lines(head), request.at_version)
        turns = all_turns(await self._logs.records(head, request.at_version))
        shown = turns if request.full else visible(turns)
        page = _page(shown[request.skip :])
        counted = self._counting.known(page, head.model)
        read_to = request.skip + len(page)
        whole = request.skip == 0 and len(page) == len(shown) and counted is not None and head.model is not None
        tokens = sum(counted or ()) + self._counting.prompt_overhead(head.model or "") if whole else None
        return ContextResult(
            **self._info(head, tokens=tokens).model_dump(),
            messages=[ChatMessage.model_validate(turn.message) for turn in page],
            details=[
                TurnInfo(
                    turn=turn.number,
                    version=turn.version,
                    pinned=turn.pinned,
                    summary_of=turn.summary_of,
                    tokens=None if counted is None else counted[number],
                )
                for number, turn in enumerate(page)
            ],
            next_skip=read_to if read_to < len(shown) else None,
        )

    async def list(self, caller: CallHeaders) -> ContextListResult:
        """See `context.list`."""
        now_ms = self._now_ms()
        heads = [stored.head async for stored in self._store.heads(caller.tenant, caller.agent)]
        snapshots = [snapshot async for snapshot in self._store.snapshots(caller.tenant, caller.agent)]
        return ContextListResult(
            contexts=[self._info(head) for head in sorted(heads, key=lambda head: head.name) if head.lives(now_ms)],
            snapshots=[
                _snapshot_info(snapshot)
                for snapshot in sorted(snapshots, key=lambda snapshot: snapshot.id)
                if snapshot.lives(now_ms)
            ],
        )

    async def fork(self, caller: CallHeaders, request: ForkRequest) -> ContextInfo:
        """See `context.fork`."""
        change = self._change(caller)
        name = request.fork or _made_name(caller)
        past = await self.readable(caller, request.context, request.owner)
        lines = await self._logs.lines(past) if request.at_version is not None else ()
        new = self._empty(caller, name, change)
        return await self._make(
            caller,
            name,
            lambda stored: history.fork(past, change, self._in_free_place(new, stored), lines, request.at_version),
        )

    async def snapshot(self, caller: CallHeaders, request: SnapshotRequest) -> SnapshotInfo:
        """See `context.snapshot`."""
        name, now_ms = _made_name(caller), self._now_ms()
        tenant, agent = caller.tenant, caller.agent
        (before, stored), (_, snapshots) = await both(
            both(self._store.snapshot(tenant, agent, name), self._store.head(tenant, agent, request.context)),
            self._store.names(tenant, agent),
        )
        if before is not None:
            return _snapshot_info(before)
        if stored is None or not stored.head.lives(now_ms):
            raise _not_found(request.context)
        if snapshots >= self._quotas.snapshots:
            living = [s async for s in self._store.snapshots(tenant, agent) if s.lives(now_ms)]
            if len(living) >= self._quotas.snapshots:
                raise QuotaExhausted(
                    f"an agent may have {self._quotas.snapshots} snapshots", field="snapshot", retryable=False
                )
        ttl_s = request.ttl_s or self._quotas.snapshot_ttl_s
        taken = Snapshot(name, replace(stored.head, remembered=(), readers=()), now_ms + int(ttl_s * 1000))
        try:
            await self._store.add_snapshot(taken)
        except Changed:  # the same call, at the same time
            taken = await self._store.snapshot(tenant, agent, name) or taken
        return _snapshot_info(taken)

    async def restore(self, caller: CallHeaders, request: RestoreRequest) -> ContextInfo:
        """See `context.restore`."""
        change = self._change(caller)
        name = request.context or _made_name(caller)
        snapshot = await self._living_snapshot(caller, request.snapshot)
        new = self._empty(caller, name, change)

        def decide(stored: Head | None) -> Head:
            onto = stored if stored is not None and stored.lives(change.now_ms) else None
            place = replace(new, remembered=() if stored is None else stored.remembered)
            return history.restore(snapshot, change, onto, place)

        return await self._make(caller, name, decide)

    async def discard(self, caller: CallHeaders, request: SnapshotRef) -> SnapshotInfo:
        """See `context.discard`."""
        snapshot = await self._living_snapshot(caller, request.snapshot)
        await self._store.remove_snapshot(caller.tenant, caller.agent, request.snapshot)
        return _snapshot_info(snapshot)

    async def readable(self, caller: CallHeaders, name: str, owner: str | None = None) -> Head:
        """A living context the caller may read.

        Raises:
            ResourceNotFound: there is none, or it is not the caller's to read.
            BusUnavailable: the store cannot be reached.
        """
        stored = await self._store.head(caller.tenant, owner or caller.agent, name)
        own = owner is None or owner == caller.agent
        if stored is None or not stored.head.lives(self._now_ms()) or not (own or caller.agent in stored.head.readers):
            raise _not_found(name)
        return stored.head

    async def _change_own(
        self, caller: CallHeaders, name: str, call_id: str, decide: Callable[[Head], Head]
    ) -> ContextInfo:
        """Changes a living context of the caller's."""

        def living(stored: Head | None) -> Head:
            if stored is None or not stored.lives(self._now_ms()):
                raise _not_found(name)
            return decide(stored)

        head = await self._changing.change(caller.tenant, caller.agent, name, call_id, living)
        return self._info(head, call_id)

    async def _make(self, caller: CallHeaders, name: str, decide: Callable[[Head | None], Head]) -> ContextInfo:
        """Makes a context, or changes one that may not be there yet, within the agent's quota."""
        tenant, agent = caller.tenant, caller.agent
        stored, (names, _) = await both(self._store.head(tenant, agent, name), self._store.names(tenant, agent))
        self._changing.saw(tenant, agent, name, stored)
        is_new = stored is None or not stored.head.lives(self._now_ms())
        if is_new and (stored is None or stored.head.recall(caller.id) is None) and names >= self._quotas.contexts:
            await self._check_quota(caller)
        head = await self._changing.change(caller.tenant, caller.agent, name, caller.id, decide)
        return self._info(head, caller.id)

    async def _check_quota(self, caller: CallHeaders) -> None:
        now_ms = self._now_ms()
        living = [s async for s in self._store.heads(caller.tenant, caller.agent) if s.head.lives(now_ms)]
        if len(living) >= self._quotas.contexts:
            raise QuotaExhausted(
                f"an agent may have {self._quotas.contexts} contexts; close some", field="context", retryable=False
            )

    async def _living_snapshot(self, caller: CallHeaders, name: str) -> Snapshot:
        snapshot = await self._store.snapshot(caller.tenant, caller.agent, name)
        if snapshot is None or not snapshot.lives(self._now_ms()):
            raise ResourceNotFound(f"there is no snapshot {name}", field="snapshot")
        return snapshot

    def _in_free_place(self, new: Head, stored: Head | None) -> Head:
        """The new context, which still answers the last calls of one of that name that is gone."""
        if stored is None:
            return new
        if stored.lives(self._now_ms()):
            raise ResourceConflict(f"there is a context {new.name}", field="context")
        return replace(new, remembered=stored.remembered)

    def _empty(self, caller: CallHeaders, name: str, change: Change) -> Head:
        return Head(
            tenant=caller.tenant,
            agent=caller.agent,
            name=name,
            version=0,
            policy="truncate",
            created_by=caller.id,
            created_ms=change.now_ms,
            changed_ms=change.now_ms,
        )

    def _change(self, caller: CallHeaders) -> Change:
        return Change(caller.id, self._now_ms())

    def _info(self, head: Head, call_id: str | None = None, *, tokens: int | None = None) -> ContextInfo:
        """The head as the caller sees it; with a call's id as that call left it."""
        seen = head if call_id is None else head.recall(call_id) or head
        return ContextInfo(
            context=head.name,
            version=seen.version,
            policy=head.policy,
            turns=seen.turns,
            bytes=seen.size_bytes,
            window_tokens=head.window_tokens,
            model=head.model,
            readers=list(head.readers),
            expires_ms=head.expires_ms(),
            digest=seen.digest,
            tokens=tokens,
        )


def plain(messages: Sequence[ChatMessage]) -> list[Message]:
    """Turns as they are stored."""
    return [message.model_dump(mode="json", exclude_none=True) for message in messages]


def _page(turns: Sequence[Turn]) -> list[Turn]:
    """As many turns as fit one answer; at least one."""
    page: list[Turn] = []
    size = 0
    for turn in turns:
        size += len(str(turn.message).encode())
        if page and size > MOST_ANSWER_BYTES:
            break
        page.append(turn)
    return page


def _made_name(caller: CallHeaders) -> str:
    """A name that the same call makes again when it comes again."""
    return hashlib.sha256(caller.key.encode()).hexdigest()[:24]


def _not_found(name: str) -> ResourceNotFound:
    return ResourceNotFound(f"there is no context {name}", field="context")


def _snapshot_info(snapshot: Snapshot) -> SnapshotInfo:
    head = snapshot.head
    return SnapshotInfo(
        snapshot=snapshot.id,
        context=head.name,
        version=head.version,
        turns=head.turns,
        digest=head.digest,
        expires_ms=snapshot.expires_ms,
    )
