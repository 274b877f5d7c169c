"""Two workers on one engine, as `aios up --workers 2` starts them: together they are given what it runs at once."""

import asyncio

import pytest

from aios import Agent
from aios_proto.messages.scheduler import StateResult

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ENGINE_RUNS = 8
"""Sequences that the engine decodes together where nothing else is said."""


async def test_more_calls_than_the_engine_runs_wait_with_the_scheduler(operator: Agent) -> None:
    state = await _state(operator)
    assert len({worker.engine_id for worker in state.workers}) == 1
    assert sorted(worker.in_flight_limit for worker in state.workers) == [ENGINE_RUNS // 2] * 2
    calls = [
        operator.llm.chat("Tell a very long story about a river.", max_tokens=1000) for _ in range(ENGINE_RUNS + 2)
    ]
    try:
        async with asyncio.timeout(60):  # what earlier tests cancelled may just be leaving
            while (state := await _state(operator)).running + state.queued != len(calls):
                assert state.running <= ENGINE_RUNS
                await asyncio.sleep(0.02)
        assert (state.running, state.queued) == (ENGINE_RUNS, 2)
        assert sorted(worker.running for worker in state.workers) == [ENGINE_RUNS // 2] * 2
    finally:
        await asyncio.gather(*(call.cancel() for call in calls))


async def _state(operator: Agent) -> StateResult:
    return StateResult.model_validate((await operator.syscall("scheduler", "state")).result)
