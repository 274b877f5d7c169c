"""How a call's changes are committed, once: with what the call came to, and decided anew where others were faster.

Most calls make one version of one file. Such a call is committed by a single record, the head: it names the version,
the bytes stored before it, and the call with all that its answer says. The version's own record and the memory of the
call are written right after, and in any case before another head takes this one's place, so that nothing that was
acknowledged hangs on the process that acknowledged it. A call that changes several things is one atomic batch, which
costs the bus some ten times as much.
"""

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import orjson

from aios_proto.errors import BusUnavailable, ResourceConflict, ResourceNotFound
from aios_proto.messages.base import Result
from aios_proto.messages.storage import FileInfo
from aios_storage.core.catalogue import Catalogue, Known
from aios_storage.core.records import Head, Made, encode_head, encode_version, info
from aios_storage.ports import Change, Outdated
from aios_storage.sealed_store import SealedStore

CALL_MEMORY_S = 600
"""Seconds for which a call's id is remembered, and the same call sent again is answered with the first one's result."""

_ATTEMPTS = 24
_PAUSE_S = 0.02
# What was stored ahead of a head is safe from the sweep for an hour.
_AHEAD_S = 600.0
_KNOWN_COMPLETE = 4096
_STOP_S = 5.0

R = TypeVar("R", bound=Result)
Listener = Callable[[str, Known | None, Known | None], None]


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose call it is."""

    tenant: str
    agent: str
    call_id: str


@dataclass(frozen=True, slots=True)
class Found:
    """A head with the key it stands under and the revision that key is at."""

    key: str
    head: Head | None
    revision: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What a call would change.

    Attributes:
        result: what it answers then.
        heads: owner, head before, head afterwards; None removes it.
        changes: everything else.
    """

    result: Result
    heads: tuple[tuple[str, Found, Head | None], ...] = ()
    changes: tuple[Change, ...] = ()


class Planning(Protocol):
    """Decides what a call would change; `fresh` demands that nothing is taken from memory."""

    async def __call__(self, *, fresh: bool) -> Plan:
        """Decides.

        Raises:
            AlreadyMade: a head says that this very call made it.
            AiosError: what is refused.
        """


class Ahead(Protocol):
    """What has to be stored before a head names it."""

    async def lay(self) -> None:
        """Stores it.

        Raises:
            ResourceConflict: it belongs to somebody else.
        """

    async def take_back(self) -> None:
        """Lets others have it, where no head will name it after all."""


class AlreadyMade(Exception):
    """A head whose newest version this very call has made."""

    def __init__(self, made: Made, head: Head) -> None:
        super().__init__(made.operation)
        self.made = made
        self.head = head


