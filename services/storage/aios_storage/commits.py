"""How a call's changes are committed, once: with what the call came to, and decided anew where others were faster."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import orjson

from aios_proto.errors import ResourceConflict, ResourceNotFound
from aios_proto.messages.base import Result
from aios_storage.core.catalogue import Catalogue, Known
from aios_storage.core.records import Head, encode_head
from aios_storage.ports import Change, Outdated
from aios_storage.sealed_store import SealedStore

CALL_MEMORY_S = 600
"""Seconds for which a call's id is remembered, and the same call sent again is answered with the first one's result."""

_ATTEMPTS = 24
_PAUSE_S = 0.02

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
            AiosError: what is refused.
        """


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

    async def was_made(self, caller: Caller) -> bool:
        """Whether this very call was carried out before."""
        return (await self._store.get(caller.tenant, _memory_of(caller))).value is not None

    async def once(self, caller: Caller, operation: str, model: type[R], plan: Planning) -> R:
        """Carries a plan out, unless this call was carried out before: then its result is given again.

        Raises:
            ResourceConflict: others changed the same things again and again.
        """
        memory = _memory_of(caller)
        for attempt in range(_ATTEMPTS):
            try:
                made = await plan(fresh=attempt > 0)
            except (ResourceNotFound, ResourceConflict):
                # What we know may be old, or our own doing a moment ago.
                if (before := await self._remembered(caller.tenant, memory, operation, model)) is not None:
                    return before
                if attempt > 0:
                    raise
                continue
            try:
                await self._carry_out(caller.tenant, memory, operation, made)
            except Outdated:
                if (before := await self._remembered(caller.tenant, memory, operation, model)) is not None:
                    return before
                await asyncio.sleep(random.uniform(0, _PAUSE_S * min(attempt, 8)))  # noqa: S311 (jitter)
                continue
            if isinstance(made.result, model):
                return made.result
            raise TypeError(operation)
        raise ResourceConflict("others keep changing the same file", retryable=True, retry_after_s=1)

    async def _carry_out(self, tenant: str, memory: str, operation: str, plan: Plan) -> None:
        note = orjson.dumps([operation, plan.result.model_dump(mode="json", exclude_none=True)])
        changes = [*plan.changes, await self._store.change(tenant, memory, note, 0, CALL_MEMORY_S)]
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

    async def _remembered(self, tenant: str, memory: str, operation: str, model: type[R]) -> R | None:
        found = (await self._store.get(tenant, memory)).value
        if found is None:
            return None
        made_by, result = orjson.loads(found)
        if made_by != operation:
            raise ResourceConflict(f"a call of this id was a {made_by} already", field="id")
        return model.model_validate(result)


def _memory_of(caller: Caller) -> str:
    return f"c.{caller.agent}.{caller.call_id}"
