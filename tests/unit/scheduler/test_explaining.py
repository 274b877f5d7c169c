"""What somebody is told who asks why a call waits."""

from support.scheduler_core import CoreBench

from aios_scheduler.core.call import ModelCall
from aios_scheduler.core.events import Arrived, RunEnded, WorkerSeen


def why(bench: CoreBench, call: ModelCall) -> str:
    return bench.core.explaining.why(call, bench.now) or ""


def hello(bench: CoreBench, kv_tokens: int, running: tuple[str, ...] = ()) -> None:
    bench.feed(WorkerSeen(("default", "w1"), "1", "llama", 8, True, dict.fromkeys(running, 1), kv_tokens=kv_tokens))


def call_of(bench: CoreBench, number: int, *, tenant: str = "acme", max_tokens: int = 400) -> ModelCall:
    call = ModelCall(
        key=f"{tenant}.agent.c{number}",
        id=f"c{number}",
        tenant=tenant,
        agent="agent",
        program=f"run{number}",
        operation="chat",
        model=None,
        priority=5,
        deadline=bench.now + 600,
        arrived=bench.now,
        durable=True,
        size_bytes=400,
        max_tokens=max_tokens,
    )
    bench.feed(Arrived(call))
    return call


def test_that_no_worker_serves_its_model() -> None:
    bench = CoreBench()
    bench.worker(model="llama")
    bench.worker("w2", model="qwen", ready=False)
    assert why(bench, bench.call("a", model="qwen")) == "no worker that serves its model is ready"


def test_that_all_slots_are_in_use() -> None:
    bench = CoreBench()
    bench.worker(limit=1)
    first = bench.call("first")
    waits = bench.call("second")
    text = "worker w1, where its program's context is, has all its slots in use; 1 calls wait"
    assert why(bench, waits) == text
    bench.worker("w2", limit=1)
    assert (first.worker, waits.worker) == (("default", "w1"), ("default", "w2"))


def test_that_the_only_worker_was_overloaded() -> None:
    bench = CoreBench()
    bench.worker(limit=2)
    call = bench.call("first")
    bench.returned(bench.log[-1], retry_after_s=5.0)  # type: ignore[arg-type]
    assert why(bench, call) == "every worker was overloaded and is left alone for 5.0 s; 1 calls wait"


def test_how_much_memory_it_lacks() -> None:
    bench = CoreBench("aios")
    hello(bench, kv_tokens=1000)
    call_of(bench, 1)
    waits = call_of(bench, 2)
    assert why(bench, waits) == (
        "every worker lacks memory: 500 tokens are needed, 450 are free beside 1 programs; 1 calls wait"
    )
    assert bench.core.explaining.next_calls(5) == [waits]


def test_that_its_tenant_floods() -> None:
    bench = CoreBench("aios")
    bench.pool.assignment.isolation.share = 1.0
    hello(bench, kv_tokens=20_000)
    light = call_of(bench, 0, tenant="light")
    flood = [call_of(bench, number, tenant="flood") for number in range(1, 20)]
    assert light.worker is not None
    running = [call for call in flood if call.worker is not None]
    assert len(running) == 4, "what it asked for before it was seen to flood"
    assert why(bench, flood[-1]).startswith("tenant flood asks for far more than the others")
    for count in (3, 2, 1, 1, 1):
        bench.feed(RunEnded(running[0].key, ("default", "w1")))
        running = [call for call in flood if call.key in bench.core.calls and call.worker is not None]
        assert len(running) == count, "it may have as much running as the light tenant has"


def test_a_call_that_runs_waits_for_nothing() -> None:
    bench = CoreBench()
    bench.worker()
    assert bench.core.explaining.why(bench.call("a"), bench.now) is None
