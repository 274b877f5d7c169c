"""What an orchestrator learns from the probes."""

from collections.abc import AsyncIterator

import pytest
from support.running_service import Probe

from aios_kit.health import HealthServer
from aios_kit.metrics import Metrics


class Condition:
    """Why it is not ready; None when it is."""

    reason: str | None = "starting"

    def __call__(self) -> str | None:
        return self.reason


@pytest.fixture
def condition() -> Condition:
    return Condition()


@pytest.fixture
async def probe(condition: Condition) -> AsyncIterator[Probe]:
    metrics = Metrics()
    metrics.calls.labels("memory.add", "ok").inc()
    server = HealthServer(metrics, condition)
    probe = Probe()
    probe.http_port = await server.start("127.0.0.1", 0)
    yield probe
    await server.stop()


async def test_a_process_that_starts_lives_but_is_not_ready_and_says_why(probe: Probe) -> None:
    assert (await probe.get("/healthz"))[0] == 200
    assert await probe.readiness() == (503, "starting")


async def test_readiness_follows_the_condition_both_ways(probe: Probe, condition: Condition) -> None:
    condition.reason = None
    assert await probe.readiness() == (200, None)
    condition.reason = "the bus connection is lost"
    assert await probe.readiness() == (503, "the bus connection is lost")


async def test_metrics_are_served_as_prometheus_text(probe: Probe) -> None:
    status, text = await probe.get("/metrics")
    assert status == 200
    assert 'aios_calls_total{operation="memory.add",outcome="ok"} 1.0' in text


async def test_other_pages_do_not_exist(probe: Probe) -> None:
    assert (await probe.get("/secrets"))[0] == 404


async def test_a_port_that_is_taken_is_an_error_at_the_start(probe: Probe) -> None:
    second = HealthServer(Metrics(), lambda: None)
    with pytest.raises(OSError, match="address already in use"):
        await second.start("127.0.0.1", probe.http_port)
    await second.stop()


async def test_stopping_a_server_that_never_started_is_fine() -> None:
    await HealthServer(Metrics(), lambda: None).stop()
