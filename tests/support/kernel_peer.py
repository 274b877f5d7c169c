"""A kernel service made of a bus connection: it says that it lives, keeps what it gets, and answers at once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from support.nats_server import NatsServer, settle

from aios_proto import headers as wire
from aios_proto import subjects
from aios_proto.kernel import PRESENCE_INTERVAL_S
from aios_proto.operations import OPERATIONS
from aios_proto.permissions import Role


@dataclass
class KernelPeer:
    """One service of one manager.

    Attributes:
        received: what access forwarded, in order.
        answers: whether each volatile call is answered `done` with its operation as the result.
    """

    nc: Client
    manager: str
    instance: str
    received: list[Msg] = field(default_factory=list)
    answers: bool = True
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def beat(self, *, leaving: bool = False) -> None:
        """One heartbeat; returns when the server has it."""
        names = [operation.name for operation in OPERATIONS.values() if operation.manager == self.manager]
        body = {"manager": self.manager, "instance": self.instance, "operations": names, "leaving": leaving}
        await self.nc.publish(subjects.presence(self.manager, self.instance), orjson.dumps(body))
        await settle(self.nc)

    async def received_call(self, call_id: str, timeout_s: float = 10) -> Msg:
        """The call of this id, once it has come."""

        def find() -> Msg | None:
            return next((m for m in self.received if (m.headers or {}).get(wire.ID) == call_id), None)

        async with asyncio.timeout(timeout_s), self._news:
            await self._news.wait_for(lambda: find() is not None)
        found = find()
        assert found is not None
        return found

    async def on_message(self, message: Msg) -> None:
        async with self._news:
            self.received.append(message)
            self._news.notify_all()
        headers = message.headers or {}
        if self.answers and headers.get(wire.REPLY) and headers.get(wire.DURABILITY) != "durable":
            frame = {"type": "done", "id": headers[wire.ID], "result": {"subject": message.subject}}
            await self.nc.publish(headers[wire.REPLY], orjson.dumps(frame))


@contextlib.asynccontextmanager
async def kernel_peer(
    server: NatsServer, role: Role, manager: str, *, pattern: str | None = None, instance: str = "scripted"
) -> AsyncIterator[KernelPeer]:
    """A peer that lives until the block ends; it listens to `aios.k.<manager>.>` or to `pattern`."""

    async def quiet(_: Exception) -> None: ...

    nc = await server.connect(role, error_cb=quiet)
    peer = KernelPeer(nc, manager, instance)

    async def beat_on() -> None:
        while True:
            await peer.beat()
            await asyncio.sleep(PRESENCE_INTERVAL_S)

    await nc.subscribe(pattern or f"aios.k.{manager}.>", cb=peer.on_message)
    await peer.beat()
    beating = asyncio.create_task(beat_on())
    try:
        yield peer
    finally:
        beating.cancel()
        await asyncio.wait((beating,))
        await nc.close()
