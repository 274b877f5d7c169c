"""What was acknowledged is there after any process was killed, and replicas of the manager agree."""

import asyncio

import pytest
from support.context_caller import ContextCaller, StartContexts, context_caller
from support.nats_server import NatsServer
from support.running_service import running_process

from aios_proto.errors import AiosError, BusUnavailable, DeadlineExceeded, ManagerUnavailable
from aios_proto.messages.context import ContextInfo, SnapshotInfo


async def appended_until(alice: ContextCaller, stop: asyncio.Event) -> list[str]:
    """Appends until told to stop; returns what was acknowledged."""
    done: list[str] = []
    number = 0
    while not stop.is_set():
        text = f"turn {number} " + "x" * 700  # many of them, so that segments are written too
        try:
            await alice.append("talk", text, call_id=f"append-{number}", deadline_s=2)
        except (BusUnavailable, DeadlineExceeded, ManagerUnavailable):
            await asyncio.sleep(0.02)
            continue  # the same call again: it must not happen twice
        done.append(text)
        number += 1
    return done


@pytest.mark.timeout(60)
async def test_what_was_acknowledged_survives_the_death_of_the_manager(
    server: NatsServer, alice: ContextCaller
) -> None:
    stop = asyncio.Event()
    async with running_process("aios_context", server) as first:
        await alice.open(context="talk")
        appending = asyncio.create_task(appended_until(alice, stop))
        await until_appended(alice, 20)
        await first.kill()
    async with running_process("aios_context", server):
        before = len(await alice.texts("talk"))
        await until_appended(alice, before + 20)
        stop.set()
        done = await appending
        assert await alice.texts("talk") == done


@pytest.mark.timeout(60)
async def test_what_was_acknowledged_survives_the_death_of_the_bus(
    server: NatsServer, start_contexts: StartContexts
) -> None:
    async with start_contexts(request_timeout_s=1), context_caller(server) as alice:
        stop = asyncio.Event()
        await alice.open(context="talk")
        taken = await alice.call("snapshot", SnapshotInfo, context="talk")
        appending = asyncio.create_task(appended_until(alice, stop))
        await until_appended(alice, 20)
        server.kill()
        server.restart()
        before = len(await patiently(alice))
        await until_appended(alice, before + 5)
        stop.set()
        done = await appending
        assert await alice.texts("talk") == done
        assert (await alice.call("restore", ContextInfo, snapshot=taken.snapshot)).turns == 0


async def test_two_replicas_serve_one_context_and_lose_no_turn(
    start_contexts: StartContexts, alice: ContextCaller
) -> None:
    async with start_contexts(instance="a"), start_contexts(instance="b"):
        await alice.open(context="talk")
        await asyncio.gather(*(alice.append("talk", f"turn {n}", call_id=f"c{n}") for n in range(40)))
        again = await asyncio.gather(*(alice.append("talk", f"turn {n}", call_id=f"c{n}") for n in range(40)))
        assert len({info.version for info in again}) == 40
        texts = await alice.texts("talk")
        assert sorted(map(str, texts)) == sorted(f"turn {n}" for n in range(40))


async def until_appended(alice: ContextCaller, count: int) -> None:
    """Returns when the context has so many turns."""
    async with asyncio.timeout(30):
        while len(await patiently(alice)) < count:
            await asyncio.sleep(0.02)


async def patiently(alice: ContextCaller) -> list[str | None]:
    """The context's turns, asked for until they come."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await alice.texts("talk", deadline_s=2)
            except AiosError:
                await asyncio.sleep(0.05)
