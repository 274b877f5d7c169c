"""The store on the bus shows what is there, each time it is asked."""

import asyncio

from support.nats_server import NatsServer

from aios_storage.adapters.jetstream_store import JetStreamStore
from aios_storage.ports import Change


async def test_a_scan_never_misses_what_is_there(server: NatsServer) -> None:
    nc = await server.connect("storage")
    store = JetStreamStore(lambda: nc, lambda: nc.jetstream(timeout=10), 10)
    await store.open(1)
    await store.commit([Change("scans.v.f.1", b"x", 0)])

    async def scan() -> list[str]:
        return [seen.key async for seen in store.scan("scans.v.f.*")]

    for _ in range(25):
        assert await asyncio.gather(*(scan() for _ in range(8))) == [["scans.v.f.1"]] * 8
    await store.commit([Change("scans.v.f.1", None, None), Change("scans.v.f.2", b"y", 0)])
    assert await scan() == ["scans.v.f.2"]
    assert [seen async for seen in store.scan("scans.nothing.*")] == []
    await nc.close()
