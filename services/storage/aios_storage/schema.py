"""In which form records lie in the bucket, and how older forms become the present one, step by step, at the start."""

from collections.abc import Awaitable, Callable, Mapping

from aios_proto.errors import InternalError
from aios_storage.ports import Change, Outdated, Store

SCHEMA = 2
"""Version of the records' form; raise it with a migration from the one before."""

_KEY = "_schema"
Migration = Callable[[Store], Awaitable[None]]


async def _heads_may_come_first(_: Store) -> None:
    """From 1 to 2: nothing is rewritten. A head may hold what its version's record says, which form 1 would lose."""


MIGRATIONS: Mapping[int, Migration] = {1: _heads_may_come_first}
"""By the version they start from; each leads to the next one and may be run again after it was cut off."""


async def migrate(store: Store, migrations: Mapping[int, Migration] = MIGRATIONS, target: int = SCHEMA) -> None:
    """Brings the bucket to the present form; an empty one is stamped with it.

    Raises:
        InternalError: it was written by a newer version of this service, or a step is missing.
    """
    while True:
        found = await store.get(_KEY)
        at = target if found.value is None else int(found.value)
        if at > target:
            raise InternalError(f"the files were stored in form {at}, and this version knows {target} at most")
        if at < target:
            if at not in migrations:
                raise InternalError(f"nothing leads from form {at} of the stored files to form {target}")
            await migrations[at](store)
            at += 1
        elif found.value is not None:
            return
        try:
            await store.commit([Change(_KEY, str(at).encode(), found.revision)])
        except Outdated:
            continue  # another replica was faster
