"""Which files there are, by path: what listing and searching go by, fed by the store's watch and by our own commits.

Point operations ask the store itself; this may lag behind what other replicas have just written.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field

from aios_storage.core.paths import is_below
from aios_storage.core.records import Head

# Sorts after every path below a folder: no path holds a character of that code.
_LAST = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class Known:
    """A file as last heard of, under which key and at which revision of it."""

    key: str
    owner: str
    head: Head
    revision: int


@dataclass(slots=True)
class _Tree:
    files: dict[str, Known] = field(default_factory=dict)
    _sorted: list[str] | None = None

    def put(self, known: Known) -> None:
        if known.head.path not in self.files:
            self._sorted = None
        self.files[known.head.path] = known

    def drop(self, path: str) -> None:
        if self.files.pop(path, None) is not None:
            self._sorted = None

    def paths(self) -> list[str]:
        if self._sorted is None:
            self._sorted = sorted(self.files)
        return self._sorted


class Catalogue:
    """All heads of all tenants."""

    def __init__(self) -> None:
        self._trees: dict[tuple[str, str], _Tree] = {}
        self._by_key: dict[tuple[str, str], Known] = {}
        self._removed: dict[tuple[str, str], int] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def put(self, tenant: str, known: Known) -> bool:
        """Takes a head in; False where a newer one is known already."""
        place = (tenant, known.key)
        before = self._by_key.get(place)
        if known.revision <= max(before.revision if before else 0, self._removed.get(place, 0)):
            return False
        self._removed.pop(place, None)
        if before is not None and before.head.path != known.head.path:
            self._trees[tenant, before.owner].drop(before.head.path)
        self._by_key[place] = known
        self._trees.setdefault((tenant, known.owner), _Tree()).put(known)
        return True

    def remove(self, tenant: str, key: str, revision: int) -> Known | None:
        """Takes a head out; returns what was known there."""
        place = (tenant, key)
        before = self._by_key.get(place)
        if before is not None and revision < before.revision:
            return None
        self._removed[place] = revision
        if before is None:
            return None
        del self._by_key[place]
        tree = self._trees[tenant, before.owner]
        if (there := tree.files.get(before.head.path)) is not None and there.key == key:
            tree.drop(before.head.path)
        return before

    def find(self, tenant: str, owner: str, path: str) -> Known | None:
        """The head of a path, deleted or not."""
        tree = self._trees.get((tenant, owner))
        return None if tree is None else tree.files.get(path)

    def by_key(self, tenant: str, key: str) -> Known | None:
        """The head that stands under a key."""
        return self._by_key.get((tenant, key))

    def below(self, tenant: str, owner: str, folder: str, after: str = "") -> Iterator[Known]:
        """The living files at and below a folder, sorted by path, from behind `after` on."""
        tree = self._trees.get((tenant, owner))
        if tree is None:
            return
        paths = tree.paths()
        begin = max(bisect_left(paths, folder), bisect_right(paths, after))
        for path in paths[begin : bisect_right(paths, folder + _LAST) if folder else len(paths)]:
            known = tree.files.get(path)
            if known is not None and known.head.alive and is_below(path, folder):
                yield known

    def of_tenant(self, tenant: str) -> list[Known]:
        """Every file of a tenant."""
        return [known for (whose, _), known in self._by_key.items() if whose == tenant]

    def tenants(self) -> set[str]:
        """The tenants that have a file."""
        return {tenant for tenant, _ in self._by_key}

    def forget(self, tenant: str) -> None:
        """Takes all files of a tenant out."""
        self._by_key = {place: known for place, known in self._by_key.items() if place[0] != tenant}
        self._removed = {place: revision for place, revision in self._removed.items() if place[0] != tenant}
        self._trees = {place: tree for place, tree in self._trees.items() if place[0] != tenant}

    def keep_only(self, present: set[tuple[str, str]]) -> list[tuple[str, Known]]:
        """Takes out what a whole scan did not show; returns it. What is shown after all comes back."""
        gone = [(place[0], known) for place, known in self._by_key.items() if place not in present]
        for tenant, known in gone:
            self.remove(tenant, known.key, known.revision)
            del self._removed[tenant, known.key]
        return gone
