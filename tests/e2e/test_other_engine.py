"""The whole system on an inference server that is not ours: llama.cpp's own, by OpenAI's API."""

from pathlib import Path

import pytest
from support.llama_server import running_llama_server
from support.otlp_sink import OtlpSink
from support.stack import Stack

from aios import Agent
from aios_stack.data_folder import DataFolder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

START_TIMEOUT_S = 300


async def test_an_agent_chats_through_all_services_with_a_server_of_another_make(tmp_path: Path) -> None:
    folder = DataFolder.find(tmp_path)
    with running_llama_server() as engine_url, OtlpSink() as sink:
        stack = Stack(folder, sink)
        up = stack.aios("up", "--engine-kind", "openai", "--engine-url", engine_url, timeout_s=START_TIMEOUT_S)
        try:
            assert up.returncode == 0, up.stderr
            async with Agent(token=stack.operator_token, url=stack.state.url) as agent:
                call = agent.llm.chat("Name three colours.", max_tokens=16, logprobs=True)
                pieces = [piece async for piece in call]
                reply = await call
                context = await agent.contexts.open()
                kept = await context.chat("Say hello.", max_tokens=8)
        finally:
            stack.aios("down")
    assert "".join(pieces) == reply.text != ""
    assert reply.usage is not None
    assert reply.logprobs is not None
    assert len(reply.logprobs) == reply.usage.completion_tokens <= 16
    assert kept.text


def test_without_an_address_such_a_server_cannot_be_used(tmp_path: Path) -> None:
    with OtlpSink() as sink:
        up = Stack(DataFolder.find(tmp_path), sink).aios("up", "--engine-kind", "openai")
    assert up.returncode != 0
    assert "--engine-url" in up.stderr
