"""A Qdrant server as the vector store, over its REST API with the official client."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

import aiohttp
from qdrant_client import AsyncQdrantClient, models
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

from aios_kit.vectors.port import Collection, Hit, Page, Payload, Point, Where
from aios_proto.errors import (
    AiosError,
    InternalError,
    InvalidRequest,
    ManagerUnavailable,
    ResourceConflict,
    ResourceNotFound,
)

VECTOR: Final = "text"
_POINTS_A_REQUEST: Final = 256
_ATTEMPTS: Final = 3
_BACKOFF_S: Final = 0.1
_SEARCH_WIDTH: Final = 128
_CHUNK_BYTES: Final = 1 << 20

T = TypeVar("T")


class QdrantServer:
    """The `VectorStore` port on a Qdrant server.

    Every request may be repeated without harm, so each is, up to three times, where the server cannot be reached or
    fails.

    Args:
        url: base URL, such as `http://qdrant:6333`.
        api_key: if the server wants one.
        timeout_s: longest wait for one answer.
    """

    def __init__(self, url: str, api_key: str | None, timeout_s: float) -> None:
        self._url = url.rstrip("/")
        self._api_key = api_key
        self._timeout_s = timeout_s
        self._client = AsyncQdrantClient(
            url=self._url, api_key=api_key, timeout=max(1, round(timeout_s)), check_compatibility=False
        )
        self._dimensions: dict[str, int] = {}

    async def ensure(self, collection: Collection) -> None:
        """See `VectorStore.ensure`."""
        name = collection.name
        if not await self._ask(lambda: self._client.collection_exists(name)):
            await self._create(collection)
        info = await self._ask(lambda: self._client.get_collection(name))
        vectors = info.config.params.vectors
        params = vectors.get(VECTOR) if isinstance(vectors, dict) else None
        if params is None or params.size != collection.dimensions:
            raise ResourceConflict(f"the collection {name} is not made for these vectors", field="dimensions")
        tenant = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)
        await self._index_field(name, collection.tenant_field, tenant)
        for field in collection.keyword_fields:
            await self._index_field(name, field, models.PayloadSchemaType.KEYWORD)
        for field in collection.integer_fields:
            await self._index_field(name, field, models.PayloadSchemaType.INTEGER)
        self._dimensions[name] = collection.dimensions

    async def drop(self, collection: str) -> None:
        """See `VectorStore.drop`."""
        self._dimensions.pop(collection, None)
        await self._ask(lambda: self._client.delete_collection(collection))

    async def upsert(self, collection: str, points: Sequence[Point]) -> None:
        """See `VectorStore.upsert`."""
        for point in points:
            self._check(collection, point.vector)
        for start in range(0, len(points), _POINTS_A_REQUEST):
            batch = [
                models.PointStruct(id=point.id, vector={VECTOR: list(point.vector)}, payload=dict(point.payload))
                for point in points[start : start + _POINTS_A_REQUEST]
            ]
            await self._ask(lambda batch=batch: self._client.upsert(collection, batch, wait=True))  # type: ignore[misc]

    async def delete(self, collection: str, ids: Sequence[str]) -> None:
        """See `VectorStore.delete`."""
        if ids:
            gone = models.PointIdsList(points=list(ids))
            await self._ask(lambda: self._client.delete(collection, gone, wait=True))

    async def delete_where(self, collection: str, where: Where) -> None:
        """See `VectorStore.delete_where`."""
        if where.matches_nothing:
            return
        matching = models.FilterSelector(filter=server_filter(where) or models.Filter())
        await self._ask(lambda: self._client.delete(collection, matching, wait=True))

    async def search(
        self, collection: str, vector: Sequence[float], where: Where, limit: int, *, min_score: float | None = None
    ) -> Sequence[Hit]:
        """See `VectorStore.search`."""
        self._check(collection, vector)
        if where.matches_nothing:
            return []
        found = await self._ask(
            lambda: self._client.query_points(
                collection,
                query=list(vector),
                using=VECTOR,
                query_filter=server_filter(where),
                limit=limit,
                with_payload=True,
                score_threshold=min_score,
                search_params=models.SearchParams(hnsw_ef=max(_SEARCH_WIDTH, 2 * limit)),
            )
        )
        return [Hit(str(point.id), point.score, _payload(point.payload)) for point in found.points]

    async def scroll(
        self, collection: str, where: Where, limit: int, cursor: str | None = None, *, with_vectors: bool = False
    ) -> Page:
        """See `VectorStore.scroll`."""
        if where.matches_nothing:
            return Page((), None)
        records, following = await self._ask(
            lambda: self._client.scroll(
                collection,
                scroll_filter=server_filter(where),
                limit=limit,
                offset=cursor,
                with_payload=True,
                with_vectors=with_vectors,
            )
        )
        points = tuple(Point(str(entry.id), _vector(entry.vector), _payload(entry.payload)) for entry in records)
        return Page(points, None if following is None else str(following))

    async def count(self, collection: str, where: Where) -> int:
        """See `VectorStore.count`."""
        if where.matches_nothing:
            return 0
        matching = server_filter(where)
        return (await self._ask(lambda: self._client.count(collection, count_filter=matching, exact=True))).count

    async def flush(self, collection: str) -> None:
        """See `VectorStore.flush`. The server's log has every write that it has acknowledged."""
        if collection not in self._dimensions:
            raise ResourceNotFound(f"there is no collection {collection}", field="collection")

    async def snapshot(self, collection: str, file: Path) -> None:
        """See `VectorStore.snapshot`: made by the server, fetched from it and removed there."""
        made = await self._ask(lambda: self._client.create_snapshot(collection, wait=True))
        if made is None:
            raise InternalError("the vector store made no snapshot")
        headers = {} if self._api_key is None else {"api-key": self._api_key}
        scratch = file.with_name(f"{file.name}.{uuid.uuid4().hex}.part")
        timeout = aiohttp.ClientTimeout(sock_connect=self._timeout_s, sock_read=self._timeout_s)
        try:
            async with (
                aiohttp.ClientSession(headers=headers, timeout=timeout) as session,
                session.get(f"{self._url}/collections/{collection}/snapshots/{made.name}") as response,
            ):
                response.raise_for_status()
                with await asyncio.to_thread(scratch.open, "wb") as target:
                    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                        await asyncio.to_thread(target.write, chunk)
            scratch.replace(file)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ManagerUnavailable(f"the snapshot could not be fetched: {error}") from error
        finally:
            scratch.unlink(missing_ok=True)
            await self._ask(lambda: self._client.delete_snapshot(collection, made.name, wait=True))

    async def close(self) -> None:
        """See `VectorStore.close`."""
        await self._client.close()

    async def _create(self, collection: Collection) -> None:
        try:
            await self._ask(
                lambda: self._client.create_collection(
                    collection.name,
                    vectors_config={
                        VECTOR: models.VectorParams(size=collection.dimensions, distance=models.Distance.COSINE)
                    },
                )
            )
        except ResourceConflict:
            return  # another replica was faster

    async def _index_field(
        self, collection: str, field: str, schema: models.PayloadSchemaType | models.KeywordIndexParams
    ) -> None:
        await self._ask(lambda: self._client.create_payload_index(collection, field, schema, wait=True))

    def _check(self, collection: str, vector: Sequence[float]) -> None:
        dimensions = self._dimensions.get(collection)
        if dimensions is None:
            raise ResourceNotFound(f"there is no collection {collection}", field="collection")
        if len(vector) != dimensions:
            raise InvalidRequest(f"a vector has {len(vector)} dimensions, not {dimensions}", field="vector")

    async def _ask(self, request: Callable[[], Awaitable[T]]) -> T:
        attempt = 0
        while True:
            attempt += 1
            try:
                async with asyncio.timeout(self._timeout_s):
                    return await request()
            except UnexpectedResponse as error:
                failure = _error(error)
            except (ResponseHandlingException, ApiException, TimeoutError, OSError) as error:
                reason = str(error) or type(error).__name__
                failure = ManagerUnavailable(f"the vector store cannot be reached: {reason}", retry_after_s=1)
                failure.__cause__ = error
            if attempt == _ATTEMPTS or not failure.retryable:
                raise failure
            await asyncio.sleep(_BACKOFF_S * attempt)


