"""A client in another language makes a streamed model call, knowing only the published schemas and a token."""

import asyncio

import pytest
from support.node_client import installed_node_client
from support.stack import Stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


async def test_a_node_client_streams_an_answer_from_the_real_model(stack: Stack, agent_token: str) -> None:
    client = await asyncio.to_thread(installed_node_client)
    result = await asyncio.to_thread(
        client.run, "chat.mjs", "Say hello.", "12", AIOS_URL=stack.state.url, AIOS_TOKEN=agent_token
    )
    assert result.status == 0, result.output
    assert result.output["text"]
    assert result.output["deltas"] >= 1
    assert result.output["usage"]["completion_tokens"] > 0
