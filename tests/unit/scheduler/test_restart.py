"""A scheduler that starts over: what waits is there again, what runs goes on."""

from support.scheduler_core import CoreBench

from aios_scheduler.core.call import CallState
from aios_scheduler.core.commands import Adopt, Dispatch, Forget, Refuse
from aios_scheduler.core.events import RunReturned
from aios_scheduler.core.runs import MAX_ATTEMPTS


def starting() -> CoreBench:
    bench = CoreBench()
    bench.core.hold_until(bench.now + 1.2)
    return bench


def test_a_call_that_a_worker_runs_already_is_taken_over_and_not_run_again() -> None:
    bench = starting()
    call = bench.call("runs", recovered=True)
    bench.worker(limit=4, running={call.key: 17})
    bench.pass_time(5)
    assert bench.names(Dispatch) == []
    assert [command.worker[1] for command in bench.take(Adopt)] == ["w1"]
    bench.ended(call)
    assert bench.names(Forget) == ["runs"]


def test_the_same_when_the_worker_is_heard_before_the_queue_is_read() -> None:
    bench = starting()
    bench.worker(limit=4, running={"acme.agent.runs": 17})
    bench.call("runs", recovered=True)
    bench.pass_time(5)
    assert bench.names(Dispatch) == []
    assert len(bench.take(Adopt)) == 1


def test_nothing_is_given_away_before_the_workers_were_heard() -> None:
    bench = starting()
    bench.call("waits", recovered=True)
    bench.worker()
    assert bench.names(Dispatch) == []
    assert bench.core.next_wake(bench.now) is not None
    bench.pass_time(1.2)
    assert bench.names(Dispatch) == ["waits"]


def test_recovered_calls_keep_their_order() -> None:
    bench = starting()
    for name in ("a", "b", "c"):
        bench.call(name, recovered=True)
    bench.worker(limit=3)
    bench.pass_time(2)
    assert bench.names(Dispatch) == ["a", "b", "c"]


def test_a_call_taken_over_may_be_returned_whatever_its_attempt_was() -> None:
    bench = starting()
    call = bench.call("third try", recovered=True)
    worker = bench.worker(running={call.key: 1})
    bench.pass_time(2)
    bench.feed(RunReturned(call.key, worker, 3, "failed", "broke"))
    assert [command.attempt for command in bench.take(Dispatch)] == [4]
    assert bench.state(call) is CallState.RUNNING


def test_failures_before_the_restart_do_not_count_but_those_after_do() -> None:
    bench = starting()
    call = bench.call("poison", recovered=True)
    worker = bench.worker(running={call.key: 1})
    bench.pass_time(2)
    bench.feed(RunReturned(call.key, worker, 9, "failed", "broke"))
    for _ in range(MAX_ATTEMPTS - 1):
        (dispatch,) = bench.take(Dispatch)
        bench.returned(dispatch, "failed")
    assert len(bench.take(Refuse)) == 1


def test_a_recovered_call_whose_deadline_has_passed_is_answered_at_once() -> None:
    bench = starting()
    bench.call("old", recovered=True, deadline_s=-30)
    assert bench.refusals() == {"old": "deadline.exceeded"}
