"""What an agent's author sees when the bus, the kernel or the answers go away."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from support.nats_server import NatsServer
from support.scripted_kernel import ScriptedCall, ScriptedKernel, scripted_kernel

import aios
from aios import Agent
from aios_proto import errors
from aios_stack.nats_config import render_open


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aios._course.FIRST_RETRY_S", 0.1)


@pytest.fixture
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aios._course.GRACE_S", 0.0)


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("operation", ["llm.chat", "memory.add"])
async def test_a_call_whose_first_message_was_lost_is_sent_again_under_the_same_id(
    agent: Agent, kernel: ScriptedKernel, operation: str
) -> None:
    manager, name = operation.split(".")
    call = agent.syscall(manager, name, {"x": 1})
    first, second = await kernel.next(operation), await kernel.next(operation)
    assert (first.headers.id, first.reply, first.body) == (second.headers.id, second.reply, second.body)
    await second.done({"ok": True})
    assert (await call).result == {"ok": True}


@pytest.mark.usefixtures("quick_retries")
async def test_an_accepted_call_is_not_sent_again(agent: Agent, kernel: ScriptedKernel) -> None:
    call = agent.llm.chat("Hi")
    sent = await kernel.next("llm.chat")
    await sent.accepted()
    await call.accepted()
    other = agent.llm.chat("second")  # two of its retries pass while the first one is quiet
    retry = await kernel.next("llm.chat")
    while retry.headers.id == call.id:  # on a busy machine it was sent again before `accepted` had come
        retry = await kernel.next("llm.chat")
    for _ in range(2):
        assert retry.headers.id == other.id
        retry = await kernel.next("llm.chat")
    await retry.stream("2")
    await sent.stream("1")
    assert ((await call).text, (await other).text) == ("1", "2")
    received = [sent.headers.id for sent in kernel.received]
    assert call.id not in received[received.index(other.id) :]


async def test_a_stream_goes_on_after_the_bus_was_killed(bus: NatsServer, kernel: ScriptedKernel, agent: Agent) -> None:
    call = agent.llm.chat("count")
    sent = await kernel.next("llm.chat")
    await sent.accepted()
    await sent.delta(0, "one two")
    pieces = aiter(call)
    assert await anext(pieces) == "one two"
    bus.kill()
    await asyncio.to_thread(bus.restart)
    attach = await _next_attach(kernel)
    assert attach.body == {"id": call.id, "text_offset": 7}
    await attach.delta(0, "one two three", call_id=call.id)
    await attach.chat_done("one two three", call_id=call.id)
    assert [piece async for piece in pieces] == [" three"]
    assert (await call).text == "one two three"


async def _next_attach(kernel: ScriptedKernel) -> ScriptedCall:
    """The kernel may be back on the restarted bus after the agent; then the agent asks more than once."""
    return await kernel.next("syscall.attach")


async def test_a_call_made_while_the_bus_is_down_is_sent_when_it_is_back(
    bus: NatsServer, kernel: ScriptedKernel, agent: Agent
) -> None:
    kernel.handlers["llm.chat"] = lambda call: call.stream("late")
    bus.kill()
    call = agent.llm.chat("Hi")
    await asyncio.to_thread(bus.restart)
    assert (await call).text == "late"


async def test_a_call_the_kernel_forgot_is_sent_again_under_its_id(
    bus: NatsServer, kernel: ScriptedKernel, agent: Agent
) -> None:
    kernel.handlers["syscall.attach"] = lambda call: call.error(errors.SyscallUnknown("no such call"))
    call = agent.llm.chat("Hi")
    sent = await kernel.next("llm.chat")
    await sent.accepted()
    await call.accepted()
    await asyncio.to_thread(bus.restart)
    again = await kernel.next("llm.chat")
    assert again.headers.id == call.id
    await again.stream("once more")
    assert (await call).text == "once more"


@pytest.mark.parametrize(
    "error", [errors.SyscallUnknown("forgotten"), errors.BusUnavailable("not stored", retry_after_s=0.1)]
)
async def test_a_call_the_kernel_could_not_keep_is_sent_again_under_its_id(
    agent: Agent, kernel: ScriptedKernel, error: errors.AiosError
) -> None:
    call = agent.llm.chat("Hi")
    await (await kernel.next("llm.chat")).error(error)
    again = await kernel.next("llm.chat")
    assert again.headers.id == call.id
    await again.stream("kept")
    assert (await call).text == "kept"


async def test_a_call_the_kernel_keeps_forgetting_is_an_error(
    agent: Agent, kernel: ScriptedKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aios._course.UNKNOWN_RETRY_S", 0.05)
    kernel.handlers["llm.chat"] = lambda call: call.error(errors.SyscallUnknown("forgotten"))
    with pytest.raises(aios.SyscallUnknown):
        await agent.llm.chat("Hi")
    assert len({call.headers.id for call in kernel.received}) == 1
    assert 1 < len(kernel.received) < 6


async def test_a_call_ends_at_its_deadline_though_the_kernel_is_silent(agent: Agent, kernel: ScriptedKernel) -> None:
    call = agent.llm.chat("Hi", deadline_s=0.5)
    sent = await kernel.next("llm.chat")
    await sent.accepted()
    with pytest.raises(aios.DeadlineExceeded) as caught:
        await call
    assert caught.value.syscall_id == call.id
    assert not caught.value.retryable


@pytest.mark.usefixtures("no_grace")
async def test_a_bus_that_stays_away_is_named_as_the_cause(
    bus: NatsServer, kernel: ScriptedKernel, agent: Agent
) -> None:
    call = agent.llm.chat("Hi", deadline_s=2)
    await (await kernel.next("llm.chat")).accepted()
    bus.kill()
    with pytest.raises(aios.BusUnavailable, match="did not come back") as caught:
        await call
    assert caught.value.retryable


async def test_an_agent_closes_in_the_very_moment_in_which_an_attempt_to_connect_fails(
    bus: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempting = asyncio.Event()

    async def attempt(*_: object) -> None:
        """As `asyncio.wait_for` does where what it waits for ends while it is cancelled: it tells of the end."""
        attempting.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise aios.BusUnavailable("refused") from None

    agent = Agent()
    await agent.connect()
    monkeypatch.setattr("aios._link.Link._connect", attempt)
    bus.kill()
    async with asyncio.timeout(10):
        await attempting.wait()
        await agent.close()


async def test_a_kernel_that_is_being_restarted_is_waited_for(bus: NatsServer) -> None:
    async with Agent() as agent:
        call = agent.llm.chat("Hi")
        waiting = asyncio.create_task(call.accepted())
        await asyncio.sleep(0)
        async with scripted_kernel(bus.url) as kernel:
            kernel.handlers["llm.chat"] = lambda sent: sent.stream("here")
            await waiting
            assert (await call).text == "here"


@pytest.mark.usefixtures("bus")
async def test_no_kernel_at_all_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aios._course.DESERTED_PATIENCE_S", 0.3)
    async with Agent() as agent:
        with pytest.raises(aios.ManagerUnavailable):
            await agent.llm.chat("Hi")


async def test_closing_the_agent_ends_the_waiting_and_refuses_new_calls(bus: NatsServer) -> None:
    async with scripted_kernel(bus.url) as kernel:
        async with Agent() as agent:
            call = agent.llm.chat("Hi")
            await kernel.next("llm.chat")
            waiting = asyncio.ensure_future(_text(call))
            await asyncio.sleep(0)
        with pytest.raises(aios.BusUnavailable):
            await waiting
        with pytest.raises(aios.BusUnavailable):
            agent.llm.chat("Hi")
        async with agent:  # and it can be opened again
            again = agent.calls.attach(call.id)
            await (await kernel.next("syscall.attach")).chat_done("there", call_id=call.id)
            await again


async def _text(call: aios.Call[aios.ChatReply]) -> str:
    return "".join([piece async for piece in call])


async def test_a_wait_that_is_given_up_leaves_the_call_running(agent: Agent, kernel: ScriptedKernel) -> None:
    call = agent.llm.chat("Hi")
    sent = await kernel.next("llm.chat")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(call, 0.05)
    await sent.stream("still")
    assert (await call).text == "still"


async def test_a_call_made_just_before_the_end_is_sent(bus: NatsServer) -> None:
    async with scripted_kernel(bus.url) as kernel:
        async with Agent() as agent:
            call_id = agent.llm.chat("Hi").id
        assert (await kernel.next("llm.chat")).headers.id == call_id


async def test_connecting_again_changes_nothing(agent: Agent, kernel: ScriptedKernel, bus: NatsServer) -> None:
    kernel.handlers["llm.chat"] = lambda call: call.stream("fine")
    await agent.connect()
    bus.kill()
    await agent.connect()
    await asyncio.to_thread(bus.restart)
    await agent.connect()
    assert (await agent.llm.chat("Hi")).text == "fine"


async def test_an_agent_that_was_not_opened_says_how(bus: NatsServer) -> None:
    with pytest.raises(aios.BusUnavailable, match="async with"):
        Agent(url=bus.url).llm.chat("Hi")
    with pytest.raises(aios.InvalidRequest, match="program"):
        Agent(url=bus.url, program="a b")
    with pytest.raises(aios.InvalidRequest, match="program"), Agent(url=bus.url).run("x", program=""):
        pass


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"temperature": -1}, "temperature"),
        ({"max_token": 3}, "max_token"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"priority": 10}, "priority"),
        ({"priority": "high"}, "priority"),
        ({"deadline_s": 0}, "deadline_s"),
        ({"deadline_s": float("nan")}, "deadline_s"),
        ({"id": "no spaces"}, "id"),
        ({"id": "a\r\nb: c"}, "id"),
        ({"program": "a.b"}, "program"),
        ({"after": ["x,y z"]}, "after"),
        ({"context": "*"}, "context"),
        ({"durability": "eternal"}, "durability"),
    ],
)
async def test_a_wrong_argument_is_named_before_anything_is_sent(
    agent: Agent, kernel: ScriptedKernel, arguments: dict[str, object], field: str
) -> None:
    with pytest.raises(aios.InvalidRequest) as caught:
        agent.llm.chat("Hi", **arguments)  # type: ignore[arg-type]
    assert caught.value.field == field
    assert kernel.received == []


async def test_wrong_messages_and_bodies_are_named(agent: Agent) -> None:
    with pytest.raises(aios.InvalidRequest, match=r"messages\.1\.role"):
        agent.llm.chat([{"role": "user", "content": "a"}, {"role": "pope", "content": "b"}])
    with pytest.raises(aios.InvalidRequest, match="messages"):
        agent.llm.chat([])
    with pytest.raises(aios.InvalidRequest, match="prompt"):
        agent.llm.complete("")
    with pytest.raises(aios.InvalidRequest, match="JSON"):
        agent.syscall("memory", "add", {"content": object()})  # type: ignore[dict-item]
    with pytest.raises(aios.InvalidRequest, match="JSON"):
        agent.llm.chat("half a surrogate \ud800")
    with pytest.raises(aios.InvalidRequest, match="operation"):
        agent.syscall("memory", "add.>")
    with pytest.raises(aios.InvalidRequest, match="manager"):
        agent.syscall("*", "add")
    with pytest.raises(TypeError, match="colour"):
        agent.syscall("memory", "add", {}, colour="red")  # type: ignore[call-arg]


async def test_a_body_too_large_is_refused_here_and_the_connection_lives(agent: Agent, kernel: ScriptedKernel) -> None:
    with pytest.raises(aios.RequestTooLarge):
        agent.llm.chat("x" * (1 << 20))
    kernel.handlers["llm.chat"] = lambda call: call.stream("fine")
    assert (await agent.llm.chat("x" * ((1 << 20) - 200))).text == "fine"


# Servers that are not open to everyone.


@pytest.fixture
def strict_bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NatsServer]:
    """A server that accepts one token, and carries little."""
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    folder = tmp_path / "strict"
    folder.mkdir()
    config = render_open("strict", folder / "jetstream", folder / "ports").replace(
        "max_payload: 4194304", "max_payload: 65536"
    )
    (folder / "server.conf").write_text(config + 'authorization { token: "acme.alice.right" }\n')
    server = NatsServer(folder, None)
    server.start()
    yield server
    server.kill()


@pytest.fixture
async def strict_kernel(strict_bus: NatsServer) -> AsyncIterator[ScriptedKernel]:
    async with scripted_kernel(strict_bus.url, token="acme.alice.right") as scripted:
        yield scripted


async def test_a_wrong_token_is_refused_at_once(strict_bus: NatsServer) -> None:
    with pytest.raises(aios.Unauthenticated) as caught:
        await Agent(token="acme.alice.wrong", url=strict_bus.url).connect()
    assert caught.value.field == "token"
    assert "wrong" not in str(caught.value)


@pytest.mark.parametrize("token", ["", "acme", "acme.alice", "acme.alice.", "a b.c.d", ".x.y", "acme.*.secret"])
def test_a_token_of_the_wrong_form_is_named(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIOS_TOKEN", raising=False)
    with pytest.raises(aios.Unauthenticated) as caught:
        Agent(token=token)
    assert caught.value.field == "token"


async def test_a_bus_that_is_not_there_is_an_error_within_the_timeout() -> None:
    async with asyncio.timeout(5):
        with pytest.raises(aios.BusUnavailable, match="127"):
            await Agent(token="a.b.c", url="nats://127.0.0.1:1", connect_timeout_s=0.5).connect()


async def test_the_second_server_of_the_list_is_used_when_the_first_is_away(
    bus: NatsServer, kernel: ScriptedKernel
) -> None:
    kernel.handlers["llm.chat"] = lambda call: call.stream("fine")
    async with Agent(url=f"nats://127.0.0.1:1, {bus.url}") as agent:
        assert (await agent.llm.chat("Hi")).text == "fine"


async def test_a_body_larger_than_this_bus_carries_is_refused_here(
    strict_bus: NatsServer, strict_kernel: ScriptedKernel
) -> None:
    strict_kernel.handlers["llm.chat"] = lambda call: call.stream("fine")
    async with Agent(token="acme.alice.right", url=strict_bus.url) as agent:
        with pytest.raises(aios.RequestTooLarge):
            agent.llm.chat("x" * 65_000)
        assert (await agent.llm.chat("x" * 50_000)).text == "fine"


async def test_an_agent_whose_token_is_revoked_is_told(strict_bus: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aios._link.REFUSAL_PATIENCE_S", 0.2)
    async with Agent(token="acme.alice.right", url=strict_bus.url) as agent:
        async with scripted_kernel(strict_bus.url, token="acme.alice.right") as kernel:
            call = agent.llm.chat("Hi")
            await (await kernel.next("llm.chat")).accepted()
        config = strict_bus.folder / "server.conf"
        config.write_text(config.read_text().replace("acme.alice.right", "acme.alice.new"))
        await asyncio.to_thread(strict_bus.restart)
        with pytest.raises(aios.Unauthenticated):
            await call
        with pytest.raises(aios.Unauthenticated):
            agent.llm.chat("Hi")


@pytest.mark.slow
@pytest.mark.timeout(90)
async def test_a_stream_goes_on_after_the_bus_was_frozen(bus: NatsServer, kernel: ScriptedKernel, agent: Agent) -> None:
    """The connection stays open and silent; pings find out within some seconds."""
    call = agent.llm.chat("count")
    sent = await kernel.next("llm.chat")
    await sent.delta(0, "one")
    pieces = aiter(call)
    assert await anext(pieces) == "one"
    bus.pause()
    try:
        async with asyncio.timeout(30):
            while agent.connected:
                await asyncio.sleep(0.1)
    finally:
        bus.resume()
    attach = await kernel.next("syscall.attach")
    await attach.chat_done("one two", call_id=call.id)
    assert [piece async for piece in pieces] == [" two"]
