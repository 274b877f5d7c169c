"""What happens when a call's time is up, wherever it is then."""

from support.scheduler_core import START, CoreBench

from aios_scheduler.core.call import CallState
from aios_scheduler.core.commands import CancelRun, CheckResult, Dispatch, Forget
from aios_scheduler.core.endings import DEADLINE_GRACE_S, DEADLINE_LIMIT_S
from aios_scheduler.core.events import ResultChecked, Tick


def test_a_waiting_call_is_refused_at_its_deadline() -> None:
    bench = CoreBench()
    call = bench.call("late", deadline_s=2)
    assert bench.core.next_wake(bench.now) == START + 2
    bench.pass_time(1.99)
    assert bench.state(call) is CallState.QUEUED
    bench.pass_time(0.01)
    assert bench.refusals() == {"late": "deadline.exceeded"}


def test_a_call_that_arrives_after_its_deadline_is_refused_at_once() -> None:
    bench = CoreBench()
    bench.worker()
    bench.call("stale", deadline_s=-1)
    assert bench.refusals() == {"stale": "deadline.exceeded"}
    assert bench.names(Dispatch) == []


def test_a_running_call_is_left_to_its_worker_until_the_grace_has_passed() -> None:
    bench = CoreBench()
    bench.worker()
    call = bench.call("slow", deadline_s=5)
    bench.pass_time(5 + DEADLINE_GRACE_S - 0.01)
    assert bench.names(CancelRun) == []
    bench.pass_time(0.02)
    assert [command.reason for command in bench.take(CancelRun)] == ["deadline"]
    bench.ended(call)
    assert bench.names(Forget) == ["slow"]
    assert bench.refusals() == {}


def test_a_worker_that_does_not_end_a_call_cannot_keep_it_for_ever() -> None:
    bench = CoreBench()
    bench.worker()
    bench.call("stuck", deadline_s=5)
    bench.pass_time(5 + DEADLINE_LIMIT_S)
    assert bench.refusals() == {"stuck": "deadline.exceeded"}
    assert bench.names(Forget) == []


def test_the_slot_of_a_call_that_a_worker_does_not_let_go_is_not_given_away() -> None:
    bench = CoreBench()
    bench.worker()
    stuck = bench.call("stuck", deadline_s=5)
    bench.pass_time(5 + DEADLINE_LIMIT_S)
    bench.call("next")
    bench.hello(running={stuck.key: 3})
    assert bench.names(Dispatch) == ["stuck"]
    bench.hello(running={})
    assert bench.names(Dispatch) == ["stuck", "next"]


def test_a_call_whose_end_cannot_be_looked_up_is_refused_in_the_end() -> None:
    bench = CoreBench()
    bench.worker()
    call = bench.call("unsure", deadline_s=5)
    bench.goodbye()
    assert len(bench.take(CheckResult)) == 1
    bench.pass_time(5 + DEADLINE_LIMIT_S, beating=())
    assert bench.refusals() == {"unsure": "deadline.exceeded"}
    bench.feed(ResultChecked(call.key, ended=True))
    assert bench.names(Forget) == []


def test_a_call_that_ended_in_time_leaves_no_wake_up_that_does_anything() -> None:
    bench = CoreBench()
    bench.worker()
    bench.ended(bench.call("quick", deadline_s=1))
    before = len(bench.log)
    bench.pass_time(10)
    assert len(bench.log) == before


def test_a_scheduler_with_nothing_to_do_never_wakes() -> None:
    assert CoreBench().core.next_wake(START) is None


def test_time_that_jumps_ahead_ends_every_call_once() -> None:
    bench = CoreBench()
    bench.worker(limit=2)
    for n in range(4):
        bench.call(f"c{n}", deadline_s=10 + n)
    bench.now += 10_000
    bench.feed(Tick())
    assert sorted(bench.refusals()) == ["c0", "c1", "c2", "c3"]
    assert bench.core.calls == {}
