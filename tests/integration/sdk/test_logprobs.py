"""How likely an answer's tokens were, as its author gets it."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from support.nats_server import NatsServer
from support.scripted_kernel import ScriptedCall, ScriptedKernel, scripted_kernel

from aios import Agent, InvalidRequest, SyncAgent, TokenLogprob

TEXTS = ["He", "l", "lo"]
WHOLE = [
    {"token": text, "logprob": -number / 4, "top_logprobs": [{"token": "x", "logprob": -0.125}]}
    for number, text in enumerate(TEXTS)
]
ENTRIES = [TokenLogprob.model_validate(entry) for entry in WHOLE]
RESULT = {"message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop", "model": "m"}


async def delta(call: ScriptedCall, start: int, end: int, at: str | None = None) -> None:
    text = "".join(TEXTS[:start])
    await call.frame(
        "delta",
        at,
        offset=start,
        tokens=end - start,
        text_offset=len(text),
        text="".join(TEXTS[start:end]),
        logprobs_offset=start,
        logprobs=WHOLE[start:end],
    )


async def streaming(call: ScriptedCall) -> None:
    """As after a failover: a piece comes twice."""
    await call.accepted()
    for start, end in ((0, 1), (0, 2), (1, 2), (2, 3)):
        await delta(call, start, end)
    await call.done(RESULT | {"logprobs": WHOLE})


async def test_tokens_come_as_the_text_does_and_the_reply_has_them_all(agent: Agent, kernel: ScriptedKernel) -> None:
    kernel.handlers["llm.chat"] = streaming
    call = agent.llm.chat("Hi", logprobs=True, top_logprobs=1)
    assert [token async for token in call.tokens()] == ENTRIES
    assert [piece async for piece in call] == ["He", "l", "lo"]
    reply = await call
    assert reply.logprobs == call.logprobs == ENTRIES
    assert reply.logprobs[1].top_logprobs[0].token == "x"
    (sent,) = kernel.received
    assert (sent.body["logprobs"], sent.body["top_logprobs"]) == (True, 1)


async def test_those_of_an_answer_without_a_stream_come_with_its_end(agent: Agent, kernel: ScriptedKernel) -> None:
    text: dict[str, Any] = {"text": "Hello", "finish_reason": "stop", "model": "m", "logprobs": WHOLE}
    kernel.handlers["llm.complete"] = lambda call: call.done(text)
    call = agent.llm.complete("Hi", logprobs=True, stream=False)
    assert [token async for token in call.tokens()] == ENTRIES
    assert (await call).logprobs == ENTRIES


async def test_who_does_not_ask_has_none(agent: Agent, kernel: ScriptedKernel) -> None:
    kernel.handlers["llm.chat"] = lambda call: call.stream("Hello")
    call = agent.llm.chat("Hi")
    assert (await call).logprobs is None
    assert call.logprobs == []
    assert [token async for token in call.tokens()] == []
    assert "logprobs" not in kernel.received[0].body


async def test_the_likeliest_without_log_probabilities_are_refused_before_anything_is_sent(agent: Agent) -> None:
    for options in ({"top_logprobs": 3}, {"logprobs": True, "top_logprobs": 21}):
        with pytest.raises(InvalidRequest) as refused:
            agent.llm.chat("Hi", **options)  # type: ignore[arg-type]
        assert refused.value.field == "top_logprobs"


async def test_a_frame_that_was_lost_is_asked_for_again(agent: Agent, kernel: ScriptedKernel) -> None:
    async def with_a_gap(call: ScriptedCall) -> None:
        await call.accepted()
        await delta(call, 0, 1)
        await delta(call, 2, 3)

    async def attached(call: ScriptedCall) -> None:
        await delta(call, 0, 3, call.body["id"])
        await call.done(RESULT | {"logprobs": WHOLE}, call.body["id"])

    kernel.handlers |= {"llm.chat": with_a_gap, "syscall.attach": attached}
    call = agent.llm.chat("Hi", logprobs=True, top_logprobs=1)
    assert [token async for token in call.tokens()] == ENTRIES
    assert (await call).text == "Hello"


@pytest.fixture
def sync_kernel(bus: NatsServer) -> Iterator[None]:
    """A kernel in a thread of its own."""
    ready, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with scripted_kernel(bus.url) as kernel:
            kernel.handlers["llm.chat"] = streaming
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
def test_without_an_event_loop_they_are_the_same() -> None:
    with SyncAgent() as agent:
        call = agent.llm.chat("Hi", logprobs=True, top_logprobs=1)
        assert list(call.tokens()) == ENTRIES
        assert call.result().logprobs == call.logprobs == ENTRIES
