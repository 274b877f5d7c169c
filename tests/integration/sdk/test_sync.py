"""What an agent's author sees who has no event loop."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.nats_server import NatsServer
from support.scripted_kernel import ScriptedCall, scripted_kernel

import aios
from aios import SyncAgent
from aios_proto import errors


@pytest.fixture
def sync_kernel(bus: NatsServer) -> Iterator[None]:
    """A kernel in a thread of its own that spells the prompt, or does as the prompt says."""
    ready, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def chat(call: ScriptedCall) -> None:
        prompt = call.body["messages"][0]["content"]
        if prompt == "hang":
            await call.accepted()
        elif prompt == "program":
            await call.stream(call.headers.program or "")
        elif prompt == "refuse":
            await call.error(errors.QueueFull("full", retry_after_s=2))
        else:
            await call.stream(*prompt)

    async def serve() -> None:
        async with scripted_kernel(bus.url) as kernel:
            kernel.handlers["llm.chat"] = chat
            kernel.handlers["llm.models"] = lambda call: call.done({"models": []})
            kernel.handlers["syscall.list"] = lambda call: call.done({"calls": []})
            kernel.handlers["syscall.cancel"] = lambda call: call.done({"id": call.body["id"], "state": "running"})
            kernel.handlers["syscall.attach"] = lambda call: call.chat_done("earlier", call_id=call.body["id"])
            kernel.handlers["access.whoami"] = lambda call: call.done(
                {"tenant": call.subject.tenant, "agent": call.subject.agent, "group": "agent"}
            )
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert ready.wait(10)
    yield
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)
    loop.close()


@pytest.mark.usefixtures("sync_kernel")
def test_everything_works_without_an_event_loop() -> None:
    with SyncAgent() as agent:
        first, second = agent.llm.chat("abc"), agent.llm.chat("xy", max_tokens=3)
        assert list(first) == ["a", "b", "c"]
        assert first.result().text == "abc" == first.text
        assert second.result().text == "xy"
        assert second.done
        assert agent.whoami().agent == "alice" == agent.name
        assert agent.llm.models().result() == []
        assert agent.calls.list() == []
        assert agent.calls.attach("e1").result().result["message"] == {"role": "assistant", "content": "earlier"}
        assert agent.syscall("llm", "models").result().result == {"models": []}


@pytest.mark.usefixtures("sync_kernel")
def test_errors_are_the_same_classes() -> None:
    with SyncAgent() as agent:
        with pytest.raises(aios.QueueFull) as caught:
            agent.llm.chat("refuse").result()
        assert caught.value.retry_after_s == 2
        with pytest.raises(aios.QueueFull):
            list(agent.llm.chat("refuse"))
        with pytest.raises(aios.InvalidRequest):
            agent.llm.chat("x", temperature=-1)


@pytest.mark.usefixtures("sync_kernel")
def test_a_call_can_be_cancelled_and_a_closed_agent_ends_the_waiting() -> None:
    agent = SyncAgent()
    agent.connect()
    call = agent.llm.chat("hang")
    call.accepted()
    assert call.cancel().state == "running"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(call.result)
        agent.close()
        with pytest.raises(aios.BusUnavailable):
            waiting.result(10)
    with pytest.raises(aios.BusUnavailable):
        agent.llm.chat("x")
    with pytest.raises(aios.BusUnavailable):
        call.cancel()


@pytest.mark.usefixtures("sync_kernel")
def test_several_threads_share_an_agent_and_each_has_its_own_run() -> None:
    with SyncAgent() as agent, ThreadPoolExecutor(8) as pool:

        def work(number: int) -> bool:
            with agent.run(f"worker-{number}") as program:
                return agent.llm.chat("program").result().text == program

        assert all(pool.map(work, range(40)))


def test_a_bad_token_or_an_absent_bus_leaves_no_thread_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIOS_TOKEN", raising=False)
    before = set(threading.enumerate())
    with pytest.raises(aios.Unauthenticated):
        SyncAgent()
    with pytest.raises(aios.BusUnavailable), SyncAgent(token="t.a.s", url="nats://127.0.0.1:1", connect_timeout_s=0.3):
        pass
    for left in set(threading.enumerate()) - before:
        left.join(10)
        assert not left.is_alive(), left
