"""What a decision costs with 10 000 calls queued, in microseconds, and a queued call in bytes."""

import gc
import random
import statistics
import time
import tracemalloc

from aios_proto.messages.scheduler import PolicyName, QueueLimits
from aios_scheduler.core import SchedulerCore
from aios_scheduler.core.call import ModelCall
from aios_scheduler.core.commands import Command, Dispatch
from aios_scheduler.core.configuration import PoolConfiguration
from aios_scheduler.core.events import Arrived, Event, RunEnded, WorkerSeen

QUEUED = 10_000
BLOCKS = 200
BLOCK = 40
_START = 1_800_000_000.0


def _call(number: int, draw: random.Random, now: float) -> ModelCall:
    tenant, agent, call_id = f"tenant{number % 20}", f"agent{number % 50}", f"01J{number:023d}"
    return ModelCall(
        key=f"{tenant}.{agent}.{call_id}",
        id=call_id,
        tenant=tenant,
        agent=agent,
        program=f"run-{number % 3000}",
        operation="chat",
        model=None,
        priority=draw.choice((3, 5, 5, 5, 7)),
        deadline=now + 3600,
        arrived=now,
        durable=True,
        size_bytes=draw.randint(500, 20_000),
        max_tokens=512,
        has_deadline=draw.random() < 0.2,
    )


def measure_cost(policy: PolicyName) -> tuple[float, float, float]:
    """Median and 99th percentile of the microseconds of one decision, and bytes of a queued call.

    A decision is an arrival, or an end with what is dispatched then; they take turns. The time is CPU time of the
    thread, so that a busy machine counts less, taken over blocks because reading that clock costs more than deciding.
    The bytes are all that the core keeps for a call, without its body and headers.
    """
    draw = random.Random(7)
    core = SchedulerCore(PoolConfiguration(policy, QueueLimits(per_tenant=1_000_000, per_pool=1_000_000)))
    now = _START
    running: list[Dispatch] = []

    def hello() -> None:
        for number in range(8):
            mine = {command.call.key: 1 for command in running if command.worker == ("default", f"w{number}")}
            seen = WorkerSeen(("default", f"w{number}"), "1", "model", 64, ready=True, running=mine, kv_tokens=400_000)
            running.extend(command for command in core.on_event(seen, now) if isinstance(command, Dispatch))

    hello()
    for number in range(1000):  # fills the workers
        commands = core.on_event(Arrived(_call(number, draw, now)), now)
        running += [command for command in commands if isinstance(command, Dispatch)]
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    first = 1000
    held = core.pools.queued()
    for number in range(first, first + QUEUED - held):
        core.on_event(Arrived(_call(number, draw, now)), now)
    gc.collect()
    queued_bytes = (tracemalloc.get_traced_memory()[0] - before) / (QUEUED - held)
    tracemalloc.stop()
    took: list[float] = []
    number = first + QUEUED
    for turn in range(BLOCKS):
        now += 0.1
        if turn % 5 == 0:
            hello()
        events: list[Event] = []
        for _ in range(BLOCK // 2):
            done = running.pop(draw.randrange(len(running)))
            events.append(RunEnded(done.call.key, done.worker, prompt_tokens=1000, completion_tokens=100))
            events.append(Arrived(_call(number, draw, now)))
            number += 1
        decided: list[Command] = []
        begun = time.thread_time_ns()
        for event in events:
            decided += core.on_event(event, now)
        took.append((time.thread_time_ns() - begun) / 1000 / BLOCK)
        running += [command for command in decided if isinstance(command, Dispatch)]
    return statistics.median(took), sorted(took)[int(0.99 * len(took))], queued_bytes
