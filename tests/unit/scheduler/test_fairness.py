"""What tenants get: counters that charge what was really served, and a bound on how far they can drift apart."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from support.scheduler_core import START

from aios_proto.messages.scheduler import PolicyName, QueueLimits
from aios_scheduler.core import SchedulerCore
from aios_scheduler.core.call import ModelCall
from aios_scheduler.core.commands import Command, Dispatch
from aios_scheduler.core.configuration import PoolConfiguration
from aios_scheduler.core.events import Arrived, RunEnded, WorkerSeen

WORKER = ("default", "w1")


class Served:
    """A core with one worker; calls take as many tokens as the test says."""

    def __init__(self, policy: PolicyName = "fair", *, slots: int = 2, weights: dict[str, float] | None = None) -> None:
        limits = QueueLimits(per_tenant=10_000, per_pool=100_000)
        self.core = SchedulerCore(PoolConfiguration(policy, limits, weights or {}))
        self.now = START
        self.sizes: dict[str, tuple[int, int]] = {}
        self.running: list[str] = []
        self.service: dict[str, float] = {}
        self._take(self.core.on_event(WorkerSeen(WORKER, "1", "m", slots, True, {}), self.now))

    def arrive(self, tenant: str, number: int, prompt: int, output: int) -> None:
        key = f"{tenant}.agent.{number}"
        self.sizes[key] = (prompt, output)
        call = ModelCall(
            key=key,
            id=str(number),
            tenant=tenant,
            agent="agent",
            program=f"{tenant}-{number}",
            operation="chat",
            model=None,
            priority=5,
            deadline=self.now + 1e6,
            arrived=self.now,
            durable=True,
            size_bytes=4 * prompt,
            max_tokens=output,
        )
        self._take(self.core.on_event(Arrived(call), self.now))

    def end_one(self, place: int = 0) -> None:
        key = self.running.pop(place % len(self.running))
        prompt, output = self.sizes[key]
        self.now += 0.001
        self.service[key.split(".")[0]] = self.service.get(key.split(".")[0], 0) + prompt + 2 * output
        event = RunEnded(key, WORKER, prompt_tokens=prompt, completion_tokens=output)
        self._take(self.core.on_event(event, self.now))

    def _take(self, commands: list[Command]) -> None:
        self.running += [command.call.key for command in commands if isinstance(command, Dispatch)]


def test_a_flooding_tenant_does_not_push_the_other_aside() -> None:
    served = Served()
    for number in range(50):
        served.arrive("flood", number, 100, 50)
    for number in range(10):
        served.arrive("light", 100 + number, 100, 50)
    for _ in range(22):
        served.end_one()
    assert served.service["light"] == 10 * 200


def test_a_tenant_with_twice_the_weight_gets_twice_as_much() -> None:
    served = Served(weights={"gold": 2.0})
    for number in range(200):
        served.arrive("gold" if number % 2 else "plain", number, 100, 50)
    for _ in range(90):
        served.end_one()
    assert 1.9 < served.service["gold"] / served.service["plain"] < 2.1


def test_idleness_is_not_saved_up() -> None:
    served = Served()
    for number in range(40):
        served.arrive("busy", number, 100, 50)
    for _ in range(20):
        served.end_one()
    before = served.service["busy"]
    for number in range(40):
        served.arrive("late", 100 + number, 100, 50)
    for _ in range(18):
        served.end_one()
    assert served.service["busy"] - before >= 8 * 200, "the late tenant was paid back for its idleness"


@given(
    seed=st.integers(0, 10_000),
    slots=st.integers(1, 8),
    tenants=st.integers(2, 5),
    policy=st.sampled_from(["fair", "aios"]),
)
@settings(max_examples=40, deadline=None)
def test_backlogged_tenants_stay_within_the_bound_of_the_virtual_token_counter(
    seed: int, slots: int, tenants: int, policy: PolicyName
) -> None:
    """Sheng et al., theorem 4.4: always backlogged tenants differ by at most twice the larger of call and batch."""
    draw = random.Random(seed)
    served = Served(policy, slots=slots)
    names = [f"t{number}" for number in range(tenants)]
    largest = 0
    for number in range(60 * tenants):
        prompt, output = draw.randint(1, 400), draw.randint(1, 200)
        largest = max(largest, prompt + 2 * output)
        served.arrive(names[number % tenants], number, prompt, output)
    bound = 2 * largest * (slots + 1)
    for _ in range(30 * tenants):
        if any(served.core.pools.get("default").queue.waits_of(name) == 0 for name in names):
            break
        served.end_one(draw.randrange(slots))
        got = [served.service.get(name, 0.0) for name in names]
        assert max(got) - min(got) <= bound


def test_the_counter_ends_at_what_was_really_served() -> None:
    served = Served()
    served.arrive("acme", 1, 1000, 70)
    served.end_one()
    assert served.core.pools.get("default").accounts.tenant("acme").counter == 1000 + 2 * 70
