"""What becomes of calls whose worker dies, restarts, returns them, or never had them."""

import pytest
from support.scheduler_core import CoreBench

from aios_proto.kernel import WORKER_TIMEOUT_S
from aios_scheduler.core.call import CallState
from aios_scheduler.core.commands import Adopt, CheckResult, Dispatch, Forget
from aios_scheduler.core.events import ResultChecked, RunEnded, RunReturned
from aios_scheduler.core.runs import MAX_ATTEMPTS, RUN_GRACE_S


def test_a_silent_workers_call_runs_elsewhere_at_its_old_place() -> None:
    bench = CoreBench()
    bench.worker("w1")
    first = bench.call("first")
    bench.call("second")
    bench.pass_time(WORKER_TIMEOUT_S, beating=())
    assert [command.call.id for command in bench.take(CheckResult)] == ["first"]
    bench.feed(ResultChecked(first.key, ended=False))
    bench.worker("w2")
    assert [(c.call.id, c.worker[1], c.attempt) for c in bench.take(Dispatch)] == [("first", "w2", 2)]


def test_a_volatile_call_is_queued_again_without_looking() -> None:
    bench = CoreBench()
    bench.worker("w1")
    call = bench.call("quick", durable=False)
    bench.goodbye("w1")
    assert bench.state(call) is CallState.QUEUED


def test_a_call_that_had_ended_before_its_worker_died_is_not_run_again() -> None:
    bench = CoreBench()
    bench.worker()
    call = bench.call("ended")
    bench.goodbye()
    bench.feed(ResultChecked(call.key, ended=True))
    assert bench.names(Forget) == ["ended"]
    bench.worker(incarnation="second")
    assert bench.names(Dispatch) == ["ended"]


def test_a_restarted_worker_is_noticed_by_its_incarnation() -> None:
    bench = CoreBench()
    bench.worker(incarnation="first")
    bench.call("lost", durable=False)
    bench.worker(incarnation="second")
    assert bench.names(Dispatch) == ["lost", "lost"]


def test_the_goodbye_of_an_older_incarnation_does_not_hurt_the_newer() -> None:
    bench = CoreBench()
    bench.worker(incarnation="first")
    old = bench._hellos["w1"]
    bench.worker(incarnation="second")
    call = bench.call("runs")
    bench._hellos["w1"], new = old, bench._hellos["w1"]
    bench.goodbye()
    bench._hellos["w1"] = new
    assert bench.state(call) is CallState.RUNNING


def test_a_run_that_was_lost_on_its_way_is_noticed_and_repeated() -> None:
    bench = CoreBench()
    bench.worker()
    call = bench.call("lost", durable=False)
    bench.hello(running={})
    assert bench.state(call) is CallState.RUNNING  # it may still be on its way
    bench.now += RUN_GRACE_S + 0.1
    bench.hello(running={})
    assert bench.names(Dispatch) == ["lost", "lost"]


@pytest.mark.parametrize("reason", ["overloaded", "unavailable"])
def test_a_worker_that_cannot_take_a_call_rests_and_the_call_goes_elsewhere(reason: str) -> None:
    bench = CoreBench()
    bench.worker("w1")
    call = bench.call("moves")
    (dispatch,) = bench.take(Dispatch)
    bench.returned(dispatch, reason, retry_after_s=1.5)
    assert bench.state(call) is CallState.QUEUED
    assert bench.core.next_wake(bench.now) == bench.now + 1.5
    bench.worker("w2")
    assert [command.worker[1] for command in bench.take(Dispatch)] == ["w2"]
    bench.call("other")
    bench.pass_time(1.6, beating=("w1", "w2"))
    assert [command.worker[1] for command in bench.take(Dispatch)] == ["w1"]


def test_being_turned_away_never_uses_up_a_call() -> None:
    bench = CoreBench()
    bench.worker()
    call = bench.call("patient", deadline_s=600)
    for _ in range(5 * MAX_ATTEMPTS):
        (dispatch,) = bench.take(Dispatch)
        bench.returned(dispatch, "overloaded")
        bench.pass_time(0.6)
    assert bench.state(call) is CallState.RUNNING
    assert bench.refusals() == {}


def test_a_draining_worker_gets_nothing_back() -> None:
    bench = CoreBench()
    bench.worker()
    call = bench.call("returned")
    (dispatch,) = bench.take(Dispatch)
    bench.returned(dispatch, "draining")
    assert bench.state(call) is CallState.QUEUED


def test_a_call_whose_engine_fails_again_and_again_fails_with_the_engines_reason() -> None:
    bench = CoreBench()
    bench.worker()
    bench.call("poison")
    for _ in range(MAX_ATTEMPTS):
        (dispatch,) = bench.take(Dispatch)
        bench.returned(dispatch, "failed")
    assert bench.refusals() == {"poison": "engine.failed"}
    assert "told so" in str(bench.log[-1])


def test_a_call_that_kills_its_workers_fails_as_lost() -> None:
    bench = CoreBench()
    bench.call("killer", durable=False)
    for n in range(MAX_ATTEMPTS):
        bench.worker(incarnation=f"i{n}")
        bench.goodbye()
    assert bench.refusals() == {"killer": "engine.worker_lost"}


def test_a_late_return_of_an_earlier_run_does_not_touch_the_present_one() -> None:
    bench = CoreBench()
    bench.worker()
    call = bench.call("twice")
    (first,) = bench.take(Dispatch)
    bench.returned(first, "failed")
    (second,) = bench.take(Dispatch)
    assert second.attempt == 2
    bench.returned(first, "failed")
    assert bench.state(call) is CallState.RUNNING
    bench.call("next")
    assert bench.take(Dispatch) == []  # its slot is still taken
    bench.ended(call)
    assert bench.names(Forget) == ["twice"]


def test_a_return_without_a_dispatch_does_nothing() -> None:
    bench = CoreBench()
    worker = bench.worker()
    bench.feed(RunReturned("acme.agent.never", worker, 1, "failed"))
    bench.feed(RunReturned("acme.agent.never", ("default", "nobody"), 1, "overloaded"))
    bench.feed(RunEnded("acme.agent.never", worker))
    assert bench.log == []


def test_an_answer_that_comes_late_still_ends_the_call_once() -> None:
    bench = CoreBench()
    bench.worker("w1")
    call = bench.call("late", durable=False)
    bench.pass_time(WORKER_TIMEOUT_S, beating=())
    assert bench.state(call) is CallState.QUEUED
    bench.ended(call, "w1")
    bench.worker("w2")
    assert bench.names(Forget) == ["late"]
    assert bench.names(Dispatch) == ["late"]


def test_a_worker_that_was_only_out_of_sight_keeps_its_call() -> None:
    bench = CoreBench()
    bench.worker("w1")
    call = bench.call("long")
    bench.pass_time(WORKER_TIMEOUT_S, beating=())
    bench.feed(ResultChecked(call.key, ended=False))
    bench.worker("w1", running={call.key: 40})
    assert [command.call.id for command in bench.log if isinstance(command, Adopt)] == ["long"]
    assert bench.names(Dispatch) == ["long"]
    bench.ended(call)
    assert bench.names(Forget) == ["long"]


def test_the_end_reported_by_a_worker_that_lost_the_call_does_not_end_the_run_elsewhere() -> None:
    bench = CoreBench()
    bench.worker("w1")
    call = bench.call("moved", durable=False)
    bench.pass_time(WORKER_TIMEOUT_S, beating=())
    bench.worker("w2")
    bench.ended(call, "w1")
    assert bench.state(call) is CallState.RUNNING
    bench.ended(call, "w2")
    assert bench.names(Forget) == ["moved"]