def server_filter(where: Where) -> models.Filter | None:
    """The server's filter; None where everything matches."""
    must: list[models.Condition] = [
        models.FieldCondition(key=field, match=models.MatchValue(value=text)) for field, text in where.equals.items()
    ]
    must += [
        models.FieldCondition(key=field, match=models.MatchAny(any=list(texts)))
        for field, texts in where.one_of.items()
    ]
    must += [
        models.FieldCondition(key=field, match=models.MatchValue(value=text))
        for field, texts in where.all_of.items()
        for text in texts
    ]
    must += [
        models.FieldCondition(key=field, range=models.Range(gte=span.at_least, lt=span.below))
        for field, span in where.within.items()
        if span.at_least is not None or span.below is not None
    ]
    must_not: list[models.Condition] = [
        models.FieldCondition(key=field, match=models.MatchAny(any=list(texts)))
        for field, texts in where.none_of.items()
        if texts
    ]
    if not must and not must_not:
        return None
    return models.Filter(must=must or None, must_not=must_not or None)


def _error(error: UnexpectedResponse) -> AiosError:
    status = error.status_code or 500
    text = f"the vector store answered {status}"
    if status == 404:
        return ResourceNotFound(text, field="collection")
    if status == 409:
        return ResourceConflict(text)
    if status in (401, 403):
        return ManagerUnavailable("the vector store does not accept the key", retryable=False)
    if status == 429 or status >= 500:
        return ManagerUnavailable(text, retry_after_s=1)
    return InternalError(f"{text}: {error.content[:300].decode(errors='replace')}")


def _vector(value: models.VectorStructOutput | None) -> Sequence[float]:
    if isinstance(value, dict):
        inner = value.get(VECTOR)
        return [float(number) for number in inner] if isinstance(inner, list) else ()  # type: ignore[arg-type]
    return ()


def _payload(value: models.Payload | None) -> Payload:
    return value or {}
