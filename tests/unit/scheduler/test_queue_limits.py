"""When the queue is full, who is told so, and for how long."""

from support.scheduler_core import CoreBench

from aios_proto.errors import QueueFull
from aios_scheduler.core import pools
from aios_scheduler.core.commands import Dispatch, Refuse


def refused(bench: CoreBench) -> QueueFull:
    (command,) = bench.take(Refuse)
    assert isinstance(command.error, QueueFull)
    return command.error


def test_a_tenant_with_too_many_waiting_calls_is_told_when_to_come_back_and_others_are_not_touched() -> None:
    bench = CoreBench(per_tenant=2)
    for name in ("a", "b", "too many"):
        bench.call(name)
    error = refused(bench)
    assert error.retryable
    assert error.retry_after_s is not None
    assert 0.5 <= error.retry_after_s <= 30
    bench.call("another", tenant="other")
    assert bench.take(Refuse) == []


def test_the_queue_as_a_whole_is_bounded() -> None:
    bench = CoreBench(per_pool=3)
    for n in range(4):
        bench.call("x", tenant=f"t{n}")
    assert "3 calls wait" in str(refused(bench))


def test_bodies_waiting_in_memory_are_bounded() -> None:
    bench = CoreBench()
    bench.call("huge", size_bytes=pools.MAX_QUEUED_BYTES - 10)
    bench.call("one too many", size_bytes=11)
    refused(bench)
    bench.call("fits", size_bytes=10)
    assert bench.take(Refuse) == []


def test_room_comes_back_when_a_call_is_given_away_or_cancelled() -> None:
    bench = CoreBench(per_tenant=1)
    first = bench.call("first")
    bench.cancel(first)
    bench.call("second")
    bench.worker()
    bench.call("third")
    assert bench.refusals() == {"first": "syscall.cancelled"}
    assert bench.names(Dispatch) == ["second"]


def test_a_slower_kernel_asks_for_longer_patience() -> None:
    bench = CoreBench(per_tenant=20)
    bench.worker()
    calls = [bench.call(f"c{n}") for n in range(21)]
    for call in calls[:10]:
        bench.pass_time(3)
        bench.ended(call)
    for n in range(11):
        bench.call(f"more{n}")
    bench.take(Refuse)
    bench.call("too many")
    slow = refused(bench)
    assert slow.retry_after_s is not None
    assert slow.retry_after_s > 5


def test_a_call_that_was_accepted_before_a_restart_is_never_refused_for_want_of_room() -> None:
    bench = CoreBench(per_tenant=1)
    for n in range(5):
        bench.call(f"c{n}", recovered=True)
    assert bench.refusals() == {}


def test_a_call_that_comes_back_from_a_lost_worker_keeps_its_place_in_a_full_queue() -> None:
    bench = CoreBench(per_tenant=1)
    bench.worker()
    bench.call("runs", durable=False)
    bench.call("waits")
    bench.goodbye()
    assert bench.refusals() == {}
    bench.worker(incarnation="second")
    assert bench.names(Dispatch) == ["runs", "runs"]


def test_the_same_call_twice_counts_once() -> None:
    bench = CoreBench()
    bench.call("same")
    bench.call("same")
    assert len(bench.pool.queue) == 1
    assert bench.refusals() == {}
