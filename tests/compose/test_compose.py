"""docker-compose.yml with our images: it comes up healthy, answers a client, keeps secrets apart, survives a node."""

import json
import ssl
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nats
import nats.errors
import pytest
from support.compose import Compose
from support.node_client import NodeClient, installed_node_client

from aios_proto import tls

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

SERVICE_UID = "10001"
SECRETS = {
    "access": {"access.nk", "bootstrap-agents.json", "callout-issuer.nk", "callout-xkey.nk"},
    "scheduler": {"scheduler.nk"},
    "llm": {"llm.nk"},
    "tool": {"tool.nk"},
    "context": {"context.nk"},
    "memory": {"memory.nk"},
    "storage": {"storage.nk"},
}
MANAGERS = """
import asyncio, json, os, sys
from aios import Agent

async def main():
    async with Agent(token=os.environ["AIOS_TOKEN"]) as agent:
        await agent.memory.add("The blue door is locked at six.", tags=["doors"])
        found = await agent.memory.search("When is the door locked?")
        await agent.storage.write("notes/door.txt", b"locked at six")
        read = await agent.storage.read("notes/door.txt")
        context = await agent.contexts.open()
        reply = await context.chat("Say hello.", max_tokens=8)
        tools = {tool.name for tool in await agent.tools.list()}
        value = await agent.tools.call("calculator", {"expression": "23 * 19 + 4"})
        said = [found.memories[0].content, read.decode(), bool(reply.text), "calculator" in tools, value.content]
        print(json.dumps(said))

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def node_client(tls_files: dict[str, str]) -> NodeClient:
    return replace(installed_node_client(), environment=tls_files)


def chat(compose: Compose, client: NodeClient, token: str) -> dict[str, object]:
    url = f"nats://{compose.address('nats-1', 4222)}"
    result = client.run("chat.mjs", "Say hello.", "12", AIOS_URL=url, AIOS_TOKEN=token)
    assert result.status == 0, result.output
    answer: dict[str, object] = result.output
    return answer


def test_everything_comes_up_healthy(compose: Compose) -> None:
    containers = compose.containers()
    states = {row["Name"]: (row["State"], row["Health"], row["ExitCode"]) for row in containers}
    assert len([row for row in containers if row["Service"] == "access"]) == 2, states
    for row in containers:
        if row["Service"] == "provision":
            assert row["ExitCode"] == 0, states
        else:
            assert row["State"] == "running", states
            assert row["Health"] in ("healthy", ""), states  # "": the collector's image has nothing to check with


def test_a_node_client_chats_with_the_model_in_the_containers(
    compose: Compose, node_client: NodeClient, agent_token: str, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = chat(compose, node_client, agent_token)
    with capsys.disabled():
        sys.stdout.write(f"\n{json.dumps(answer)}\n")
    assert answer["text"]
    assert answer["deltas"]


async def test_with_tls_nobody_gets_in_without_a_certificate(
    compose: Compose, agent_token: str, tls_files: dict[str, str]
) -> None:
    if not tls_files:
        pytest.skip("the bus speaks no TLS: set AIOS_TLS=on")
    ca, cert, key = (Path(tls_files[name]) for name in (tls.CA, tls.CERT, tls.KEY))

    async def connect(context: ssl.SSLContext | None) -> None:
        url = f"nats://{compose.address('nats-1', 4222)}"
        client = await nats.connect(url, token=agent_token, tls=context, allow_reconnect=False, connect_timeout=10)
        await client.flush()
        await client.close()

    for context in (None, tls.client_context(ca)):
        with pytest.raises((nats.errors.Error, OSError, TimeoutError)):
            await connect(context)
    await connect(tls.client_context(ca, cert, key))


def test_every_manager_serves_an_agent(compose: Compose, agent_token: str) -> None:
    said = compose.run(
        "run", "--rm", "-T", "-e", f"AIOS_TOKEN={agent_token}", "operator", "python", "-", input=MANAGERS
    )
    assert json.loads(said) == ["The blue door is locked at six.", "locked at six", True, True, {"value": 441}]


def test_one_trace_goes_through_all_containers(compose: Compose, node_client: NodeClient, agent_token: str) -> None:
    if "jaeger" in compose.run("config", "--services").split():
        pytest.skip("reads the span store that docker-compose.offline.yml puts in the collector's place")
    answer = chat(compose, node_client, agent_token)
    tree = compose.exec("otel-collector", "aios", "trace", "--data", "/spans", "--wait", "20", str(answer["id"]))
    for service in ("access", "scheduler", "llm", "engine"):
        assert service in tree, tree


def test_a_service_can_read_its_own_secrets_only_and_is_not_root(compose: Compose, tls_files: dict[str, str]) -> None:
    certificate = {"tls-ca.pem", "tls-service.pem", "tls-service.key"} if tls_files else set()
    for service, names in SECRETS.items():
        assert set(compose.exec(service, "ls", "/run/secrets/aios").split()) == names | certificate
        assert compose.exec(service, "id", "-u").strip() == SERVICE_UID


def test_starting_again_keeps_every_secret(compose: Compose, agent_token: str) -> None:
    read = ("run", "--rm", "-T", "--no-deps", "operator", "cat", "/run/secrets/aios/operator.token")
    before = compose.run(*read)
    compose.run("run", "--rm", "-T", "--no-deps", "provision")
    assert compose.run(*read) == before


def test_calls_go_on_while_one_bus_node_is_down(compose: Compose, node_client: NodeClient, agent_token: str) -> None:
    compose.run("kill", "nats-3")
    try:
        assert chat(compose, node_client, agent_token)["text"]
    finally:
        compose.start("nats-3")


def test_a_service_that_is_stopped_leaves_by_itself(compose: Compose) -> None:
    compose.run("stop", "scheduler")
    (scheduler,) = (row for row in compose.containers() if row["Service"] == "scheduler")
    try:
        assert scheduler["ExitCode"] == 0  # 137: it did not hear SIGTERM and was killed
        assert '"event": "stopped"' in compose.run("logs", "--tail", "3", "scheduler")
    finally:
        compose.start("scheduler")


def test_an_image_holds_no_code_of_other_services(compose: Compose) -> None:
    folders = "/opt/aios/lib/python3*/site-packages /opt/service/lib/python3*/site-packages"
    listed = compose.exec("scheduler", "sh", "-c", f"ls {folders}").split()
    ours = {name for name in listed if name.startswith("aios_") and not name.endswith(".dist-info")}
    assert ours == {"aios_proto", "aios_kit", "aios_scheduler"}


def test_the_configuration_is_clean_for_both_engines(compose: Compose) -> None:
    for profile in ("cpu", "gpu"):
        finished = subprocess.run(
            ["docker", "compose", "--profile", profile, "config", "--quiet"],
            cwd=Path(__file__).resolve().parents[2],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")
