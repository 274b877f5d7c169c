"""Random workloads on emulated engines under the scheduler's core: nothing is lost, run twice, or stuck."""

import random
from functools import partial
from typing import get_args

import pytest
from simulation.aios_core import AiosCore
from simulation.model import ProgramSpec
from simulation.run import Simulation
from simulation.workloads import WORKLOADS

from aios_proto.messages.scheduler import PolicyName
from aios_scheduler.core.call import CACHED_WEIGHT, OUTPUT_WEIGHT

SEEDS = 12
POLICIES: tuple[PolicyName, ...] = get_args(PolicyName)


def world(seed: int, policy: PolicyName) -> tuple[Simulation, list[ProgramSpec], str]:
    """A workload and engines of random size, often far too small for it."""
    draw = random.Random(f"{policy}/{seed}")
    name = draw.choice(sorted(WORKLOADS))
    load, kv_tokens, workers = draw.choice((0.5, 1.2, 6.0)), draw.randint(90_000, 200_000), draw.randint(1, 3)
    strategy = partial(
        AiosCore,
        policy=policy,
        can_preempt=draw.random() < 0.5,
        flood_share=draw.choice((None, 0.5, 1.0)),
    )
    programs = WORKLOADS[name].generate(load, seed)[: draw.randint(5, 40)]
    simulation = Simulation(programs, strategy, workers=workers, kv_tokens=kv_tokens, seed=seed)
    return simulation, programs, f"{policy} seed {seed}: {name} at {load}, {workers} of {kv_tokens} tokens"


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("policy", POLICIES)
def test_every_program_ends_and_nothing_is_left_behind(policy: PolicyName) -> None:
    for seed in range(SEEDS):
        simulation, programs, what = world(seed, policy)
        outcome = simulation.run()
        strategy = simulation.strategy
        assert isinstance(strategy, AiosCore)
        core = strategy.core
        pool = core.pools.get("default")
        refused = {call.program.name for call in outcome.calls if call.refused}
        assert outcome.completion_s.keys() | refused == {program.name for program in programs}, what
        ended = [call.key for call in outcome.calls if call.ended_at is not None]
        assert len(ended) == len(set(ended)), f"{what}: a call ended twice"
        for call in outcome.calls:
            assert call.refused or call.ended_at is not None, f"{what}: {call.key} is stuck"
            assert not (call.refused and call.ended_at is not None), f"{what}: {call.key} ended and was refused"
        assert not core.calls, what
        assert not core.pools.queued(), what
        for engine in simulation.fleet.engines:
            assert not engine.jobs, what
            assert engine.reserved_tokens == 0, what
        for house in pool.assignment.residency.houses.values():
            assert house.reserved == 0, what
            assert house.used == house.idle_tokens == sum(each.tokens for each in house.residents.values()), what
        for tenant in {program.tenant for program in programs} if policy != "rr" and not refused else ():
            served = sum(
                call.spec.prompt_tokens
                - call.cached_tokens
                + CACHED_WEIGHT * call.cached_tokens
                + OUTPUT_WEIGHT * call.spec.output_tokens
                for call in outcome.calls
                if call.program.tenant == tenant
            )
            # A tenant that comes back is lifted, never lowered.
            assert pool.accounts.tenant(tenant).counter >= 0.999 * served, f"{what}: {tenant} was not charged"


def test_time_that_stands_still_is_noticed() -> None:
    class Busy(AiosCore):
        def next_wake(self, now: float) -> float | None:
            return now

    simulation = Simulation(WORKLOADS["W1"].generate(0.5, 1)[:2], Busy)
    with pytest.raises(RuntimeError, match="time stands still"):
        simulation.run()
