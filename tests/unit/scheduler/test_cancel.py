"""Cancelling a call, wherever it is."""

import pytest
from support.scheduler_core import CoreBench

from aios_scheduler.core.commands import CancelRun, Dispatch, Forget
from aios_scheduler.core.events import CancelAsked, ResultChecked


def test_a_waiting_call_is_answered_by_the_scheduler() -> None:
    bench = CoreBench()
    bench.cancel(bench.call("waits"))
    assert bench.refusals() == {"waits": "syscall.cancelled"}
    bench.worker()
    assert bench.names(Dispatch) == []


def test_a_running_call_is_ended_by_its_worker() -> None:
    bench = CoreBench()
    bench.worker()
    call = bench.call("runs")
    bench.cancel(call)
    assert [command.reason for command in bench.take(CancelRun)] == ["cancelled"]
    assert bench.refusals() == {}
    bench.ended(call)
    assert bench.names(Forget) == ["runs"]


def test_a_cancel_that_got_lost_on_its_way_is_sent_again() -> None:
    bench = CoreBench()
    bench.worker()
    call = bench.call("runs")
    bench.cancel(call)
    bench.take(CancelRun)
    bench.hello(running={call.key: 4})
    assert [command.reason for command in bench.take(CancelRun)] == ["cancelled"]


def test_a_cancelled_call_is_not_run_again_when_its_worker_is_lost() -> None:
    bench = CoreBench()
    bench.worker()
    call = bench.call("runs")
    bench.cancel(call)
    bench.goodbye()
    bench.feed(ResultChecked(call.key, ended=False))
    assert bench.refusals() == {"runs": "syscall.cancelled"}
    bench.worker(incarnation="second")
    assert bench.names(Dispatch) == ["runs"]


def test_a_call_cancelled_while_its_end_is_looked_up_is_answered_once() -> None:
    bench = CoreBench()
    bench.worker()
    call = bench.call("runs")
    bench.goodbye()
    bench.cancel(call)
    bench.feed(ResultChecked(call.key, ended=True))
    assert bench.names(Forget) == ["runs"]
    assert bench.refusals() == {}


def test_a_cancelled_call_that_a_worker_gives_back_is_answered_by_the_scheduler() -> None:
    bench = CoreBench()
    bench.worker()
    call = bench.call("runs")
    (dispatch,) = bench.take(Dispatch)
    bench.cancel(call)
    bench.returned(dispatch, "overloaded")
    assert bench.refusals() == {"runs": "syscall.cancelled"}


@pytest.mark.parametrize(("keep", "reason"), [(True, "paused"), (False, "cancelled")])
def test_the_worker_is_told_whether_what_was_made_is_kept_and_told_again_if_it_did_not_hear(
    keep: bool, reason: str
) -> None:
    bench = CoreBench()
    bench.worker()
    call = bench.call("runs")
    bench.cancel(call, keep=keep)
    assert [command.reason for command in bench.take(CancelRun)] == [reason]
    bench.hello(running={call.key: 3})
    assert [command.reason for command in bench.take(CancelRun)] == [reason]


def test_cancelling_what_nobody_knows_or_what_has_ended_does_nothing() -> None:
    bench = CoreBench()
    bench.worker()
    call = bench.call("done")
    bench.ended(call)
    before = len(bench.log)
    bench.cancel(call)
    bench.feed(CancelAsked("acme.agent.never"))
    assert len(bench.log) == before
