"""How a tenant's messages leave the bus for a file, and return: each stream as its own service may.

A key-value bucket is read in the order of its changes until nothing is left, so what is in the file is the state of one
moment, though the tenant goes on working.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from aios_proto.errors import BusUnavailable, ResourceConflict
from aios_proto.permissions import Role
from aios_proto.subjects import STORAGE_BUCKET, service_inbox_prefix
from aios_proto.tls import context_of_environment
from aios_stack.backup.archive import ArchiveWriter, Message, Stored, messages_of
from aios_stack.backup.assets import ASSETS, Asset

_TIMEOUT_S = 30.0
_AT_ONCE = 32
_OURS_TO_SET = ("Nats-Expected", "Nats-Batch", "Nats-Msg-Id", "Nats-Rollup")
_STREAM_NOT_FOUND = 10059


@dataclass(frozen=True, slots=True)
class Bus:
    """How the services' assets are reached.

    Attributes:
        url: of the bus.
        seeds: nkey seed file of each service.
    """

    url: str
    seeds: Mapping[Role, Path]


async def save(bus: Bus, tenant: str, archive: ArchiveWriter) -> dict[str, int]:
    """Writes all messages of a tenant; returns how many of each stream.

    Raises:
        BusUnavailable: the bus cannot be reached.
    """
    counts: dict[str, int] = {}
    for asset in ASSETS:
        async with _connected(bus, asset.role) as js:
            counts[asset.stream] = 0
            async for message in _messages(js, asset, tenant):
                headers = {name: text for name, text in (message.headers or {}).items() if _is_own(name)}
                found = Message(stream=asset.stream, subject=message.subject, headers=headers)
                await asyncio.to_thread(archive.add, found, message.data)
                counts[asset.stream] += 1
    return counts


async def occupied(bus: Bus, tenant: str) -> list[str]:
    """The streams that hold something of a tenant."""
    found = []
    for asset in ASSETS:
        async with _connected(bus, asset.role) as js:
            with suppress(NotFoundError):
                info = await js.stream_info(asset.stream, subjects_filter=asset.subjects(tenant))
                if info.state.subjects:
                    found.append(asset.stream)
    return found


async def load(bus: Bus, tenant: str, path: Path, *, replace: bool) -> dict[str, int]:
    """Writes the messages of a checked backup to their streams; returns how many to each.

    Args:
        bus: where to.
        tenant: whose backup it is.
        path: the backup.
        replace: whether what the tenant has now may be removed first.

    Raises:
        ResourceConflict: the tenant has something already and it may not be replaced.
        BusUnavailable: the bus cannot be reached, or a stream is missing because its service has never run.
    """
    there = await occupied(bus, tenant)
    if there and not replace:
        raise ResourceConflict(f"tenant {tenant} has data already, in {', '.join(there)}", field="tenant")
    counts: dict[str, int] = {}
    for asset in ASSETS:
        async with _connected(bus, asset.role) as js:
            marked = await _clear(js, asset, tenant) if asset.stream in there else set()
            loaded: set[str] = set()
            counts[asset.stream] = await _load_one(js, asset, tenant, path, loaded)
            for subject in marked - loaded:
                await js.purge_stream(asset.stream, subject=subject)
    return counts


async def storage_schema(bus: Bus) -> int | None:
    """In which form the storage manager keeps its records here; None where it has never run."""
    async with _connected(bus, "storage") as js:
        try:
            found = await js.get_last_msg(f"KV_{STORAGE_BUCKET}", f"$KV.{STORAGE_BUCKET}._schema")
        except NotFoundError:
            return None
    return int(found.data or b"0")


async def _clear(js: JetStreamContext, asset: Asset, tenant: str) -> set[str]:
    """Removes what a tenant has, so that services that watch their buckets see it go; returns where marks are left."""
    if asset.newest_only:
        info = await js.stream_info(asset.stream, subjects_filter=asset.subjects(tenant))
        for subject in info.state.subjects or {}:
            await js.publish(subject, b"", timeout=_TIMEOUT_S, headers={"KV-Operation": "DEL"})
        return set(info.state.subjects or {})
    await js.purge_stream(asset.stream, subject=asset.subjects(tenant))
    return set()


async def _load_one(js: JetStreamContext, asset: Asset, tenant: str, path: Path, loaded: set[str]) -> int:
    count = 0
    prefix = asset.subjects(tenant).removesuffix(">")
    waiting: list[Stored] = []

    async def send() -> None:
        # In order where one subject stands several times.
        async with asyncio.TaskGroup() as group:
            for one in waiting:
                group.create_task(_publish(js, one))
        waiting.clear()

    stored = messages_of(path)
    while (one := await asyncio.to_thread(next, stored, None)) is not None:
        if one.message.stream != asset.stream or not one.message.subject.startswith(prefix):
            continue
        if len(waiting) == _AT_ONCE or any(one.message.subject == other.message.subject for other in waiting):
            await send()
        waiting.append(one)
        loaded.add(one.message.subject)
        count += 1
    await send()
    return count


async def _publish(js: JetStreamContext, one: Stored) -> None:
    headers = one.message.headers or None
    await js.publish(one.message.subject, one.payload, timeout=_TIMEOUT_S, headers=headers)


async def _messages(js: JetStreamContext, asset: Asset, tenant: str) -> AsyncIterator[Msg]:
    policy = DeliverPolicy.LAST_PER_SUBJECT if asset.newest_only else DeliverPolicy.ALL
    try:
        reader = await js.subscribe(
            asset.subjects(tenant),
            stream=asset.stream,
            ordered_consumer=True,
            config=ConsumerConfig(deliver_policy=policy),
        )
    except NotFoundError as error:
        if error.err_code == _STREAM_NOT_FOUND:
            return  # its service has never run here
        raise
    try:
        about = await reader.consumer_info()
        # By the server's count: what it has sent may not have come yet.
        left = (about.num_pending or 0) + (about.delivered.consumer_seq if about.delivered else 0)
        while left:
            message = await reader.next_msg(timeout=_TIMEOUT_S)
            left = message.metadata.num_pending
            yield message
    finally:
        with suppress(NatsError):
            await asyncio.shield(reader.unsubscribe())


@asynccontextmanager
async def _connected(bus: Bus, role: Role) -> AsyncIterator[JetStreamContext]:
    async def quiet(_: Exception) -> None: ...

    client: Client | None = None
    try:
        client = await nats.connect(
            bus.url.split(","),
            nkeys_seed=str(bus.seeds[role]),
            inbox_prefix=service_inbox_prefix(role).encode(),
            connect_timeout=5,
            tls=context_of_environment(),
            max_reconnect_attempts=3,
            error_cb=quiet,
        )
        yield client.jetstream(timeout=_TIMEOUT_S)
    except (NatsError, OSError, TimeoutError) as error:
        raise BusUnavailable(f"the bus could not be reached as {role}: {type(error).__name__} {error}") from error
    finally:
        if client is not None:
            with suppress(NatsError):
                await client.close()


def _is_own(header: str) -> bool:
    return not header.startswith(_OURS_TO_SET)
