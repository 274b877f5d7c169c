"""A call that is given up while it waits for its quota takes nothing, and nothing is lost by it."""

import asyncio
import io
from collections.abc import Callable

import pytest

from aios_access.adapters.kv_allowances import KvAllowances
from aios_access.charges import Charge
from aios_access.directory import Identity
from aios_access.quota_guard import QuotaGuard
from aios_access.quota_meter import NeedsLease, SlotMeter, WindowMeter
from aios_access.quotas import Quotas
from aios_kit.logs import setup_logging
from aios_kit.settings import ServiceSettings
from aios_proto.frames import Usage
from aios_proto.headers import CallHeaders
from aios_proto.messages.access import QuotaLimits
from aios_proto.operations import OPERATIONS

ALICE = Identity("acme", "alice", "agent", "0" * 64, 0)
NOW_S = 1000.0


class SlowAllowances(KvAllowances):
    """Pools that grant what they have, once `granting` is set."""

    def __init__(self) -> None:
        self.granting = asyncio.Event()
        self.asked = asyncio.Event()
        self.held: list[int] = []

    async def lease(self, key: str, meter: WindowMeter, needed: NeedsLease, now: float) -> None:
        self.asked.set()
        await self.granting.wait()
        meter.leased(needed.window, needed.want, meter.pool - needed.want, now)

    async def hold_slots(self, key: str, meter: SlotMeter, wanted: int) -> bool:
        self.asked.set()
        await self.granting.wait()
        if wanted > meter.pool:
            return False
        meter.leased = wanted
        self.held.append(wanted)
        return True

    async def return_unused(self, key: str, meter: WindowMeter) -> None: ...


class Waiter:
    """A guard with one quota, and a model call that has to wait for it."""

    def __init__(self, replicas: int = 4, **limits: float) -> None:
        self.quotas = Quotas(replicas)
        self.quotas.put(("acme", "agent", "alice"), QuotaLimits.model_validate({"wait_s": 60, **limits}))
        log = setup_logging("access", ServiceSettings(), io.StringIO())
        self.guard = QuotaGuard(self.quotas, {}, 512, log)
        self.allowances = SlowAllowances()
        self.guard.open(self.allowances)
        self.pauses = 0

    def charge(self, call_id: str = "c1", operation: tuple[str, str] = ("llm", "chat")) -> Charge | None:
        headers = CallHeaders(call_id, tenant="acme", agent="alice", group="agent", reply="_INBOX.acme.alice.0")
        return self.guard.charge(ALICE, OPERATIONS[operation], headers, b'{"max_tokens": 10}', NOW_S)

    async def _paused(self) -> None:
        self.pauses += 1

    def waits(self, charge: Charge | None) -> asyncio.Task[None]:
        assert charge is not None
        assert not charge.complete
        return asyncio.create_task(self.guard.wait(charge, self._paused))


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.001)


async def given_up(task: asyncio.Task[None]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_a_pool_grants_to_a_call_that_was_given_up_is_known_and_there_for_the_next() -> None:
    waiter = Waiter(tokens=1000)
    task = waiter.waits(waiter.charge())
    await waiter.allowances.asked.wait()
    await given_up(task)
    meters = waiter.quotas.named(("acme", "agent", "alice"))
    assert meters is not None
    tokens = meters.tokens
    assert tokens is not None
    waiter.allowances.granting.set()
    await until(lambda: tokens.held > 0)
    assert tokens.spent == 0
    await waiter.guard.close(1)


async def test_a_place_that_was_leased_for_a_call_that_was_given_up_is_returned() -> None:
    waiter = Waiter(concurrent_calls=1)
    task = waiter.waits(waiter.charge())
    await waiter.allowances.asked.wait()
    await given_up(task)
    waiter.allowances.granting.set()
    await until(lambda: waiter.allowances.held == [1, 0])
    await waiter.guard.close(1)


@pytest.mark.parametrize("limits", [{"concurrent_calls": 1}, {"tokens": 5, "tokens_window_s": 50}])
async def test_a_call_given_up_in_its_pause_has_taken_nothing(limits: dict[str, float]) -> None:
    waiter = Waiter(replicas=1, **limits)
    waiter.allowances.granting.set()
    if "concurrent_calls" in limits:
        first = waiter.charge("c0")
        assert first is not None
        assert first.complete
    task = waiter.waits(charge := waiter.charge())
    await until(lambda: waiter.pauses == 1)
    assert charge is not None
    assert charge.pause is not None
    await given_up(task)
    assert not waiter.guard.is_open("acme.alice.c1")
    meters = waiter.quotas.named(("acme", "agent", "alice"))
    assert meters is not None
    assert (meters.tokens.spent if meters.tokens else 0) == 0
    if meters.slots:
        waiter.guard.ended("acme.alice.c0", None)
        assert meters.slots.used == 0
    await waiter.guard.close(1)


async def test_a_call_given_up_in_the_moment_its_place_becomes_free_leaves_it_free() -> None:
    waiter = Waiter(replicas=1, concurrent_calls=1)
    waiter.allowances.granting.set()
    assert waiter.charge("c0")
    task = waiter.waits(waiter.charge())
    await until(lambda: waiter.pauses == 1)
    for _ in range(3):
        await asyncio.sleep(0)  # it waits for the place itself now
    waiter.guard.ended("acme.alice.c0", None)
    await given_up(task)
    meters = waiter.quotas.named(("acme", "agent", "alice"))
    assert meters is not None
    assert meters.slots is not None
    assert meters.slots.used == 0
    assert not waiter.guard.is_open("acme.alice.c1")
    await waiter.guard.close(1)


def calls_spent(waiter: Waiter) -> int:
    meters = waiter.quotas.named(("acme", "agent", "alice"))
    assert meters is not None
    assert meters.calls is not None
    return meters.calls.spent


async def test_the_tokens_of_a_call_are_not_taken_from_the_calls_a_second() -> None:
    waiter = Waiter(replicas=1, calls_per_s=10, tokens=100_000, tokens_window_s=3600)
    waiter.allowances.granting.set()
    charge = waiter.charge()
    if charge is not None and not charge.complete:
        await waiter.waits(charge)
    before = calls_spent(waiter)
    waiter.guard.ended("acme.alice.c1", Usage(prompt_tokens=100, completion_tokens=400, total_tokens=500))
    assert calls_spent(waiter) == before == 1
    meters = waiter.quotas.named(("acme", "agent", "alice"))
    assert meters is not None
    assert meters.tokens is not None
    assert meters.tokens.spent == 500
    await waiter.guard.close(1)


async def test_a_call_that_did_not_pass_is_not_counted_among_the_calls_a_second() -> None:
    waiter = Waiter(replicas=1, calls_per_s=10)
    assert waiter.charge()
    assert calls_spent(waiter) == 1
    waiter.guard.ended("acme.alice.c1", None)
    assert calls_spent(waiter) == 0
    await waiter.guard.close(1)


async def test_a_cancel_passes_where_other_calls_have_to_wait() -> None:
    waiter = Waiter(replicas=1, calls_per_s=1)
    assert waiter.charge("c0", ("memory", "add")) is None
    waits = waiter.charge("c1", ("memory", "add"))
    assert waits is not None
    assert not waits.complete
    assert waiter.charge("c2", ("syscall", "cancel")) is None
    later = waiter.charge("c3", ("syscall", "cancel"))
    assert later is not None
    assert not later.complete
    await waiter.guard.close(1)
