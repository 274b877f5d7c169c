"""The road to the storage manager: a provisioned bus, access and storage as processes, and agents with the SDK."""

import contextlib
import itertools
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from support.frame_inbox import RawAgent
from support.nats_server import NatsServer
from support.running_service import ServiceProcess, access_env, running_process

from aios import Agent

_numbers = itertools.count(1)


@dataclass
class StorageRoad:
    """Everything between an agent and its files.

    Attributes:
        folder: holds the bus' store and the key ring.
        env: of the storage process.
    """

    server: NatsServer
    folder: Path
    operator: RawAgent
    env: Mapping[str, str]
    storage: ServiceProcess
    _agents: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    @property
    def key_ring(self) -> Path:
        return self.folder / "key-ring"

    async def agent(self, name: str | None = None, *, tenant: str = "default", group: str = "agent") -> Agent:
        """A new agent, connected until the road ends."""
        body = {"agent": name or f"agent-{next(_numbers)}", "tenant": tenant, "group": group}
        return await self.enter((await self.operator.result("access", "agent.create", body))["token"])

    async def enter(self, token: str) -> Agent:
        """The agent of that token, connected until the road ends."""
        return await self._agents.enter_async_context(Agent(token=token, url=self.server.url, connect_timeout_s=15))

    async def start_storage(self) -> ServiceProcess:
        """Another storage process in the place of one that ended; it lives until the road ends."""
        starting = running_process("aios_storage", self.server, "storage", self.env)
        self.storage = await self._agents.enter_async_context(starting)
        return self.storage

    async def close(self) -> None:
        await self._agents.aclose()


def files_with(folder: Path, marker: str) -> list[str]:
    """The files below a folder that hold a text in clear."""
    return [str(path) for path in folder.rglob("*") if path.is_file() and marker.encode() in path.read_bytes()]


def storage_env(folder: Path, **more: str) -> dict[str, str]:
    """What the storage process is told."""
    return {
        "AIOS_KEY_RING_DIR": str(folder / "key-ring"),
        "AIOS_VECTORS_FOLDER": str(folder / "storage-vectors"),
        **more,
    }


@contextlib.asynccontextmanager
async def storage_road(server: NatsServer, folder: Path, **more: str) -> AsyncIterator[StorageRoad]:
    """Access and storage on a provisioned bus until the block ends."""
    env = storage_env(folder, **more)
    async with (
        running_process("aios_access", server, "access", access_env(server)),
        running_process("aios_storage", server, "storage", env) as storage,
    ):
        operator = await RawAgent.connect(server.url, server.operator_token, allow_reconnect=True)
        road = StorageRoad(server, folder, operator, env, storage)
        try:
            yield road
        finally:
            await road.close()
            await operator.close()
