"""What came of calls is remembered, and found by those who may see it."""

import asyncio
import time

import pytest
from support.storage_road import StorageRoad

from aios import AccessDenied, Agent, AiosError, InvalidRequest
from aios_proto import subjects
from aios_proto.kernel import CallFact
from aios_proto.messages.storage import InteractionsResult

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def tell(road: StorageRoad, agent: Agent, count: int, operation: str = "llm.chat") -> None:
    nc = await road.server.connect("scheduler")
    js = nc.jetstream()
    for number in range(count):
        fact = CallFact(
            id=f"{agent.name}-{number}", agent=agent.name, operation=operation, program="p", at_ms=1000 + number
        )
        subject = subjects.event(agent.tenant, "syscall.completed")
        await js.publish(subject, fact.model_dump_json(exclude_none=True).encode())
    await nc.close()


async def until(agent: Agent, count: int) -> InteractionsResult:
    async with asyncio.timeout(15):
        while True:
            page = await agent.storage.interactions(limit=1000)
            if len(page.interactions) >= count:
                return page
            await asyncio.sleep(0.05)


async def test_calls_are_found_by_what_they_were_in_pages(road: StorageRoad) -> None:
    agent = await road.agent()
    await tell(road, agent, 7)
    await tell(road, agent, 1, "llm.complete")
    page = await until(agent, 8)
    assert len({(one.id, one.operation) for one in page.interactions}) == 8
    assert page.cursor is None
    first = await agent.storage.interactions(operation="llm.chat", limit=5)
    rest = await agent.storage.interactions(operation="llm.chat", limit=5, cursor=first.cursor)
    assert [one.at_ms for one in (*first.interactions, *rest.interactions)] == list(range(1000, 1007))
    timed = await agent.storage.interactions(after_ms=1003, before_ms=1005)
    assert [one.at_ms for one in timed.interactions] == [1003, 1004]
    assert len((await agent.storage.interactions(text="M.COMPLETE", operation="llm.*")).interactions) == 1
    assert (await agent.storage.interactions(kind="syscall.failed")).interactions == []


async def test_a_denied_call_is_remembered_too(road: StorageRoad) -> None:
    agent = await road.agent()
    with pytest.raises(AiosError):
        await agent.syscall("scheduler", "drain", {"worker": "x"})
    page = await until(agent, 1)
    assert (page.interactions[0].kind, page.interactions[0].code) == ("syscall.denied", "access.denied")
    assert abs(page.interactions[0].at_ms - time.time() * 1000) < 60_000


async def test_an_agent_sees_its_own_calls_and_an_operator_those_of_its_tenant(road: StorageRoad) -> None:
    agent, other = await road.agent(tenant="seen"), await road.agent(tenant="seen")
    operator, stranger = await road.agent(tenant="seen", group="operator"), await road.agent(group="operator")
    await tell(road, agent, 2)
    await until(agent, 2)
    assert (await other.storage.interactions()).interactions == []
    with pytest.raises(AccessDenied):
        await other.storage.interactions(agent=agent.name)
    assert len((await operator.storage.interactions()).interactions) == 2
    assert len((await operator.storage.interactions(agent=agent.name)).interactions) == 2
    assert (await stranger.storage.interactions(agent=agent.name)).interactions == []


async def test_a_cursor_that_is_none_is_refused(road: StorageRoad) -> None:
    agent = await road.agent()
    for cursor in ("x", "-1", "1.5", "9" * 30):
        with pytest.raises(InvalidRequest):
            await agent.storage.interactions(cursor=cursor)
