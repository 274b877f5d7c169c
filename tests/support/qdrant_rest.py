"""Qdrant's REST API over the embedded engine, as far as our adapter uses it: what stands in where no server can be had.

It takes the requests the official client sends (collections, payload indexes, points, snapshots) and answers in the
server's form, its errors included. It does not cover: clusters, shards and replication, consistency and ordering
options, API keys, gRPC, quantisation and index parameters (taken and ignored), `wait=false` (writes are always waited
for), any other filter than match value/any and range, other vectors than one dense one, and the server's own snapshot
format (the file it gives is the embedded engine's).
"""

import argparse
import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from aios_kit.vectors.port import Collection, Point, Range, Where
from aios_kit.vectors.qdrant_edge import QdrantEdge
from aios_proto.errors import AiosError, ResourceNotFound

Json = dict[str, Any]


class NotCoveredError(Exception):
    """A request this stand-in does not know."""


@dataclass
class QdrantRest:
    """The stand-in.

    Attributes:
        url: where it listens.
        fail_next: status codes of the next answers, before anything is done.
        requests: method and path of each request so far.
    """

    edge: QdrantEdge
    folder: Path
    url: str = ""
    fail_next: list[int] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    indexes: dict[str, dict[str, Any]] = field(default_factory=dict)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/readyz":
            return web.Response(text="all shards are ready")
        self.requests.append(f"{request.method} {request.path}")
        if self.fail_next:
            return _failed(self.fail_next.pop(0), "told to fail")
        body = orjson.loads(await request.read() or b"{}")
        parts = request.path.strip("/").split("/")
        try:
            if parts[0] != "collections" or len(parts) < 2:
                raise NotCoveredError(request.path)
            if "snapshots" in parts:
                return await self._snapshots(request, parts)
            result = await self._collection(request.method, parts[1], parts[2:], body)
        except ResourceNotFound as error:
            return _failed(404, error.message)
        except AiosError as error:
            return _failed(400, error.message)
        except NotCoveredError as error:
            return _failed(501, f"not covered by the stand-in: {error}")
        return web.json_response({"result": result, "status": "ok", "time": 0.0})

    async def _collection(self, method: str, name: str, rest: list[str], body: Json) -> Any:
        known = name in self.sizes
        match method, rest:
            case "GET", ["exists"]:
                return {"exists": known}
            case "PUT", []:
                vectors = body["vectors"]["text"]
                await self.edge.ensure(_collection(name, vectors["size"]))
                self.sizes[name] = vectors["size"]
                return True
            case "DELETE", []:
                await self.edge.drop(name)
                return self.sizes.pop(name, None) is not None
        if not known:
            raise ResourceNotFound(f"Collection `{name}` doesn't exist!")
        actions: dict[tuple[str, ...], Callable[[str, Json], Awaitable[Any]]] = {
            ("GET",): self._info,
            ("PUT", "index"): self._index,
            ("PUT", "points"): self._upsert,
            ("POST", "points", "delete"): self._delete,
            ("POST", "points", "query"): self._query,
            ("POST", "points", "scroll"): self._scroll,
            ("POST", "points", "count"): self._count,
        }
        action = actions.get((method, *rest))
        if action is None:
            raise NotCoveredError(f"{method} {'/'.join(rest)}")
        return await action(name, body)

    async def _info(self, name: str, _: Json) -> Any:
        return {
            "status": "green",
            "optimizer_status": "ok",
            "segments_count": 1,
            "points_count": await self.edge.count(name, Where()),
            "config": {
                "params": {"vectors": {"text": {"size": self.sizes[name], "distance": "Cosine"}}},
                "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000},
                "optimizer_config": {
                    "deleted_threshold": 0.2,
                    "vacuum_min_vector_number": 1000,
                    "default_segment_number": 0,
                    "flush_interval_sec": 5,
                },
            },
            "payload_schema": {},
        }

    async def _index(self, name: str, body: Json) -> Any:
        self.indexes.setdefault(name, {})[body["field_name"]] = body["field_schema"]
        return _updated()

    async def _upsert(self, name: str, body: Json) -> Any:
        points = [
            Point(str(entry["id"]), entry["vector"]["text"], entry.get("payload") or {}) for entry in body["points"]
        ]
        await self.edge.upsert(name, points)
        return _updated()

    async def _delete(self, name: str, body: Json) -> Any:
        if "points" in body:
            await self.edge.delete(name, [str(point) for point in body["points"]])
        else:
            await self.edge.delete_where(name, _where(body["filter"]))
        return _updated()

    async def _query(self, name: str, body: Json) -> Any:
        query = body["query"]
        hits = await self.edge.search(
            name,
            query["nearest"] if isinstance(query, dict) else query,
            _where(body.get("filter")),
            body["limit"],
            min_score=body.get("score_threshold"),
        )
        return {"points": [{"id": hit.id, "version": 0, "score": hit.score, "payload": hit.payload} for hit in hits]}

    async def _scroll(self, name: str, body: Json) -> Any:
        page = await self.edge.scroll(
            name, _where(body.get("filter")), body["limit"], body.get("offset"), with_vectors=bool(body["with_vector"])
        )
        points = [
            {"id": point.id, "payload": point.payload, "vector": {"text": list(point.vector)} if point.vector else None}
            for point in page.points
        ]
        return {"points": points, "next_page_offset": page.cursor}

    async def _count(self, name: str, body: Json) -> Any:
        return {"count": await self.edge.count(name, _where(body.get("filter")))}

    async def _snapshots(self, request: web.Request, parts: list[str]) -> web.StreamResponse:
        name = parts[1]
        if name not in self.sizes:
            return _failed(404, f"Collection `{name}` doesn't exist!")
        if request.method == "POST":
            file = self.folder / f"{name}-{uuid.uuid4().hex}.snapshot"
            await self.edge.snapshot(name, file)
            made = {"name": file.name, "size": file.stat().st_size, "creation_time": None, "checksum": None}
            return web.json_response({"result": made, "status": "ok", "time": 0.0})
        file = self.folder / parts[3]
        if request.method == "GET":
            return web.FileResponse(file)
        file.unlink()
        return web.json_response({"result": True, "status": "ok", "time": 0.0})


