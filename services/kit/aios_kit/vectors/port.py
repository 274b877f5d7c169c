"""What a service may ask of a vector store, whichever one it is: dense vectors with a payload, found under a filter.

A store holds what can be made again from the source of truth: it may lose its last seconds in a crash, never more than
what was written since the last `flush`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pydantic import JsonValue

Payload = Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Collection:
    """One kind of vectors.

    Attributes:
        name: letters, digits, `_` and `-`.
        dimensions: of every vector.
        tenant_field: payload field by which data is kept apart; each search should filter by it.
        keyword_fields: payload fields that are filtered by equality; texts or lists of texts.
        integer_fields: payload fields that are filtered by range.
    """

    name: str
    dimensions: int
    tenant_field: str = "tenant"
    keyword_fields: tuple[str, ...] = ()
    integer_fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Point:
    """One vector.

    Attributes:
        id: a UUID as text; the same id again replaces the point.
        vector: empty where it was not asked for.
        payload: what it is found and recognised by.
    """

    id: str
    vector: Sequence[float]
    payload: Payload


@dataclass(frozen=True, slots=True)
class Range:
    """Whole numbers from `at_least` to below `below`; None is no bound."""

    at_least: int | None = None
    below: int | None = None


@dataclass(frozen=True, slots=True)
class Where:
    """What points must be like; all of it must hold.

    Attributes:
        equals: the field is this text, or a list with it.
        one_of: the field is one of these texts, or a list with one of them; no texts match nothing.
        all_of: the field is a list with all of these texts.
        none_of: the field is none of these texts, nor a list with one of them.
        within: the field is a number in the range.
    """

    equals: Mapping[str, str] = field(default_factory=dict)
    one_of: Mapping[str, Sequence[str]] = field(default_factory=dict)
    all_of: Mapping[str, Sequence[str]] = field(default_factory=dict)
    none_of: Mapping[str, Sequence[str]] = field(default_factory=dict)
    within: Mapping[str, Range] = field(default_factory=dict)

    @property
    def matches_nothing(self) -> bool:
        """Whether it is known without looking that no point can match."""
        return any(not texts for texts in self.one_of.values())


@dataclass(frozen=True, slots=True)
class Hit:
    """A point that was found; `score` is the cosine of the angle to what was searched, 1 at the most."""

    id: str
    score: float
    payload: Payload


@dataclass(frozen=True, slots=True)
class Page:
    """Some points in the order of their ids; `cursor` goes on behind them, None where there are no more."""

    points: Sequence[Point]
    cursor: str | None


class VectorStore(Protocol):
    """A vector store. Cosine similarity throughout.

    Every method raises `ManagerUnavailable` where the store cannot be reached, `ResourceNotFound` for a collection that
    was not ensured, and `InvalidRequest` for a vector of another number of dimensions.
    """

    async def ensure(self, collection: Collection) -> None:
        """Creates a collection and its payload indexes where they are not there.

        Raises:
            ResourceConflict: there is one of this name with another number of dimensions.
        """

    async def drop(self, collection: str) -> None:
        """Removes a collection with all it holds, if it is there."""

    async def upsert(self, collection: str, points: Sequence[Point]) -> None:
        """Adds or replaces points; they are found from then on."""

    async def delete(self, collection: str, ids: Sequence[str]) -> None:
        """Removes points by id, those that are there."""

    async def delete_where(self, collection: str, where: Where) -> None:
        """Removes all points that match."""

    async def search(
        self, collection: str, vector: Sequence[float], where: Where, limit: int, *, min_score: float | None = None
    ) -> Sequence[Hit]:
        """The nearest points that match, best first."""

    async def scroll(
        self, collection: str, where: Where, limit: int, cursor: str | None = None, *, with_vectors: bool = False
    ) -> Page:
        """The points that match, a page at a time."""

    async def count(self, collection: str, where: Where) -> int:
        """How many points match, exactly."""

    async def flush(self, collection: str) -> None:
        """Returns when everything written so far is on disk."""

    async def snapshot(self, collection: str, file: Path) -> None:
        """Writes the collection as it is now into one file, in the store's own format."""

    async def close(self) -> None:
        """Flushes and lets go of everything."""
