"""Tools in a JetStream KV bucket: one key a tool, watched by the manager and by access, which looks at the effects."""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import KeyValueConfig
from nats.js.errors import KeyWrongLastSequenceError
from nats.js.kv import KeyValue
from pydantic import ValidationError

from aios_kit.kv_watch import watch_bucket
from aios_kit.logs import Log
from aios_proto import subjects
from aios_proto.errors import AiosError, BusUnavailable, ResourceConflict
from aios_proto.messages.tool import ToolRecord
from aios_tool.core.registry import Registry, Tool, compiled, record_key

_REMOVALS = ("DEL", "PURGE")


def tools_bucket(replicas: int) -> KeyValueConfig:
    """`AIOS_TOOLS`: declarations of tools and who serves them."""
    return KeyValueConfig(bucket=subjects.TOOLS_BUCKET, history=5, replicas=replicas, direct=True)


class KvRegistry:
    """Writes records, and keeps a registry as the bucket is."""

    def __init__(self, js: JetStreamContext, bucket: KeyValue, registry: Registry, log: Log) -> None:
        self._js = js
        self._bucket = bucket
        self._registry = registry
        self._log = log

    async def put(self, record: ToolRecord) -> Tool:
        """Stores a record over the one the registry knows.

        Raises:
            InvalidRequest: a schema of it cannot be used.
            ResourceConflict: it was changed at the same time.
            BusUnavailable: the store cannot be reached.
        """
        key = record_key(record)
        tool = compiled(record, 0)
        value = record.model_dump_json(exclude_none=True).encode()
        known = self._registry.get(key)
        try:
            async with _reaching_the_store():
                if known is None:
                    revision = await self._bucket.create(key, value)
                else:
                    revision = await self._bucket.update(key, value, last=known.revision)
        except KeyWrongLastSequenceError as error:
            raise ResourceConflict(f"{key} was changed at the same time", field="tool.name", retryable=True) from error
        tool = Tool(record, revision, tool.input_schema, tool.output_schema)
        self._registry.put(tool)
        return tool

    async def delete(self, tool: Tool) -> None:
        """Removes a record.

        Raises:
            BusUnavailable: the store cannot be reached.
        """
        async with _reaching_the_store():
            await self._bucket.delete(tool.key)
        self._registry.remove(tool.key, tool.revision)

    async def watch(self, loaded: Callable[[], None]) -> None:
        """Keeps the registry as the bucket is, for ever; calls `loaded` once all present values are in.

        Raises:
            nats.errors.Error: the bus or JetStream is away; watch again.
        """
        async with aclosing(watch_bucket(self._js, subjects.TOOLS_BUCKET)) as watcher:
            present: set[str] | None = set()
            async for entry in watcher:
                if entry is None:
                    if present is not None:
                        self._registry.keep_only(present)
                        present = None
                    loaded()
                    continue
                if entry.operation in _REMOVALS:
                    self._registry.remove(entry.key, entry.revision or 0)
                    continue
                if present is not None:
                    present.add(entry.key)
                self._take(entry.key, entry.revision or 0, entry.value or b"")

    def _take(self, key: str, revision: int, value: bytes) -> None:
        known = self._registry.get(key)
        if known is not None and known.revision == revision:
            return  # our own write
        try:
            tool = compiled(ToolRecord.model_validate_json(value), revision)
        except (ValidationError, AiosError) as error:
            self._log.error("a tool's record cannot be read; the tool is not offered", key=key, error=str(error))
            self._registry.remove(key, revision)
            return
        if tool.key != key:
            self._log.error("a tool's record stands under another name; the tool is not offered", key=key)
            return
        self._registry.put(tool)


@asynccontextmanager
async def _reaching_the_store() -> AsyncIterator[None]:
    try:
        yield
    except KeyWrongLastSequenceError:
        raise
    except (NatsError, TimeoutError) as error:
        raise BusUnavailable("the store of tools cannot be reached", retry_after_s=1) from error
