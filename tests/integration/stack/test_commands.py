"""`aios up` and the commands around it, as a user runs them, with the bus, access and the span store."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from aios_stack.data_folder import DataFolder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

AIOS = (
    "from importlib.metadata import EntryPoint; from aios._cli import build_group; "
    "build_group([EntryPoint('stack', 'aios_stack.cli:commands', 'aios.commands')])()"
)
AGENT = """
import asyncio, json, os, sys
from aios import Agent

async def main():
    async with Agent() as agent:
        me = await agent.whoami()
        print(json.dumps({"me": [me.tenant, me.agent, me.group], "args": sys.argv[1:]}))

asyncio.run(main())
"""


@dataclass
class Cli:
    """Runs `aios` in a process of its own, as the entry point does."""

    folder: Path

    def __call__(self, *arguments: str, fails: bool = False) -> subprocess.CompletedProcess[str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("AIOS_", "OTEL_"))}
        result = subprocess.run(
            [sys.executable, "-P", "-c", AIOS, *arguments],
            env={**inherited, "AIOS_DATA": str(self.folder), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (result.returncode != 0) == fails, result.stdout + result.stderr
        return result


@pytest.fixture
def aios(tmp_path: Path) -> Iterator[Cli]:
    cli = Cli(tmp_path / "data")
    yield cli
    cli("down")


def pids(cli: Cli) -> dict[str, int]:
    state = json.loads(cli("ps", "--json").stdout)
    return {row["name"]: row["pid"] for row in state["processes"]}


def test_everything_meets_on_a_bus_that_speaks_tls(aios: Cli, tmp_path: Path) -> None:
    script = tmp_path / "reader.py"
    script.write_text(AGENT)
    assert "(TLS)" in aios("up", "--only-bus", "--tls").stderr
    assert json.loads(aios("run", str(script)).stdout)["me"] == ["default", "reader", "agent"]
    assert "reader" in aios("agent", "list").stdout
    config = (aios.folder / "nats" / "server.conf").read_text()
    assert "verify: true" in config
    state = DataFolder(aios.folder).read_state()
    assert state is not None
    certificate = state.agent_certificate
    assert certificate is not None
    # With the address and the token alone, as another program would come, nobody gets in.
    env = {"AIOS_URL": state.url, "AIOS_TOKEN": (aios.folder / "secrets" / "operator.token").read_text().strip()}
    alone = subprocess.run(
        [sys.executable, "-P", str(script)],
        env={"PATH": os.environ["PATH"], **env, "AIOS_TLS_CA": str(certificate.ca)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert alone.returncode != 0
    assert "BusUnavailable" in alone.stderr


def test_an_agent_runs_on_a_fresh_stack_and_its_call_is_shown_as_a_tree(aios: Cli, tmp_path: Path) -> None:
    script = tmp_path / "reader.py"
    script.write_text(AGENT)
    up = aios("up", "--only-bus")
    assert "AIOS is up after" in up.stderr

    ran = json.loads(aios("run", str(script), "--depth", "3").stdout)
    assert ran == {"me": ["default", "reader", "agent"], "args": ["--depth", "3"]}
    assert json.loads(aios("run", str(script)).stdout)["me"] == ["default", "reader", "agent"], (
        "its credential is reused"
    )
    assert json.loads(aios("run", "--as", "visitor", "--group", "guest", str(script)).stdout)["me"][2] == "guest"
    refused = aios("run", "--group", "operator", str(script), fails=True)
    assert "resource.conflict" in refused.stderr

    tree = aios("trace", "--last").stdout
    assert "access.whoami" in tree
    assert "aios-agent" in tree
    assert "aios-access" in tree

    table = aios("ps").stdout
    assert table.count("ready") == 3
    assert "ready" in aios("logs", "access").stdout
    assert "is up already" in aios("up", "--only-bus").stderr


def test_after_a_killed_supervisor_down_cleans_up_and_up_finds_the_same_agents(aios: Cli, tmp_path: Path) -> None:
    script = tmp_path / "reader.py"
    script.write_text(AGENT)
    aios("up", "--only-bus")
    aios("run", str(script))
    state = DataFolder(aios.folder).read_state()
    assert state is not None
    supervisor = psutil.Process(state.supervisor_pid)
    children = [psutil.Process(pid) for pid in pids(aios).values()]
    supervisor.kill()
    psutil.wait_procs([supervisor], timeout=10)
    assert "the supervisor is not running" in aios("ps").stdout
    assert "no stack is running" in aios("run", str(script), fails=True).stderr
    assert "stopped what was left behind: nats, spans, access" in aios("down").stdout
    assert not [process.pid for process in children if is_alive(process)]

    aios("up", "--only-bus")
    assert json.loads(aios("run", str(script)).stdout)["me"] == ["default", "reader", "agent"]
    children = [psutil.Process(pid) for pid in pids(aios).values()]
    assert aios("down").stdout == "stopped\n"
    assert not [process.pid for process in children if is_alive(process)]


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_a_stack_that_cannot_start_says_which_part_and_why_and_ends_the_rest(aios: Cli) -> None:
    DataFolder(aios.folder).create()
    (aios.folder / "spans.db").mkdir()
    failed = aios("up", "--only-bus", fails=True)
    assert "spans did not start" in failed.stderr
    assert "cannot open the span file" in failed.stderr
    assert not DataFolder(aios.folder).is_running()
    table = aios("ps").stdout
    assert (table.count("stopped"), table.count("failed")) == (2, 1)


def test_ctrl_c_in_the_foreground_stops_everything(aios: Cli) -> None:
    environment = {**os.environ, "AIOS_DATA": str(aios.folder), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with subprocess.Popen(
        [sys.executable, "-P", "-c", AIOS, "up", "--only-bus", "--foreground"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "AIOS is up" in line:
                break
        running = pids(aios)
        process.send_signal(signal.SIGINT)
        process.stderr.read()
        assert process.wait(30) == 0
    assert not [pid for pid in running.values() if psutil.pid_exists(pid)]
