"""How a worker counts tokens for whoever plans a prompt."""

from collections.abc import AsyncIterator

import pytest
from support.frame_inbox import KernelCaller
from support.nats_server import NatsServer
from support.running_service import InProcess, running_in_process
from support.tgi_stand_in import TgiStandIn, tgi_stand_in

from aios_llm.service import WorkerService
from aios_llm.settings import WorkerSettings
from aios_proto.messages.llm import TokenizeResult


@pytest.fixture
async def tgi() -> AsyncIterator[TgiStandIn]:
    async with tgi_stand_in() as stand_in:
        yield stand_in


@pytest.fixture
async def caller(server: NatsServer) -> AsyncIterator[KernelCaller]:
    nc = await server.connect()
    caller = KernelCaller(nc)
    await caller.inbox.open()
    yield caller
    await nc.close()


@pytest.fixture
async def worker(server: NatsServer, tgi: TgiStandIn) -> AsyncIterator[InProcess]:
    settings = WorkerSettings(nats_url=server.url, instance="w1", engine_url=tgi.url, llm_engine_check_s=0.1)
    async with running_in_process(WorkerService(settings).service) as running:
        yield running


async def counted(caller: KernelCaller, texts: list[str], model: str | None = None) -> TokenizeResult:
    frame = await caller.call("llm", "tokenize", {"texts": texts, "model": model})
    assert frame["type"] == "done", frame
    return TokenizeResult.model_validate(frame["result"])


@pytest.mark.usefixtures("worker")
async def test_texts_are_counted_by_the_engine_and_add_up_to_its_prompts(caller: KernelCaller, tgi: TgiStandIn) -> None:
    texts = ["", "four", "x" * 100, "words in a row"]
    said = await counted(caller, texts)
    assert said.counts == [len(text) for text in texts]
    assert (said.model, said.max_input_tokens, said.max_total_tokens) == ("stand-in", 1000, 2000)
    # The stand-in renders `<user>four<assistant>` and so on, a character a token.
    prompt = len("<user>four<assistant>x<user>y<assistant>")
    planned = said.prompt_overhead_tokens + 3 * said.turn_overhead_tokens + len("fourxy")
    assert prompt <= planned <= prompt + 8


@pytest.mark.usefixtures("worker")
async def test_the_model_that_is_named_answers_and_no_other(caller: KernelCaller, server: NatsServer) -> None:
    settings = WorkerSettings(nats_url=server.url, instance="w2", engine_kind="instant", llm_engine_check_s=0.1)
    async with running_in_process(WorkerService(settings).service):
        assert (await counted(caller, ["two words"], "instant")).counts == [2]
        assert (await counted(caller, ["two words"], "stand-in")).counts == [9]
        assert (await counted(caller, ["two words"])).counts in ([2], [9])
        reply = await caller.send("llm", "tokenize", {"texts": ["x"], "model": "instant"})
        await caller.inbox.until_end(reply)
        await counted(caller, ["x"], "stand-in")
        assert caller.inbox.waiting(reply) == 0  # one answer, from the one that was asked


@pytest.mark.usefixtures("worker")
async def test_a_body_that_cannot_be_read_is_answered(caller: KernelCaller) -> None:
    for body, field in ((b"nonsense", "body"), ({"texts": "no list"}, "texts"), ({}, "texts")):
        frame = await caller.call("llm", "tokenize", body)
        assert frame["type"] == "error"
        assert frame["error"]["field"] == field
