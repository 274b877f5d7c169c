"""In which order calls run, and on which worker."""

import pytest
from support.scheduler_core import CoreBench

from aios_proto.errors import InvalidRequest
from aios_scheduler.core.commands import Dispatch


def run_all(bench: CoreBench, count: int) -> list[str]:
    """Ends whatever runs on w1 until `count` calls have been given away; returns their names in that order."""
    for _ in range(count):
        running = [command for command in bench.log if isinstance(command, Dispatch)]
        if len(running) == count:
            break
        bench.ended(running[-1].call, running[-1].worker[1])
    return bench.names(Dispatch)


def test_the_more_urgent_call_runs_first_and_equals_run_in_turn() -> None:
    bench = CoreBench()
    bench.worker()
    for name, priority in (("running", 5), ("low", 1), ("a", 5), ("high", 9), ("b", 5)):
        bench.call(name, priority=priority)
    assert run_all(bench, 5) == ["running", "high", "a", "b", "low"]


def test_fifo_does_not_look_at_priority() -> None:
    bench = CoreBench("fifo")
    bench.worker()
    for name, priority in (("running", 5), ("low", 1), ("high", 9)):
        bench.call(name, priority=priority)
    assert run_all(bench, 3) == ["running", "low", "high"]


def test_changing_the_policy_reorders_what_waits_and_loses_nothing() -> None:
    bench = CoreBench("fifo")
    bench.worker()
    for name, priority in (("running", 5), ("low", 1), ("high", 9), ("middle", 5)):
        bench.call(name, priority=priority)
    bench.configure(policy="priority")
    assert run_all(bench, 4) == ["running", "high", "middle", "low"]


def test_a_policy_that_does_not_exist_is_refused_and_the_one_in_force_stays() -> None:
    bench = CoreBench()
    with pytest.raises(InvalidRequest, match="aios, edf, fair, fifo, las, priority, rr"):
        bench.configure(policy="lottery")
    assert bench.pool.queue.policy.name == "priority"


def test_calls_spread_over_the_workers_by_free_share() -> None:
    bench = CoreBench()
    bench.worker("small", limit=1)
    bench.worker("large", limit=3)
    for n in range(4):
        bench.call(f"c{n}")
    workers = [command.worker[1] for command in bench.take(Dispatch)]
    assert sorted(workers) == ["large", "large", "large", "small"]
    assert bench.pool.queue.by_tenant == {}


def test_a_worker_is_never_given_more_than_it_asked_for() -> None:
    bench = CoreBench()
    bench.worker(limit=3)
    for n in range(10):
        bench.call(f"c{n}")
    assert len(bench.names(Dispatch)) == 3


def test_slots_taken_by_calls_of_an_earlier_scheduler_are_not_given_away_again() -> None:
    bench = CoreBench()
    bench.worker(limit=2, running={"acme.agent.stranger": 5})
    for n in range(3):
        bench.call(f"c{n}")
    assert bench.names(Dispatch) == ["c0"]
    bench.hello(running={"acme.agent.c0": 1})
    assert bench.names(Dispatch) == ["c0", "c1"]


def test_a_draining_worker_gets_nothing_new_until_it_may_again() -> None:
    bench = CoreBench()
    worker = bench.worker(limit=5)
    first = bench.call("first")
    assert bench.core.drain(worker, drain=True) is not None
    bench.call("second")
    bench.pass_time(2)
    assert bench.names(Dispatch) == ["first"]
    bench.ended(first)
    bench.core.drain(worker, drain=False)
    bench.hello()
    assert bench.names(Dispatch) == ["first", "second"]


def test_draining_a_worker_nobody_knows_says_so() -> None:
    assert CoreBench().core.drain(("default", "nobody"), drain=True) is None


def test_a_worker_whose_engine_is_down_gets_nothing() -> None:
    bench = CoreBench()
    bench.worker(ready=False)
    bench.call("waits")
    assert bench.names(Dispatch) == []
    bench.hello(ready=True)
    assert bench.names(Dispatch) == ["waits"]


def test_an_agent_sees_its_own_calls_the_oldest_first() -> None:
    bench = CoreBench()
    bench.call("a", priority=1)
    bench.call("foreign", tenant="other")
    bench.call("b", priority=9)
    assert [call.id for call in bench.core.calls_of("acme", "agent")] == ["a", "b"]


def test_many_cancelled_calls_do_not_pile_up_behind_a_waiting_one() -> None:
    bench = CoreBench()
    bench.call("first")
    for n in range(5000):
        bench.cancel(bench.call(f"c{n}", priority=1))
    lanes = bench.pool.queue._lanes.values()
    assert sum(len(flow) for lane in lanes for flow in lane.flows.values()) < 1100
    assert len(bench.core.endings._watched) < 1100
    bench.worker()
    assert bench.names(Dispatch) == ["first"]
