"""Every policy in worlds of every kind: each call ends once and in time, and memory and slots are never miscounted."""

import pytest
from support.pool_world import PoolWorld
from support.program_world import ProgramWorld
from support.scheduler_world import Faults

from aios_proto.messages.scheduler import PolicyName

WORLDS = {
    "kind": Faults(),
    "workers crash": Faults(crashes=6),
    "scheduler restarts": Faults(restarts=3),
    "everything at once": Faults(lost=0.05, doubled=0.05, late=0.05, crashes=4, restarts=2, outages=2),
}
POLICIES: tuple[PolicyName, ...] = ("aios", "las", "fair", "rr", "edf")
SEEDS = 8


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("faults", WORLDS.values(), ids=WORLDS.keys())
def test_every_call_of_a_program_ends_once_and_in_time(faults: Faults, policy: PolicyName) -> None:
    for seed in range(SEEDS):
        try:
            ProgramWorld(seed, faults, policy).run()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


@pytest.mark.parametrize("bounded_memory", [True, False], ids=["memory is bounded", "memory is not told"])
@pytest.mark.parametrize("faults", WORLDS.values(), ids=WORLDS.keys())
def test_pools_lose_no_call_and_leave_no_worker_idle(faults: Faults, bounded_memory: bool) -> None:
    for seed in range(3 * SEEDS):
        try:
            PoolWorld(seed, faults, bounded_memory=bounded_memory).run()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
