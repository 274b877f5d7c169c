"""The scheduler's core in worlds of every kind: each call ends once, in time, in order, and no slot is given twice."""

import pytest
from support.scheduler_world import Faults, World

WORLDS = {
    "kind": Faults(),
    "workers crash": Faults(crashes=6),
    "scheduler restarts": Faults(restarts=3),
    "messages are lost": Faults(lost=0.1),
    "messages are doubled and overtaken": Faults(doubled=0.15, late=0.15),
    "the bus goes away": Faults(outages=3),
    "everything at once": Faults(lost=0.05, doubled=0.05, late=0.05, crashes=4, restarts=2, outages=2),
}
SEEDS = 45


@pytest.mark.parametrize("faults", WORLDS.values(), ids=WORLDS.keys())
def test_every_call_ends_once_in_time_and_in_order(faults: Faults) -> None:
    for seed in range(SEEDS):
        try:
            World(seed, faults, policy="fifo" if seed % 5 == 0 else "priority").run()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
