"""A client in another language needs the published schemas and nothing else."""

import asyncio

import pytest
from support.nats_server import NatsServer
from support.node_client import NodeClient, NodeResult, installed_node_client
from support.scripted_kernel import Handler, ScriptedCall, ScriptedKernel

from aios_proto.errors import QueueFull

TOKEN = "acme.nadia.secret"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="session")
def node_client() -> NodeClient:
    return installed_node_client()


async def chat(client: NodeClient, bus: NatsServer, prompt: str = "Hi") -> NodeResult:
    return await asyncio.to_thread(client.run, "chat.mjs", prompt, "12", AIOS_URL=bus.url, AIOS_TOKEN=TOKEN)


def test_the_asyncapi_document_fits_asyncapis_own_schema(node_client: NodeClient) -> None:
    result = node_client.run("validate_asyncapi.mjs")
    assert result.status == 0, result.output
    assert result.output["operations"] + 1 == result.output["channels"]


async def test_a_streamed_call_is_made_from_the_schemas_alone(
    node_client: NodeClient, bus: NatsServer, kernel: ScriptedKernel
) -> None:
    kernel.handlers["llm.chat"] = lambda call: call.stream("Grüße", ", ", "🌍!")
    result = await chat(node_client, bus)
    assert result.status == 0, result.output
    assert result.output["text"] == "Grüße, 🌍!"
    assert (result.output["frames"], result.output["deltas"]) == (5, 3)
    assert result.output["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "cached_tokens": 1}
    (sent,) = kernel.received
    assert (sent.subject.tenant, sent.subject.agent, sent.operation) == ("acme", "nadia", "llm.chat")
    assert sent.body == {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 12}


async def unknown_frame(call: ScriptedCall) -> None:
    await call.frame("joke")


async def incomplete_frame(call: ScriptedCall) -> None:
    await call.frame("delta", text="x")


async def accepted_twice(call: ScriptedCall) -> None:
    await call.accepted()
    await call.accepted()


async def gap(call: ScriptedCall) -> None:
    await call.delta(0, "x")
    await call.delta(5, "y")


async def other_answer(call: ScriptedCall) -> None:
    await call.delta(0, "x")
    await call.chat_done("y")


async def wrong_result(call: ScriptedCall) -> None:
    await call.done({"text": "x"})


async def failure(call: ScriptedCall) -> None:
    await call.error(QueueFull("full"))


@pytest.mark.parametrize(
    ("handler", "told"),
    [
        (unknown_frame, "frames.json"),
        (incomplete_frame, "frames.json"),
        (accepted_twice, "accepted 2 times"),
        (gap, "missing"),
        (other_answer, "do not make the answer"),
        (wrong_result, "llm.chat.result.json"),
        (failure, "queue.full"),
    ],
)
async def test_the_client_sees_every_deviation_from_the_contract(
    node_client: NodeClient, bus: NatsServer, kernel: ScriptedKernel, handler: Handler, told: str
) -> None:
    kernel.handlers["llm.chat"] = handler
    result = await chat(node_client, bus)
    assert result.status == 1
    assert told in result.output["error"]


async def test_a_bus_without_a_kernel_is_a_failure(node_client: NodeClient, bus: NatsServer) -> None:
    result = await chat(node_client, bus)
    assert result.status == 1
    assert "nobody answers" in result.output["error"]
