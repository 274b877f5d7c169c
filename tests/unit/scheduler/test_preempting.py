"""Which running call is stopped for one of higher priority, and which never."""

import pytest
from support.scheduler_core import CoreBench

from aios_proto.messages.scheduler import PolicyName
from aios_scheduler.core.call import ModelCall
from aios_scheduler.core.commands import Dispatch, Preempt


@pytest.fixture
def bench() -> CoreBench:
    """A worker of one slot that can stop calls."""
    bench = CoreBench("aios")
    bench.worker(can_preempt=True)
    return bench


def stopped(bench: CoreBench) -> list[str]:
    return [command.call.id for command in bench.take(Preempt)]


def test_a_call_of_lower_priority_is_stopped_for_one_that_waits(bench: CoreBench) -> None:
    bench.call("low", priority=1, program="a")
    bench.call("high", priority=9, program="b")
    bench.hello()
    assert stopped(bench) == ["low"]


def test_the_one_that_waits_runs_next_and_the_stopped_one_goes_on_after_it(bench: CoreBench) -> None:
    low = bench.call("low", priority=1, program="a")
    (given,) = bench.take(Dispatch)
    high = bench.call("high", priority=9, program="b")
    bench.hello()
    bench.returned(given, "preempted")
    assert (low.state, high.state) == ("queued", "running")
    bench.ended(high)
    assert low.state == "running"


@pytest.mark.parametrize("priority", [1, 5])
def test_one_of_the_same_or_a_higher_priority_goes_on(bench: CoreBench, priority: int) -> None:
    bench.call("runs", priority=5, program="a")
    bench.call("waits", priority=priority, program="b")
    bench.hello()
    assert stopped(bench) == []


def test_one_is_stopped_once_however_often_the_worker_beats(bench: CoreBench) -> None:
    bench.call("low", priority=1, program="a")
    bench.call("high", priority=9, program="b")
    bench.call("higher", priority=9, program="c")
    for _ in range(4):
        bench.hello()
    assert stopped(bench) == ["low"]


def test_a_worker_that_cannot_stop_calls_is_not_asked_to() -> None:
    bench = CoreBench("aios")
    bench.worker()
    bench.call("low", priority=1, program="a")
    bench.call("high", priority=9, program="b")
    bench.hello()
    assert stopped(bench) == []


def test_a_worker_with_a_free_slot_stops_nothing() -> None:
    bench = CoreBench("aios")
    bench.worker(can_preempt=True, limit=2)
    bench.call("low", priority=1, program="a")
    bench.call("high", priority=9, program="b")
    bench.hello()
    assert stopped(bench) == []


@pytest.mark.parametrize("why", ["not resumable", "cancelled", "due soon"])
def test_a_call_that_cannot_go_on_later_is_never_stopped(bench: CoreBench, why: str) -> None:
    low = bench.call("low", priority=1, program="a")
    match why:
        case "not resumable":
            low.resumable = False
        case "cancelled":
            low.cancelled = True
        case _:
            low.latest_start = bench.now + 1
    bench.call("high", priority=9, program="b")
    bench.hello()
    assert stopped(bench) == []


def test_of_several_the_lowest_is_stopped_and_of_equals_the_one_that_would_run_longest() -> None:
    bench = CoreBench("aios")
    bench.worker(can_preempt=True, limit=3)

    def running(name: str, priority: int, left: int) -> ModelCall:
        call = bench.call(name, priority=priority, program=name)
        call.max_tokens = left
        return call

    running("middle", 3, 4000)
    running("short", 1, 10)
    running("long", 1, 500)
    bench.call("high", priority=9, program="x")
    bench.hello()
    assert stopped(bench) == ["long"]


@pytest.mark.parametrize("policy", ["fifo", "fair"])
def test_where_the_policy_does_not_rank_it_behind_a_call_of_lower_priority_goes_on(policy: PolicyName) -> None:
    bench = CoreBench(policy)
    bench.worker(can_preempt=True)
    bench.call("low", priority=1, program="a")
    bench.call("high", priority=9, program="b")
    bench.hello()
    assert stopped(bench) == []
