"""Random histories of two agents' files beside a model that is nothing but dictionaries."""

import asyncio
import tempfile
from collections.abc import Awaitable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from aios_kit.envelope import Envelope
from aios_kit.key_ring import FileKeyRing
from aios_kit.logs import Log, setup_logging
from aios_kit.settings import ServiceSettings
from aios_proto.errors import AccessDenied, ResourceConflict, ResourceNotFound
from aios_proto.ids import new_syscall_id
from aios_storage.bodies import Bodies
from aios_storage.commits import Caller
from aios_storage.core.catalogue import Catalogue
from aios_storage.core.grants import Wish
from aios_storage.core.paths import Home
from aios_storage.library import Library
from aios_storage.ports import Store
from aios_storage.rewrapping import Rewrapping
from aios_storage.sealed_store import SealedStore
from aios_storage.sweeping import Sweeping

T = TypeVar("T")

AGENTS = ("alice", "bob")
agents = st.sampled_from(AGENTS)
paths = st.sampled_from(("a", "b", "d/a", "d/b"))
folders = st.sampled_from(("a", "d", "d/b"))
contents = st.binary(max_size=12)


@dataclass
class Model:
    """What must be there: every version of every file, and every grant."""

    files: dict[tuple[str, str], list[bytes | None]] = field(default_factory=dict)
    grants: dict[tuple[str, str, str], str] = field(default_factory=dict)

    def alive(self, place: Home) -> bool:
        versions = self.files.get((place.owner, place.path))
        return bool(versions) and versions is not None and versions[-1] is not None

    def may(self, agent: str, place: Home, right: str) -> bool:
        return agent == place.owner or any(
            owner == place.owner
            and to == agent
            and (place.path == path or place.path.startswith(f"{path}/"))
            and right in ("read", given)
            for (owner, path, to), given in self.grants.items()
        )


