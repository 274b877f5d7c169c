"""What an operator changes while calls wait and run."""

from support.scheduler_core import CoreBench

from aios_scheduler.core.call import ModelCall
from aios_scheduler.core.commands import Dispatch


def runs(call: ModelCall) -> bool:
    return call.worker is not None


def test_other_weights_change_who_comes_next_and_lose_no_call() -> None:
    bench = CoreBench("fair")
    bench.worker(limit=1)
    for number in range(6):
        bench.call(f"gold{number}", tenant="gold")
        bench.call(f"plain{number}", tenant="plain")
    bench.configure(weights={"gold": 1000.0})
    for _ in range(12):
        running = next(call for call in bench.core.calls.values() if call.worker is not None)
        bench.ended(running)
    names = bench.names(Dispatch)
    assert len(names) == 12
    assert sum(name.startswith("gold") for name in names[:7]) >= 5


def test_a_bound_set_while_calls_run_counts_what_runs_already() -> None:
    bench = CoreBench("aios")
    bench.worker(limit=20)
    light = bench.call("light", tenant="light")
    flood = [bench.call(f"flood{number}", tenant="flood") for number in range(12)]
    bench.configure(flood_share=1.0)
    late = bench.call("late", tenant="flood")
    assert not runs(late), "it has more running than the light tenant"
    for call in flood:
        bench.ended(call)
    assert runs(late)
    bench.ended(light)
    bench.configure(flood_share=None)
    assert runs(bench.call("free", tenant="flood"))
