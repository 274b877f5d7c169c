"""KV of calls on a real bus: whole pieces in order, whoever writes, and room that is given back."""

import asyncio
import os

import pytest
import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError
from support.nats_server import NatsServer
from support.running_service import InProcess

from aios_kit.streams import ensure_stream
from aios_llm.adapters.jetstream_kv import JetStreamKv, pieces_stream
from aios_llm.ports import KvMark, KvPiece
from aios_proto import subjects

MIB = 1 << 20


async def store_of(nc: Client) -> JetStreamKv:
    await ensure_stream(nc.jetstream(), pieces_stream())
    return JetStreamKv(nc, nc.jetstream(), timeout_s=20, log=structlog.get_logger())


async def test_pieces_come_back_whole_and_in_order_for_each_call(server: NatsServer) -> None:
    nc = await server.connect()
    store = await store_of(nc)
    sizes = [100, 3 * MIB, 1, MIB // 2, MIB // 2 + 1, *([70_000] * 100), 4 * MIB]
    pieces = [KvPiece(os.urandom(size), KvMark(end, f"digest {end}")) for end, size in enumerate(sizes, 1)]
    for piece in pieces:
        assert await store.append("acme.alice.1", piece)
    assert await store.append("acme.alice.12", pieces[0])
    found = await asyncio.gather(*(store.read("acme.alice.1") for _ in range(6)))
    assert all(read == pieces for read in found)
    assert await store.read("acme.alice.12") == pieces[:1]
    assert await store.read("acme.alice.2") == []
    await store.remove("acme.alice.1")
    assert await store.read("acme.alice.1") == []
    assert await store.read("acme.alice.12") == pieces[:1]
    await nc.close()


async def test_pieces_of_two_workers_do_not_mix_and_half_a_piece_is_none(server: NatsServer) -> None:
    nc = await server.connect()
    store = await store_of(nc)
    pieces = [KvPiece(os.urandom(2 * MIB), KvMark(end, "d")) for end in range(6)]
    await asyncio.gather(*(store.append("acme.alice.1", piece) for piece in pieces))
    lost = {"Aios-Kv-Piece": "lost", "Aios-Kv-Part": "1/2", "Aios-Kv-End": "9", "Aios-Kv-Digest": "d"}
    await nc.jetstream().publish(subjects.kv_pieces("acme.alice.1"), b"x", headers=lost)
    await nc.jetstream().publish(subjects.kv_pieces("acme.alice.1"), b"x", headers=lost | {"Aios-Kv-Part": "3/3"})
    found = await store.read("acme.alice.1")
    assert sorted(piece.end.tokens for piece in found) == list(range(6))
    assert all(piece in pieces for piece in found)
    await nc.close()


async def test_in_a_full_store_the_oldest_pieces_make_room(server: NatsServer) -> None:
    nc = await server.connect()
    store = await store_of(nc)
    limit = pieces_stream().max_bytes
    assert limit is not None
    piece = KvPiece(bytes(4 * MIB), KvMark(1, "d"))
    assert await store.append("acme.alice.1", piece)
    fitting = limit // len(piece.data)
    for _ in range(fitting):
        assert await store.append("acme.alice.2", piece)
    assert await store.read("acme.alice.1") == [], "half of it is none"
    assert fitting - 2 <= len(await store.read("acme.alice.2")) <= fitting
    info = await nc.jetstream().stream_info(subjects.KV_PIECES_STREAM)
    assert info.state.bytes <= limit
    await nc.close()


async def test_a_bus_that_forgot_its_stream_is_no_reason_to_raise(server: NatsServer) -> None:
    nc = await server.connect()
    store = await store_of(nc)
    await nc.jetstream().delete_stream(subjects.KV_PIECES_STREAM)
    piece = KvPiece(b"x", KvMark(1, "d"))
    assert not await store.append("acme.alice.1", piece)
    assert await store.read("acme.alice.1") == []
    await store.remove("acme.alice.1")
    store = await store_of(nc)
    assert await store.append("acme.alice.1", piece)
    await nc.close()


@pytest.mark.parametrize("headers", [None, {"Aios-Kv-Piece": "x", "Aios-Kv-Part": "one/two"}])
async def test_messages_that_are_none_of_ours_make_kv_unusable_and_nothing_worse(
    server: NatsServer, headers: dict[str, str] | None
) -> None:
    nc = await server.connect()
    store = await store_of(nc)
    await nc.jetstream().publish(subjects.kv_pieces("acme.alice.1"), b"x", headers=headers)
    assert await store.read("acme.alice.1") == []
    await nc.close()


async def test_a_worker_makes_the_stream_again_after_the_bus_forgot_it(server: NatsServer, worker: InProcess) -> None:
    async def until_made() -> None:
        nc = await server.connect()
        async with asyncio.timeout(60):
            while True:
                try:
                    await nc.jetstream().stream_info(subjects.KV_PIECES_STREAM)
                    break
                except (NatsError, TimeoutError):
                    await asyncio.sleep(0.05)
        await nc.close()

    await until_made()
    await asyncio.to_thread(server.restart)
    await until_made()
