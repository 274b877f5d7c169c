"""Short ways to call an engine in tests: a plain HTTP client that hides nothing."""

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """The events of a stream, up to its end or `[DONE]`."""
    async for raw in response.content:
        line = raw.decode().strip()
        if line.startswith("data:"):
            data = line.removeprefix("data:").strip()
            if data == "[DONE]":
                return
            yield json.loads(data)


async def stream(http: aiohttp.ClientSession, inputs: str, **parameters: Any) -> list[dict[str, Any]]:
    """All events of one `/generate_stream`."""
    body = {"inputs": inputs, "parameters": {"details": True, **parameters}}
    async with http.post("/generate_stream", json=body) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        return [event async for event in events(response)]


async def generate(http: aiohttp.ClientSession, inputs: str, **parameters: Any) -> dict[str, Any]:
    """One `/generate`, with details."""
    body = {"inputs": inputs, "parameters": {"details": True, **parameters}}
    async with http.post("/generate", json=body) as response:
        answer: dict[str, Any] = await response.json()
        assert response.status == 200, answer
        return answer


async def call(http: aiohttp.ClientSession, path: str, body: object) -> tuple[int, Any]:
    """Status and JSON of one POST."""
    async with http.post(path, json=body) as response:
        return response.status, await response.json()