class FileMachine(RuleBasedStateMachine):
    """The library on some store, and the model; a subclass says which store."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.model = Model()
        self.folder = tempfile.TemporaryDirectory(prefix="aios-files-")
        self.tenant = f"t{new_syscall_id()}"

    def make_store(self) -> Store:
        raise NotImplementedError

    def log(self) -> Log:
        return setup_logging("test", ServiceSettings(log_level="error"))

    @initialize()
    def begin(self) -> None:
        self.ring = FileKeyRing(Path(self.folder.name))
        self.sealed = SealedStore(self.make_store(), Envelope(self.ring))
        self.start_anew()

    @rule()
    def start_anew(self) -> None:
        """The process dies: all that it had in memory is gone."""
        self.catalogue = Catalogue()
        self.bodies = Bodies(self.sealed)
        self.library = Library(self.sealed, self.bodies, self.catalogue, lambda *_: None)

    @rule(agent=agents, owner=agents, path=paths, data=contents, again=st.booleans())
    def write(self, agent: str, owner: str, path: str, data: bytes, again: bool) -> None:
        caller, place = self.caller(agent), Home(owner, path)

        async def work() -> int:
            content, parts = await self.bodies.small(self.tenant, f"{agent}.{new_syscall_id()}", data)
            return (await self.library.write(caller, place, content, parts, None)).version

        if not self.model.may(agent, place, "write"):
            self.refused(work(), AccessDenied)
            return
        versions = self.model.files.setdefault((owner, path), [])
        versions.append(data)
        for _ in range(1 + again):
            assert self.run(work()) == len(versions)

    @rule(agent=agents, owner=agents, path=paths, again=st.booleans())
    def delete(self, agent: str, owner: str, path: str, again: bool) -> None:
        caller, place = self.caller(agent), Home(owner, path)
        if not self.model.may(agent, place, "write"):
            self.refused(self.library.delete(caller, place, None), AccessDenied)
            return
        if not self.model.alive(place):
            self.refused(self.library.delete(caller, place, None), ResourceNotFound)
            return
        versions = self.model.files[owner, path]
        versions.append(None)
        for _ in range(1 + again):
            assert self.run(self.library.delete(caller, place, None)).version == len(versions)

    @rule(agent=agents, owner=agents, path=paths)
    def purge(self, agent: str, owner: str, path: str) -> None:
        caller, place = self.caller(agent), Home(owner, path)
        if agent != owner:
            self.refused(self.library.purge(caller, place, None), AccessDenied)
            return
        if (owner, path) not in self.model.files:
            self.refused(self.library.purge(caller, place, None), ResourceNotFound)
            return
        del self.model.files[owner, path]
        self.model.grants = {key: right for key, right in self.model.grants.items() if key[:2] != (owner, path)}
        self.run(self.library.purge(caller, place, None))

    @rule(agent=agents, owner=agents, path=paths, version=st.integers(1, 6), again=st.booleans())
    def rollback(self, agent: str, owner: str, path: str, version: int, again: bool) -> None:
        caller, place = self.caller(agent), Home(owner, path)
        if not self.model.may(agent, place, "write"):
            self.refused(self.library.rollback(caller, place, version), AccessDenied)
            return
        versions = self.model.files.get((owner, path), [])
        if version > len(versions) or versions[version - 1] is None:
            self.refused(self.library.rollback(caller, place, version), ResourceNotFound)
            return
        versions.append(versions[version - 1])
        for _ in range(1 + again):
            assert self.run(self.library.rollback(caller, place, version)).version == len(versions)

    @rule(agent=agents, source=st.tuples(agents, paths), onto=st.tuples(agents, paths), overwrite=st.booleans())
    def move(self, agent: str, source: tuple[str, str], onto: tuple[str, str], overwrite: bool) -> None:
        caller, old, new = self.caller(agent), Home(*source), Home(*onto)

        def work() -> Awaitable[object]:
            return self.library.move(caller, old, new, overwrite=overwrite)

        if not (self.model.may(agent, old, "write") and self.model.may(agent, new, "write")):
            self.refused(work(), AccessDenied)
            return
        if not self.model.alive(old):
            self.refused(work(), ResourceNotFound)
            return
        if old == new:
            self.run(work())
            return
        if self.model.alive(new) and not overwrite:
            self.refused(work(), ResourceConflict)
            return
        if onto in self.model.files:
            self.model.files[onto].append(self.model.files[source][-1])
            self.model.files[source].append(None)
        else:
            self.model.files[onto] = self.model.files.pop(source)
        self._move_grants(source, onto)
        for _ in range(2):
            self.run(work())

    def _move_grants(self, source: tuple[str, str], target: tuple[str, str]) -> None:
        moved = {key: right for key, right in self.model.grants.items() if key[:2] == source}
        for key in moved:
            del self.model.grants[key]
        if source[0] != target[0]:
            return
        for (owner, _, to), right in moved.items():
            key = (owner, target[1], to)
            if self.model.grants.get(key) != "write":
                self.model.grants[key] = right

    @rule(agent=agents, owner=agents, path=folders, right=st.sampled_from(("read", "write", "none")))
    def share(self, agent: str, owner: str, path: str, right: Wish) -> None:
        to = next(one for one in AGENTS if one != owner)
        work = self.library.share(self.caller(agent), Home(owner, path), to, right)
        if agent != owner:
            self.refused(work, AccessDenied)
            return
        self.run(work)
        self.model.grants.pop((owner, path, to), None)
        if right != "none":
            self.model.grants[owner, path, to] = right

    @rule()
    def change_keys(self) -> None:
        self.run(self.ring.rotate(self.tenant))
        started: list[Awaitable[None]] = []
        Rewrapping(self.sealed, lambda work, _: started.append(work), self.log()).begin(self.tenant)
        self.run(started[0])
        self.run(self.ring.retire(self.tenant, self.run(self.ring.describe(self.tenant)).current))
        self.start_anew()

    @rule()
    def sweep(self) -> None:
        self.run(Sweeping(self.sealed, set, 1, self.log()).sweep(self.tenant, 0))

    @invariant()
    def every_version_is_there(self) -> None:
        for (owner, path), versions in self.model.files.items():
            found = self.run(self.library.versions(self.caller(owner), Home(owner, path), None)).files
            assert [(one.version, one.deleted) for one in reversed(found)] == [
                (number, data is None) for number, data in enumerate(versions, 1)
            ]
            for number, data in enumerate(versions, 1):
                if data is not None:
                    assert self.run(self.bytes_of(owner, path, number)) == data

    @invariant()
    def what_is_not_there_is_not_found(self) -> None:
        for owner in AGENTS:
            for path in ("a", "b", "d/a", "d/b"):
                if not self.model.alive(Home(owner, path)):
                    self.refused(self.library.open(self.caller(owner), Home(owner, path), None), ResourceNotFound)

    def teardown(self) -> None:
        self.runner.close()
        self.folder.cleanup()

    async def bytes_of(self, owner: str, path: str, number: int) -> bytes:
        version, _ = await self.library.open(self.caller(owner), Home(owner, path), number)
        assert version.content is not None
        return await self.bodies.read(self.tenant, version.content, 0, 1000)

    def caller(self, agent: str) -> Caller:
        return Caller(self.tenant, agent, new_syscall_id())

    def run(self, work: Awaitable[T]) -> T:
        async def wrapped() -> T:
            return await work

        return self.runner.run(wrapped())

    def refused(self, work: Awaitable[object], error: type[Exception]) -> None:
        try:
            self.run(work)
        except error:
            return
        raise AssertionError(f"this should have been {error.__name__}")
