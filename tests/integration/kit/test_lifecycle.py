"""What an operator sees when a service starts early, is asked to stop, or loses the bus."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import orjson
import pytest
from nats.aio.client import Client
from support.frame_inbox import KernelCaller
from support.nats_server import NatsServer, settle
from support.running_service import running_in_process, running_process
from support.slow_service import SlowService

from aios_kit.settings import ServiceSettings
from aios_proto import subjects

SLOW = "support.slow_service"


@pytest.fixture
async def own_caller(own_bus: NatsServer) -> AsyncIterator[KernelCaller]:
    async def quiet(_: Exception) -> None: ...

    kernel = KernelCaller(await own_bus.connect(error_cb=quiet, reconnect_time_wait=0.05))
    await kernel.inbox.open()
    yield kernel
    await kernel.nc.close()


async def forever(kernel: KernelCaller, timeout_s: float = 15) -> float:
    """Asks until it is answered; gives the seconds it took."""
    started = time.monotonic()
    async with asyncio.timeout(timeout_s):
        while True:
            reply = await kernel.send("memory", "pool.list")
            try:
                await kernel.inbox.next(reply, 0.25)
            except TimeoutError:
                continue
            return time.monotonic() - started


async def test_sigterm_loses_no_call_that_was_taken(shared_bus: NatsServer, caller: KernelCaller) -> None:
    async with running_process(SLOW, shared_bus, env={"SLOW_CONCURRENCY": "8"}) as service:
        replies = [await caller.send("memory", "add", {"content": "sleep 0.2"}) for _ in range(20)]
        await settle(caller.nc)
        service.signal(signal.SIGTERM)
        frames = await asyncio.gather(*(caller.inbox.until_end(reply) for reply in replies))
        assert [frame[-1]["type"] for frame in frames] == ["done"] * 20
        assert await service.wait() == 0
        assert "work was cut off at the end of the drain" not in service.events()
        late = await caller.send("memory", "add", {"content": "late"})
        await settle(caller.nc)
        assert caller.inbox.waiting(late) == 0


async def test_while_it_drains_it_is_not_ready_and_takes_nothing_new(
    shared_bus: NatsServer, settings_for: Callable[..., ServiceSettings], caller: KernelCaller
) -> None:
    slow = SlowService(settings_for(shared_bus))
    goodbye = await caller.nc.subscribe(subjects.presence("memory", "test-1"))
    async with running_in_process(slow.service) as running:
        accepted = await caller.send("memory", "add", {"content": "hold"})
        await caller.call("memory", "pool.list")
        slow.service.stop()
        while not orjson.loads((await goodbye.next_msg(timeout=10)).data)["leaving"]:
            pass
        assert await running.wait_readiness(503) == "draining"
        assert (await running.get("/healthz"))[0] == 200
        late = await caller.send("memory", "add", {"content": "late"})
        await settle(caller.nc)
        slow.go_on.set()
        assert (await caller.inbox.until_end(accepted))[-1]["type"] == "done"
        await running.stop()
        assert caller.inbox.waiting(late) == 0
        assert slow.begun == 1


async def test_work_that_does_not_end_is_cut_off_after_the_drain_time(
    shared_bus: NatsServer, caller: KernelCaller
) -> None:
    async with running_process(SLOW, shared_bus, env={"AIOS_DRAIN_TIMEOUT_S": "0.5"}) as service:
        await caller.send("memory", "add", {"content": "sleep 60"}, deadline_s=60)
        await caller.call("memory", "pool.list")
        started = time.monotonic()
        assert await service.stop() == 0
        assert time.monotonic() - started < 10
        assert (await service.logged("work was cut off at the end of the drain"))["tasks"] == 1


async def test_stopping_is_no_reason_to_warn(shared_bus: NatsServer, caller: KernelCaller) -> None:
    async with running_process(SLOW, shared_bus) as service:
        await caller.call("memory", "pool.list")
        assert await service.stop() == 0
        assert [line for line in service.log if line.get("level") not in ("info", "debug")] == []
        assert service.events() == ["starting", "ready", "stopped"]


async def test_sigint_stops_it_as_well(shared_bus: NatsServer) -> None:
    async with running_process(SLOW, shared_bus) as service:
        service.signal(signal.SIGINT)
        assert await service.wait() == 0


async def test_a_service_started_before_the_bus_waits_and_then_serves(
    own_bus: NatsServer, own_caller: KernelCaller
) -> None:
    own_bus.restart()  # from now on it comes back at the same place
    own_bus.stop()
    async with running_process(SLOW, own_bus, wait_ready=False) as service:
        await service.logged("bus error")
        assert await service.wait_readiness(503) == "waiting for the bus"
        assert (await service.get("/healthz"))[0] == 200
        own_bus.start()
        await service.wait_ready()
        await forever(own_caller)
        # Each attempt fails alike: one line, not ten a second.
        assert service.events().count("bus error") == 1


async def test_waiting_for_the_bus_costs_next_to_no_cpu(own_bus: NatsServer) -> None:
    own_bus.stop()
    async with running_process(SLOW, own_bus, wait_ready=False) as service:
        await service.logged("bus error")
        before, started = cpu_seconds(service.pid), time.monotonic()
        await asyncio.sleep(1)
        used = cpu_seconds(service.pid) - before
        assert used < 0.3 * (time.monotonic() - started)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def test_sigterm_while_it_waits_for_the_bus_ends_it_cleanly(own_bus: NatsServer) -> None:
    own_bus.stop()
    async with running_process(SLOW, own_bus, wait_ready=False) as service:
        await service.logged("bus error")
        assert await service.stop(10) == 0
        assert service.events()[-1] == "stopped"


async def test_after_a_crash_of_the_bus_it_serves_again_without_a_restart(
    own_bus: NatsServer, own_caller: KernelCaller
) -> None:
    async with running_process(SLOW, own_bus) as service:
        await own_caller.call("memory", "pool.list")
        own_bus.kill()
        assert await service.wait_readiness(503) == "the bus connection is lost"
        await service.logged("bus connection lost")
        own_bus.restart()
        assert await forever(own_caller) < 10
        await service.wait_ready()
        await service.logged("bus connection regained")
        assert await service.stop() == 0


@pytest.mark.slow
@pytest.mark.timeout(60)
async def test_a_frozen_bus_is_noticed_and_left_behind(own_bus: NatsServer, own_caller: KernelCaller) -> None:
    async with running_process(SLOW, own_bus) as service:
        own_bus.pause()
        assert await service.wait_readiness(503, 15) == "the bus connection is lost"
        own_bus.resume()
        assert await forever(own_caller) < 15
        await service.wait_ready()


async def test_work_in_flight_when_the_bus_restarts_is_answered_afterwards(
    own_bus: NatsServer, settings_for: Callable[..., ServiceSettings], own_caller: KernelCaller
) -> None:
    slow = SlowService(settings_for(own_bus))
    async with running_in_process(slow.service):
        reply = await own_caller.send("memory", "add", {"content": "hold"})
        async with asyncio.timeout(10):
            while not slow.begun:
                await asyncio.sleep(0.01)
        await asyncio.to_thread(own_bus.restart)
        await forever(own_caller)  # the caller hears again: before that, an answer would be lost
        slow.go_on.set()
        assert (await own_caller.inbox.until_end(reply))[-1]["type"] == "done"


async def test_sigterm_while_the_bus_is_away_ends_it_cleanly(own_bus: NatsServer) -> None:
    async with running_process(SLOW, own_bus, env={"AIOS_DRAIN_TIMEOUT_S": "1"}) as service:
        own_bus.kill()
        await service.wait_readiness(503)
        started = time.monotonic()
        assert await service.stop(15) == 0, service.text()
        assert time.monotonic() - started < 10
        assert "Traceback" not in service.text()


async def test_a_connection_the_bus_closes_for_good_ends_the_process_so_that_it_is_started_anew(
    shared_bus: NatsServer, settings_for: Callable[..., ServiceSettings]
) -> None:
    service = SlowService(settings_for(shared_bus)).service
    async with running_in_process(service) as running:
        # More than the bus carries, body and headers together: the server hangs up and the client does not come back.
        await service.nc.publish("too.much", b"", headers={"X": "y" * (5 << 20)})
        with pytest.raises(Exception, match="closed the connection for good"):
            await running.wait()


async def test_a_hook_after_the_reconnect_is_tried_until_it_succeeds_and_readiness_waits_for_it(
    own_bus: NatsServer, settings_for: Callable[..., ServiceSettings]
) -> None:
    service = SlowService(settings_for(own_bus)).service
    attempts = 0
    held = asyncio.Event()

    async def regain() -> None:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            await service.js.account_info()
            raise TimeoutError
        await held.wait()

    service.on_reconnect(regain)
    async with running_in_process(service) as running:
        own_bus.restart()
        async with asyncio.timeout(15):
            while (await running.readiness())[1] != "taking up the work again after the bus connection was lost":
                await asyncio.sleep(0.01)
            while attempts < 3:
                await asyncio.sleep(0.01)
        held.set()
        await running.wait_ready()
        assert attempts == 3


def test_the_client_type_is_the_one_the_bus_module_patches() -> None:
    """`_PatientBroker` overrides a private method of FastStream: it must still be there to override."""
    from faststream.nats import NatsBroker

    assert hasattr(NatsBroker, "_log_connection_broken")
    assert hasattr(Client, "is_closed")
