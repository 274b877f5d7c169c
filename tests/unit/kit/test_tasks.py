"""How many things a service does at once, and how they end."""

import asyncio

import pytest
import structlog
from structlog.testing import capture_logs

from aios_kit import tasks as kit_tasks
from aios_kit.logs import Log
from aios_kit.tasks import Tasks, end


@pytest.fixture
def log() -> Log:
    logger: Log = structlog.stdlib.get_logger("test")
    return logger


async def test_draining_waits_for_work_that_ends_in_time(log: Log) -> None:
    tasks = Tasks(10, log)
    release, done = asyncio.Event(), []

    async def work(number: int) -> None:
        await release.wait()
        done.append(number)

    for number in range(5):
        await tasks.start(work(number))
    assert len(tasks) == 5
    draining = asyncio.create_task(tasks.drain(10))
    release.set()
    assert await draining == 0
    assert done == [0, 1, 2, 3, 4]
    assert len(tasks) == 0


async def test_draining_cuts_off_what_takes_too_long_and_says_how_much(log: Log) -> None:
    tasks = Tasks(10, log)
    cancelled = []

    async def stuck(number: int) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(number)
            raise

    async def quick() -> None: ...

    await tasks.start(stuck(1))
    await tasks.start(quick())
    await tasks.start(stuck(2))
    assert await tasks.drain(0.01) == 2
    assert sorted(cancelled) == [1, 2]
    assert len(tasks) == 0


async def test_draining_nothing_returns_at_once(log: Log) -> None:
    assert await Tasks(1, log).drain(0) == 0


async def test_beyond_the_limit_starting_waits_until_something_ends(log: Log) -> None:
    tasks = Tasks(2, log)
    gates = [asyncio.Event() for _ in range(3)]
    begun = []

    async def work(number: int) -> None:
        begun.append(number)
        await gates[number].wait()

    await tasks.start(work(0))
    await tasks.start(work(1))
    third = asyncio.create_task(tasks.start(work(2)))
    await asyncio.wait((third,), timeout=0.02)
    assert not third.done()
    assert begun == [0, 1]
    gates[0].set()
    await third
    gates[1].set()
    gates[2].set()
    assert await tasks.drain(5) == 0
    assert begun == [0, 1, 2]


async def test_a_start_that_is_cancelled_while_it_waits_runs_nothing_and_takes_no_slot(log: Log) -> None:
    tasks = Tasks(1, log)
    gate = asyncio.Event()
    ran = []

    async def wait() -> None:
        await gate.wait()

    async def never() -> None:
        ran.append("never")

    async def later() -> None:
        ran.append("later")

    await tasks.start(wait())
    waiting = asyncio.create_task(tasks.start(never()))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait((waiting,))
    gate.set()
    await tasks.start(later())
    assert await tasks.drain(5) == 0
    assert ran == ["later"]


async def test_work_that_fails_is_logged_and_the_rest_goes_on(log: Log) -> None:
    with capture_logs() as logs:
        fresh: Log = structlog.stdlib.get_logger("test")
        tasks = Tasks(1, fresh)

        async def fail() -> None:
            raise ValueError("bad luck")

        async def succeed() -> None: ...

        await tasks.start(fail(), "first")
        await tasks.start(succeed())
        assert await tasks.drain(5) == 0
    assert [(line["event"], line["task"]) for line in logs] == [("background task failed", "first")]
    assert isinstance(logs[0]["exc_info"], ValueError)


async def test_ending_a_task_cancels_it_again_where_the_first_cancellation_was_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kit_tasks, "_CANCEL_AGAIN_S", 0.01)
    lost = 0

    async def stubborn() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                lost += 1
                if lost == 3:
                    raise

    async def failing() -> None:
        raise RuntimeError("failed long ago")

    ending = [asyncio.create_task(work()) for work in (stubborn, failing)]
    await asyncio.sleep(0)
    await end(*ending)
    assert all(task.done() for task in ending)
    assert lost == 3
    assert isinstance(ending[1].exception(), RuntimeError)
    await end()
