"""A result that its caller has and the store has not yet: the calls that need it begin, and nothing is done twice."""

from support.scheduler_core import CoreBench

from aios_proto.kernel import WORKER_TIMEOUT_S
from aios_scheduler.core.call import CallState
from aios_scheduler.core.commands import CheckResult, Dispatch, Forget
from aios_scheduler.core.events import ResultChecked, ResultMade, RunEnded, RunReturned


def test_the_next_call_of_a_chain_begins_before_the_first_has_ended() -> None:
    bench = CoreBench()
    worker = bench.worker(limit=2)
    first = bench.call("first")
    second = bench.call("second", after=("first",))
    assert bench.state(second) is CallState.HELD
    bench.feed(ResultMade(first.key, worker))
    assert (bench.state(first), bench.state(second)) == (CallState.RUNNING, CallState.RUNNING)
    bench.ended(first)
    bench.ended(second)
    assert bench.names(Dispatch) == ["first", "second"]
    assert bench.names(Forget) == ["first", "second"]


def test_it_waits_for_the_slot_if_there_is_no_other() -> None:
    bench = CoreBench()
    worker = bench.worker(limit=1)
    first = bench.call("first")
    second = bench.call("second", after=("first",))
    bench.feed(ResultMade(first.key, worker))
    assert bench.state(second) is CallState.QUEUED
    bench.ended(first)
    assert bench.state(second) is CallState.RUNNING


def test_a_call_that_comes_between_result_and_end_waits_for_the_end() -> None:
    bench = CoreBench()
    worker = bench.worker(limit=2)
    first = bench.call("first")
    bench.feed(ResultMade(first.key, worker))
    late = bench.call("late", after=("first",))
    assert bench.state(late) is CallState.HELD
    bench.ended(first)
    assert bench.state(late) is CallState.RUNNING


def test_a_worker_that_dies_before_it_stored_the_result_has_the_call_run_again_alone() -> None:
    bench = CoreBench()
    worker = bench.worker("w1", limit=2)
    first = bench.call("first")
    bench.call("second", after=("first",))
    bench.feed(ResultMade(first.key, worker))
    bench.feed(RunEnded(f"{first.tenant}.agent.second", worker))
    bench.pass_time(WORKER_TIMEOUT_S, beating=())
    assert [command.call.id for command in bench.take(CheckResult)] == ["first"]
    bench.feed(ResultChecked(first.key, ended=False))
    bench.worker("w2", limit=2)
    assert bench.names(Dispatch) == ["first", "second", "first"]
    bench.ended(first, "w2")
    assert not bench.core.calls


def test_what_a_worker_says_of_a_call_it_does_not_run_is_ignored() -> None:
    bench = CoreBench()
    bench.worker("w1")
    first = bench.call("first")
    second = bench.call("second", after=("first",))
    bench.feed(ResultMade(first.key, ("default", "other")))
    bench.feed(ResultMade("acme.agent.unknown", ("default", "w1")))
    assert bench.state(second) is CallState.HELD


def test_a_call_that_was_given_back_meanwhile_still_holds_its_followers() -> None:
    bench = CoreBench()
    worker = bench.worker("w1")
    first = bench.call("first")
    second = bench.call("second", after=("first",))
    bench.feed(RunReturned(first.key, worker, 1, "overloaded", "told so", 5))
    bench.feed(ResultMade(first.key, worker))
    assert bench.state(second) is CallState.HELD


def test_a_program_keeps_its_place_between_the_calls_of_its_chain() -> None:
    bench = CoreBench(policy="aios")
    worker = bench.worker(limit=1, kv_tokens=1000)
    first = bench.call("first", program="chain")
    second = bench.call("second", program="chain", after=("first",))
    bench.feed(ResultMade(first.key, worker))
    bench.feed(RunEnded(first.key, worker, prompt_tokens=50, completion_tokens=20))
    assert bench.state(second) is CallState.RUNNING
    (resident,) = bench.pool.assignment.residency.houses[worker].residents.values()
    assert resident.context_tokens == 70