@contextlib.asynccontextmanager
async def qdrant_rest(folder: Path, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[QdrantRest]:
    """Serves until the block ends, on a free port if none is named; its files are below `folder`."""
    stand_in = QdrantRest(QdrantEdge(folder / "points"), folder)
    app = web.Application(client_max_size=64 << 20)
    app.router.add_route("*", "/{path:.*}", stand_in.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        stand_in.url = f"http://{host}:{runner.addresses[0][1]}"
        yield stand_in
    finally:
        await runner.cleanup()
        await stand_in.edge.close()


def _collection(name: str, size: int) -> Collection:
    return Collection(name, size, "tenant", ("agent", "tags"), ("at_ms",))


def _where(said: Json | None) -> Where:
    equals: dict[str, str] = {}
    one_of: dict[str, list[str]] = {}
    all_of: dict[str, list[str]] = {}
    within: dict[str, Range] = {}
    none_of: dict[str, list[str]] = {}
    for condition in (said or {}).get("must") or []:
        key, match, span = condition.get("key"), condition.get("match"), condition.get("range")
        if match is not None and "value" in match:
            all_of.setdefault(key, []).append(match["value"])
        elif match is not None and "any" in match:
            one_of[key] = match["any"]
        elif span is not None:
            within[key] = Range(span.get("gte"), span.get("lt"))
        else:
            raise NotCoveredError(f"condition {condition}")
    for condition in (said or {}).get("must_not") or []:
        none_of[condition["key"]] = condition["match"]["any"]
    if (said or {}).get("should"):
        raise NotCoveredError("should")
    return Where(equals, one_of, all_of, none_of, within)


def _updated() -> Json:
    return {"operation_id": 0, "status": "completed"}


def _failed(status: int, message: str) -> web.Response:
    return web.json_response({"status": {"error": message}, "time": 0.0}, status=status)


async def _serve(folder: Path) -> None:
    async with qdrant_rest(folder, "0.0.0.0", 6333):
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serves as Qdrant would, on its port, until it is stopped.")
    parser.add_argument("--folder", type=Path, required=True)
    asyncio.run(_serve(parser.parse_args().folder))
