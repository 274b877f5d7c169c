"""The whole system as a user runs it: `aios up` with the real model, every service a process of its own."""

from collections.abc import AsyncIterator, Iterator

import pytest
from support.otlp_sink import OtlpSink
from support.stack import Stack

from aios import Agent
from aios_stack.data_folder import DataFolder

START_TIMEOUT_S = 600


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One system for all end-to-end tests; a test that kills a part waits until it is back."""
    folder = DataFolder.find(tmp_path_factory.mktemp("stack"))
    with OtlpSink() as sink:
        running = Stack(folder, sink)
        up = running.aios("up", "--workers", "2", "--forward-spans", sink.endpoint, timeout_s=START_TIMEOUT_S)
        assert up.returncode == 0, up.stderr
        try:
            yield running
        finally:
            down = running.aios("down")
            assert down.returncode == 0, down.stderr


@pytest.fixture
async def operator(stack: Stack) -> AsyncIterator[Agent]:
    async with Agent(token=stack.operator_token, url=stack.state.url) as agent:
        yield agent


@pytest.fixture(scope="session")
def agent_token(stack: Stack) -> str:
    """The credential of an ordinary agent, `default.reader` of group `agent`."""
    script = stack.folder.path / "print_token.py"
    script.write_text("import os\nprint(os.environ['AIOS_TOKEN'])\n")
    ran = stack.aios("run", "--as", "reader", str(script))
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


@pytest.fixture
async def agent(stack: Stack, agent_token: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Agent]:
    """An ordinary agent, traced."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", stack.state.otlp_endpoint)
    async with Agent(token=agent_token, url=stack.state.url) as connected:
        yield connected
