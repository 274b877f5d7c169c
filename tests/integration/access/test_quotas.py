"""Quotas as callers meet them, over two replicas of access: never more than the limit, and when to try again."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator

import orjson
import pytest
import pytest_asyncio
from nats.aio.client import Client
from support.access_installation import Installation
from support.frame_inbox import RawAgent
from support.kernel_peer import KernelPeer, kernel_peer
from support.nats_server import NatsServer
from support.quota_waits import limit
from support.running_service import access_env, running_process

from aios_proto import headers as wire
from aios_proto import subjects
from aios_proto.ids import new_syscall_id

pytestmark = pytest.mark.asyncio(loop_scope="module")

CALLERS = 16
PRICES = '{"*": {"prompt": 1.0, "completion": 2.0}}'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def installation(server: NatsServer) -> AsyncIterator[Installation]:
    env = access_env(server) | {"AIOS_ACCESS_PRICES": PRICES}
    async with (
        running_process("aios_access", server, "access", env, instance="access-1") as first,
        running_process("aios_access", server, "access", env, instance="access-2"),
    ):
        operator = await RawAgent.connect(server.url, server.operator_token, allow_reconnect=True)
        made = Installation(server, first, operator, None)  # type: ignore[arg-type]
        yield made
        await made.close()
        await operator.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def memory(installation: Installation) -> AsyncIterator[KernelPeer]:
    async with kernel_peer(installation.server, "memory", "memory") as peer:
        yield peer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def llm(installation: Installation) -> AsyncIterator[KernelPeer]:
    async with kernel_peer(installation.server, "scheduler", "llm", pattern="aios.k.llm.*") as peer:
        peer.answers = False
        yield peer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker(server: NatsServer) -> AsyncIterator["Worker"]:
    nc = await server.connect("llm")
    yield Worker(nc)
    await nc.close()


class Worker:
    """Says how model calls ended."""

    def __init__(self, nc: Client) -> None:
        self.nc = nc

    async def end(self, agent: RawAgent, call_id: str, prompt: int = 0, completion: int = 0) -> None:
        usage = {"prompt_tokens": prompt, "completion_tokens": completion, "cached_tokens": 0}
        report = {"type": "ended", "pool": "default", "worker": "w", "key": f"{agent.tenant}.{agent.agent}.{call_id}"}
        body = orjson.dumps({**report, "attempt": 1, "outcome": "done", "usage": usage})
        await self.nc.publish(subjects.worker_report("default", "w"), body)
        await self.nc.flush()


async def chat(agent: RawAgent, call_id: str | None = None, **body: object) -> tuple[str, str]:
    """Begins a model call; returns its id and `passed`, or the code it was refused with."""
    name = call_id or new_syscall_id()
    reply = await agent.send("llm", "chat", {"messages": [], **body}, call_id=name)
    frame = await agent.inbox.next(reply)
    return name, "passed" if frame["type"] == "accepted" else frame["error"]["code"]


async def headers_of(peer: KernelPeer, call_id: str) -> dict[str, str]:
    """The headers with which access forwarded a call."""
    return (await peer.received_call(call_id)).headers or {}


async def test_sixteen_callers_over_two_replicas_never_pass_more_calls_a_second_than_allowed(
    installation: Installation, memory: KernelPeer
) -> None:
    agent = await installation.agent()
    await limit(installation, agent, calls_per_s=20)
    begun = time.time()
    used_up: set[int] = set()

    async def caller() -> Counter[str]:
        ended: Counter[str] = Counter()
        while (sent := time.time()) < begun + 2.5:
            frame = await agent.call("memory", "add", {"content": "x"})
            ended[frame["error"]["code"] if frame["type"] == "error" else "done"] += 1
            if frame["type"] == "error":
                assert 0 < frame["error"]["retry_after_s"] <= 1
                used_up.update({int(sent)} & {int(time.time())})
        return ended

    total = sum(await asyncio.gather(*(caller() for _ in range(CALLERS))), Counter())
    windows = int(time.time()) - int(begun) + 1
    assert set(total) == {"done", "quota.exhausted"}
    # Shares of replicas that do not run stay unused: 2 of 4 base shares of an eighth. A second in which a busy machine
    # makes too few calls to use them up proves nothing.
    assert 10 * len(used_up) <= total["done"] <= 20 * windows


async def test_a_soft_limit_makes_calls_wait_for_their_turn_and_all_pass(
    installation: Installation, memory: KernelPeer
) -> None:
    agent = await installation.agent()
    await limit(installation, agent, calls_per_s=8, wait_s=10)
    begun = time.time()
    frames = await asyncio.gather(*(agent.call("memory", "add", {"content": "x"}) for _ in range(20)))
    assert [frame["type"] for frame in frames] == ["done"] * 20
    assert time.time() - begun > 1


async def test_open_model_calls_never_exceed_their_limit_and_free_their_place_when_they_end(
    installation: Installation, llm: KernelPeer, worker: Worker
) -> None:
    agent = await installation.agent()
    await limit(installation, agent, concurrent_calls=3)
    ended = await asyncio.gather(*(chat(agent) for _ in range(CALLERS)))
    passed = [name for name, outcome in ended if outcome == "passed"]
    assert len(passed) == 3
    assert {outcome for _, outcome in ended} == {"passed", "quota.exhausted"}
    for name in passed:
        await worker.end(agent, name)
    async with asyncio.timeout(10):
        again: list[str] = []
        while len(again) < 3:
            name, outcome = await chat(agent)
            if outcome == "passed":
                again.append(name)
    assert (await chat(agent))[1] == "quota.exhausted"
    for name in again:
        await worker.end(agent, name)


async def test_the_same_call_sent_again_takes_no_second_place(
    installation: Installation, llm: KernelPeer, worker: Worker
) -> None:
    agent = await installation.agent()
    await limit(installation, agent, tokens=1000, tokens_window_s=3600)
    name = new_syscall_id()
    # Each replica counts an id it has not seen; the estimate of the second is returned when the call ends.
    for _ in range(4):
        assert (await chat(agent, name, max_tokens=200))[1] in ("passed", "quota.exhausted")
    await worker.end(agent, name, prompt=10, completion=20)


async def test_tokens_are_reserved_settled_by_use_and_refused_at_the_limit(
    installation: Installation, llm: KernelPeer, worker: Worker
) -> None:
    agent = await installation.agent()
    await limit(installation, agent, tokens=1000, tokens_window_s=3600)
    ended = await asyncio.gather(*(chat(agent, max_tokens=300) for _ in range(CALLERS)))
    passed = [name for name, outcome in ended if outcome == "passed"]
    # 304 tokens are reserved for each; three fit.
    assert 1 <= len(passed) <= 3
    error = await agent.error("llm", "chat", {"messages": [], "max_tokens": 900})
    assert error["code"] == "quota.exhausted"
    assert error["retryable"] is True
    assert 0 < error["retry_after_s"] <= 3600
    for name in passed:
        await worker.end(agent, name, prompt=10, completion=10)
    async with asyncio.timeout(10):
        while (await chat(agent, max_tokens=300))[1] != "passed":
            await asyncio.sleep(0.1)


async def test_a_budget_is_money_for_tokens(installation: Installation, llm: KernelPeer, worker: Worker) -> None:
    agent = await installation.agent()
    # A completion token costs 2 millionths: 0.001 buys 500 of them.
    await limit(installation, agent, budget=0.001, budget_window_s=86_400)
    assert (await chat(agent, max_tokens=600))[1] == "quota.exhausted"
    name, outcome = await chat(agent, max_tokens=400)
    assert outcome == "passed"
    assert (await chat(agent, max_tokens=400))[1] == "quota.exhausted"
    await worker.end(agent, name, prompt=0, completion=400)
    assert (await chat(agent, max_tokens=400))[1] == "quota.exhausted"


async def test_a_model_call_is_told_what_it_may_use_of_its_tightest_quota(
    installation: Installation, llm: KernelPeer, worker: Worker
) -> None:
    agent = await installation.agent()
    await limit(installation, agent, tokens=10_000, tokens_window_s=3600, budget=0.003, budget_window_s=86_400)
    name, _ = await chat(agent, max_tokens=500)
    # 0.003 buys 1 500 tokens at the price of completions, less what the prompt is estimated at.
    assert 1490 <= int((await headers_of(llm, name))[wire.BUDGET]) <= 1510
    free = await installation.agent()
    name, _ = await chat(free, max_tokens=500)
    assert wire.BUDGET not in await headers_of(llm, name)
    for each in (agent, free):
        await worker.end(each, name)


async def test_an_agent_cannot_give_itself_a_budget(installation: Installation, llm: KernelPeer) -> None:
    agent = await installation.agent()
    name = new_syscall_id()
    await agent.send("llm", "chat", {"messages": []}, call_id=name, headers={wire.BUDGET: "1"})
    assert wire.BUDGET not in await headers_of(llm, name)


async def test_a_groups_quota_holds_for_each_agent_and_the_tenants_for_all(
    installation: Installation, memory: KernelPeer
) -> None:
    operator = await installation.agent("operator", tenant="small")
    await operator.result("access", "quota.set", {"scope": "tenant", "limits": {"calls_per_s": 0}})
    async with asyncio.timeout(10):
        while (await operator.call("access", "whoami"))["type"] == "done":
            await asyncio.sleep(0.01)
    root = installation.operator
    async with asyncio.timeout(10):  # the replica that is asked may be the one that has not heard yet
        while not (shown := (await root.result("access", "quota.show", {"tenant": "small"}))["quotas"]):
            await asyncio.sleep(0.01)
    assert [(quota["scope"], quota["limits"]["calls_per_s"]) for quota in shown] == [("tenant", 0)]
    await root.result("access", "quota.set", {"scope": "tenant", "tenant": "small", "limits": {}})
    async with asyncio.timeout(10):
        while (await operator.call("access", "whoami"))["type"] == "error":
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"scope": "galaxy", "limits": {}}, "scope"),
        ({"scope": "agent", "limits": {}}, "name"),
        ({"scope": "tenant", "name": "x", "limits": {}}, "name"),
        ({"scope": "agent", "name": "a.b", "limits": {}}, "name"),
        ({"scope": "tenant", "limits": {"calls_per_s": -1}}, "limits.calls_per_s"),
        ({"scope": "tenant", "limits": {"tokens": 1, "tokens_window_s": 0}}, "limits.tokens_window_s"),
        ({"scope": "tenant", "limits": {"calls": 1}}, "limits.calls"),
    ],
)
async def test_a_quota_that_cannot_be_is_refused_by_field(installation: Installation, body: object, field: str) -> None:
    error = await installation.operator.error("access", "quota.set", body)
    assert (error["code"], error["field"]) == ("request.invalid", field)


async def test_agents_may_not_see_or_set_quotas(installation: Installation) -> None:
    agent = await installation.agent()
    assert (await agent.error("access", "quota.show"))["code"] == "access.denied"
    body = {"scope": "agent", "name": agent.agent, "limits": {}}
    assert (await agent.error("access", "quota.set", body))["code"] == "access.denied"
