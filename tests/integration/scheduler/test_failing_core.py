"""A fault in the core at one event: the others are taken in, and time goes on."""

from collections.abc import Callable

import pytest
from support.model_caller import ModelCaller
from support.running_service import InProcess
from support.scripted_worker import ScriptedWorker

from aios_scheduler.core import SchedulerCore
from aios_scheduler.core.commands import Command
from aios_scheduler.core.events import Arrived, Event, Tick

TakeIn = Callable[[SchedulerCore, Event, float, list[Command]], None]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[Event], bool], list[Event]]:
    """Lets the core fail once, at the next event of a kind, before it has taken it in or after."""
    take_in: TakeIn = SchedulerCore.take_in

    def fail_once(kind: type[Event], late: bool) -> list[Event]:
        failed: list[Event] = []

        def failing_once(core: SchedulerCore, event: Event, now: float, commands: list[Command]) -> None:
            fails = isinstance(event, kind) and not failed
            if not fails or late:
                take_in(core, event, now, commands)
            if fails:
                failed.append(event)
                raise RuntimeError("a fault")

        monkeypatch.setattr(SchedulerCore, "take_in", failing_once)
        return failed

    return fail_once


async def test_what_was_decided_before_the_fault_is_done(
    caller: ModelCaller,
    worker: ScriptedWorker,
    scheduler: InProcess,
    failing: Callable[[type[Event], bool], list[Event]],
) -> None:
    failed = failing(Arrived, True)
    call = await caller.model_call()
    given = await worker.run()
    assert given.headers.attempt == 1, "not only when it was missed"
    await worker.done(given)
    assert (await caller.end(call))["type"] == "done"
    assert len(failed) == 1
    await caller.queue_is_empty()


async def test_the_clock_goes_on(
    caller: ModelCaller,
    worker: ScriptedWorker,
    scheduler: InProcess,
    failing: Callable[[type[Event], bool], list[Event]],
) -> None:
    await worker.goodbye()  # its heartbeats are events too, and would stand in for the clock
    failed = failing(Tick, False)
    late = await caller.model_call(deadline_s=1)
    assert (await caller.error(late))["code"] == "deadline.exceeded"
    assert len(failed) == 1
