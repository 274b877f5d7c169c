"""The death of a worker's connection is noticed by asking the bus; a worker that is only slow is left its time."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from support.nats_server import settle

from aios_proto import subjects
from aios_proto.kernel import WORKER_INTERVAL_S, WORKER_TIMEOUT_S
from aios_scheduler.probing import Probing, WorkerId

WORKER: WorkerId = ("default", "w1")


class Watched:
    """A worker's subscription, and what the prober says of it."""

    def __init__(self, nc: Client) -> None:
        self.gone: list[tuple[WorkerId, str]] = []
        self.asked = asyncio.Event()
        self._heard = asyncio.Event()
        self.probing = Probing(nc, self._is_gone)

    def _is_gone(self, worker: WorkerId, incarnation: str) -> None:
        self.gone.append((worker, incarnation))
        self._heard.set()

    async def on_probe(self, message: Msg) -> None:
        self.asked.set()

    async def until_gone(self) -> None:
        async with asyncio.timeout(10):
            await self._heard.wait()


@pytest.fixture
async def watched(nc: Client) -> AsyncIterator[Watched]:
    watched = Watched(nc)
    yield watched
    await watched.probing.close()


async def test_a_worker_nobody_listens_for_any_more_is_gone(watched: Watched) -> None:
    watched.probing.heard(WORKER, "first")
    await watched.until_gone()
    assert watched.gone == [(WORKER, "first")]


async def test_a_worker_that_listens_is_asked_and_not_gone_for_being_silent(watched: Watched, nc: Client) -> None:
    await nc.subscribe(subjects.worker(*WORKER, "probe"), cb=watched.on_probe)
    await settle(nc)
    watched.probing.heard(WORKER, "first")
    async with asyncio.timeout(10):
        await watched.asked.wait()
    assert watched.gone == []


async def test_a_worker_that_dies_after_it_was_asked_is_noticed_too(watched: Watched, nc: Client) -> None:
    listening = await nc.subscribe(subjects.worker(*WORKER, "probe"), cb=watched.on_probe)
    await settle(nc)
    watched.probing.heard(WORKER, "first")
    async with asyncio.timeout(10):
        await watched.asked.wait()
    await listening.unsubscribe()
    await watched.until_gone()
    assert watched.gone == [(WORKER, "first")]


async def test_a_worker_that_beats_is_never_asked(watched: Watched, nc: Client) -> None:
    await nc.subscribe(subjects.worker(*WORKER, "probe"), cb=watched.on_probe)
    await settle(nc)
    for _ in range(int(WORKER_TIMEOUT_S / WORKER_INTERVAL_S)):
        watched.probing.heard(WORKER, "first")
        await asyncio.sleep(0)
    watched.probing.left(WORKER)
    await nc.flush()
    assert not watched.asked.is_set()
    assert watched.gone == []


async def test_a_worker_that_came_back_as_another_is_not_taken_for_the_one_before(watched: Watched) -> None:
    watched.probing.heard(WORKER, "first")
    watched.probing.heard(WORKER, "second")
    await watched.until_gone()
    assert watched.gone == [(WORKER, "second")]