class Commits:
    """Carries plans out.

    Args:
        store: where everything is committed.
        catalogue: is told of every change made here.
        changed: called with the tenant and a file before and after each change made here.
    """

    def __init__(self, store: SealedStore, catalogue: Catalogue, changed: Listener) -> None:
        self._store = store
        self._catalogue = catalogue
        self._changed = changed
        self._completing: dict[tuple[str, str, int], asyncio.Task[None]] = {}
        self._complete: OrderedDict[tuple[str, str, int], None] = OrderedDict()

    async def close(self) -> None:
        """Waits for the records that follow a head; what is cut off here is made up for by the next change."""
        if self._completing:
            await asyncio.wait(self._completing.values(), timeout=_STOP_S)

    async def once(
        self, caller: Caller, operation: str, model: type[R], plan: Planning, ahead: Ahead | None = None
    ) -> R:
        """Carries a plan out, unless this call was carried out before: then its result is given again.

        Raises:
            ResourceConflict: others changed the same things again and again.
        """
        laying = _Laying(ahead)
        try:
            return await self._attempts(caller, operation, model, plan, laying)
        except (ResourceConflict, ResourceNotFound):
            await laying.take_back()
            raise

    async def _attempts(self, caller: Caller, operation: str, model: type[R], plan: Planning, laying: "_Laying") -> R:
        for attempt in range(_ATTEMPTS):
            try:
                made = await plan(fresh=attempt > 0)
            except AlreadyMade as before:
                return model.model_validate(_same(before.made.operation, operation, _answer(before)))
            except (ResourceNotFound, ResourceConflict):
                # What we know may be old, or our own doing a moment ago.
                if (earlier := await self._remembered(caller, operation, model)) is not None:
                    return earlier
                if attempt > 0:
                    raise
                continue
            try:
                result = await self._carry_out(caller, operation, model, made, laying)
            except Outdated:
                if (earlier := await self._remembered(caller, operation, model)) is not None:
                    return earlier
                await asyncio.sleep(random.uniform(0, _PAUSE_S * min(attempt, 8)))  # noqa: S311 (jitter)
                continue
            if isinstance(result, model):
                return result
            raise TypeError(operation)
        raise ResourceConflict("others keep changing the same file", retryable=True, retry_after_s=1)

    async def _carry_out(self, caller: Caller, operation: str, model: type[R], plan: Plan, laying: "_Laying") -> Result:
        if len(plan.heads) == 1 and not plan.changes and isinstance(plan.result, FileInfo):
            owner, found, head = plan.heads[0]
            if head is not None:
                made = Made(caller.agent, caller.call_id, operation, plan.result.path)
                earlier = await self._by_head(caller, model, (owner, found, replace(head, made=made)), laying)
                return plan.result if earlier is None else earlier
        for _, found, _ in plan.heads:
            await self._completed(caller.tenant, found.head)
        await self._by_batch(caller, operation, plan)
        return plan.result

    async def _by_head(
        self, caller: Caller, model: type[R], change: tuple[str, Found, Head], laying: "_Laying"
    ) -> R | None:
        """Commits by a head alone; returns what the call came to where it was carried out before."""
        owner, found, head = change
        tenant, made = caller.tenant, head.made
        assert made is not None
        # The memory is looked up after the head was: a call that made an earlier head is remembered by now.
        earlier, *others = await asyncio.gather(
            self._remembered(caller, made.operation, model),
            self._completed(tenant, found.head),
            laying.lay(),
            return_exceptions=True,
        )
        if isinstance(earlier, BaseException):
            raise earlier
        if earlier is not None:
            return earlier
        for problem in others:
            if isinstance(problem, BaseException):
                raise problem
        laying.check_age()
        revision = await self._store.store.commit(
            [await self._store.change(tenant, found.key, encode_head(head), found.revision)]
        )
        self._note(tenant, owner, found, head, revision)
        self._begin_completing(tenant, head)
        return None

    async def _by_batch(self, caller: Caller, operation: str, plan: Plan) -> None:
        tenant = caller.tenant
        changes = [*plan.changes, await self._memory(tenant, caller.agent, caller.call_id, operation, plan.result)]
        for _, found, head in plan.heads:
            value = None if head is None else encode_head(head)
            changes.append(await self._store.change(tenant, found.key, value, found.revision))
        last = await self._store.store.commit(changes)
        for (owner, found, head), revision in zip(plan.heads, range(last - len(plan.heads) + 1, last + 1), strict=True):
            self._note(tenant, owner, found, head, revision)

    def _note(self, tenant: str, owner: str, found: Found, head: Head | None, revision: int) -> None:
        before = self._catalogue.by_key(tenant, found.key)
        if head is None:
            self._catalogue.remove(tenant, found.key, revision)
            self._changed(tenant, before, None)
            return
        after = Known(found.key, owner, head, revision)
        if self._catalogue.put(tenant, after):
            self._changed(tenant, before, after)

    # What follows a head.

    async def _completed(self, tenant: str, head: Head | None) -> None:
        """Makes sure that a head's version and its call have records of their own."""
        if head is None or head.made is None:
            return
        place = (tenant, head.file, head.newest.number)
        if place not in self._complete:
            # Shielded: others may wait for it too.
            await asyncio.shield(self._completing.get(place) or self._begin_completing(tenant, head))

    def _begin_completing(self, tenant: str, head: Head) -> asyncio.Task[None]:
        place = (tenant, head.file, head.newest.number)

        def ended(task: asyncio.Task[None]) -> None:
            self._completing.pop(place, None)
            # Where it failed, whoever changes the file next does it, and hears of the error.
            if not task.cancelled() and task.exception() is None:
                self._complete[place] = None
                if len(self._complete) > _KNOWN_COMPLETE:
                    self._complete.popitem(last=False)

        task = self._completing[place] = asyncio.create_task(self._complete_records(tenant, head))
        task.add_done_callback(ended)
        return task

    async def _complete_records(self, tenant: str, head: Head) -> None:
        made = head.made
        assert made is not None
        version = await self._store.change(
            tenant, f"v.{head.file}.{head.newest.number}", encode_version(head.newest), 0
        )
        memory = await self._memory(tenant, made.agent, made.call_id, made.operation, info(head.newest, made.shown))
        await asyncio.gather(self._put_once(version), self._put_once(memory))

    async def _put_once(self, change: Change) -> None:
        try:
            await self._store.store.commit([change])
        except Outdated:
            return  # it is there: no two heads have the same version, no two calls the same id

    async def _memory(self, tenant: str, agent: str, call_id: str, operation: str, result: Result) -> Change:
        note = orjson.dumps([operation, result.model_dump(mode="json", exclude_none=True)])
        return await self._store.change(tenant, _memory_key(agent, call_id), note, 0, CALL_MEMORY_S)

    async def _remembered(self, caller: Caller, operation: str, model: type[R]) -> R | None:
        found = (await self._store.get(caller.tenant, _memory_key(caller.agent, caller.call_id))).value
        if found is None:
            return None
        made_by, result = orjson.loads(found)
        return model.model_validate(_same(made_by, operation, result))


class _Laying:
    """Lays what goes ahead of a head, once a call."""

    def __init__(self, ahead: Ahead | None) -> None:
        self._ahead = ahead
        self._laid_s: float | None = None

    async def lay(self) -> None:
        if self._ahead is not None and self._laid_s is None:
            begun_s = time.time()
            await self._ahead.lay()
            self._laid_s = begun_s

    def check_age(self) -> None:
        if self._laid_s is not None and time.time() - self._laid_s > _AHEAD_S:
            raise BusUnavailable("storing the file took too long", retry_after_s=1)

    async def take_back(self) -> None:
        if self._ahead is not None and self._laid_s is not None:
            await self._ahead.take_back()


def _answer(before: AlreadyMade) -> object:
    return info(before.head.newest, before.made.shown).model_dump(mode="json", exclude_none=True)


def _same(made_by: str, operation: str, result: object) -> object:
    if made_by != operation:
        raise ResourceConflict(f"a call of this id was a {made_by} already", field="id")
    return result


def _memory_key(agent: str, call_id: str) -> str:
    return f"c.{agent}.{call_id}"
