"""What pausing and forking a call put on the wire, and what its author gets."""

import asyncio
import threading
from collections.abc import Iterator

import pytest
from support.nats_server import NatsServer
from support.scripted_kernel import ScriptedCall, ScriptedKernel, scripted_kernel

import aios
from aios import Agent, SyncAgent
from aios_proto import errors


class Pausing:
    """Answers chats: one that names nothing streams a beginning until it is paused, another its continuation."""

    def __init__(self) -> None:
        self.open: dict[str, ScriptedCall] = {}
        self.stops: list[dict[str, object]] = []

    async def chat(self, call: ScriptedCall) -> None:
        if (origin := call.body.get("continue_from")) is not None:
            await call.stream("begun ", f"{origin} {call.body.get('seed')}")
            return
        self.open[call.headers.id] = call
        await call.accepted()
        await call.delta(0, "begun ")

    async def cancel(self, call: ScriptedCall) -> None:
        self.stops.append(call.body)
        await call.done({"id": call.body["id"], "state": "running"})
        await self.open.pop(call.body["id"]).error(errors.SyscallCancelled("paused"))


@pytest.fixture
def pausing(kernel: ScriptedKernel) -> Pausing:
    scripted = Pausing()
    kernel.handlers |= {"llm.chat": scripted.chat, "syscall.cancel": scripted.cancel}
    return scripted


async def test_a_fork_asks_what_was_asked_with_the_options_that_are_given(
    agent: Agent, kernel: ScriptedKernel, pausing: Pausing
) -> None:
    call = agent.llm.chat("Hi", max_tokens=9, seed=4, top_p=0.5, context="talk", priority=7)
    async for _ in call:
        break
    assert await agent.llm.pause(call)
    assert pausing.stops == [{"id": call.id, "keep": True}]
    replies = await asyncio.gather(*agent.llm.fork(call, 2, max_tokens=20, temperature=0.7, priority=3))
    assert {reply.text for reply in replies} == {f"begun {call.id} None"}
    forks = kernel.received[-2:]
    assert {fork.headers.context for fork in forks} == {"talk"}
    assert {fork.headers.priority for fork in forks} == {3}
    assert len({fork.headers.id for fork in forks}) == 2
    for fork in forks:
        assert fork.body == {
            "messages": [{"role": "user", "content": "Hi"}],
            "max_tokens": 20,
            "top_p": 0.5,
            "temperature": 0.7,
            "continue_from": call.id,
        }


async def test_a_call_can_be_named_by_itself_or_by_its_id(agent: Agent, pausing: Pausing) -> None:
    call = agent.llm.chat("Hi")
    await agent.llm.pause(call)
    for origin in (call, call.id):
        assert (await agent.llm.chat("Hi", continue_from=origin, seed=2)).text == f"begun {call.id} 2"


@pytest.mark.usefixtures("pausing")
async def test_pausing_what_has_ended_tells_how_it_ended(agent: Agent, kernel: ScriptedKernel) -> None:
    kernel.handlers["llm.complete"] = lambda call: call.error(errors.EngineFailed("broke"))
    done, failed = agent.llm.chat("Hi", continue_from="01J0000000000000000000000A"), agent.llm.complete("x")
    await done
    assert not await agent.llm.pause(done)
    with pytest.raises(aios.EngineFailed):
        await failed
    with pytest.raises(aios.EngineFailed):
        await agent.llm.pause(failed)


async def test_forks_cannot_share_an_id(agent: Agent, pausing: Pausing) -> None:
    call = agent.llm.chat("Hi")
    await agent.llm.pause(call)
    with pytest.raises(aios.InvalidRequest) as caught:
        agent.llm.fork(call, 2, id="one")
    assert caught.value.field == "id"
    assert (await agent.llm.fork(call, id="one")[0]).id == "one"


async def test_a_wrong_origin_is_refused_before_it_is_sent(agent: Agent, kernel: ScriptedKernel) -> None:
    with pytest.raises(aios.InvalidRequest) as caught:
        agent.llm.chat("Hi", continue_from="not an id")
    assert caught.value.field == "continue_from"
    assert kernel.received == []


@pytest.fixture
def pausing_kernel(bus: NatsServer) -> Iterator[None]:
    """The same kernel in a thread of its own."""
    ready, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        scripted = Pausing()
        async with scripted_kernel(bus.url) as kernel:
            kernel.handlers |= {"llm.chat": scripted.chat, "syscall.cancel": scripted.cancel}
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert ready.wait(10)
    yield
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)
    loop.close()


@pytest.mark.usefixtures("pausing_kernel")
def test_pausing_and_forking_work_without_an_event_loop() -> None:
    with SyncAgent() as agent:
        call = agent.llm.chat("Hi")
        assert next(iter(call)) == "begun "
        assert agent.llm.pause(call)
        assert [fork.result().text for fork in agent.llm.fork(call, 2)] == [f"begun {call.id} None"] * 2
