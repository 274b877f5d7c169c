"""The supervisor with real child processes: it brings back the dead, gives up the hopeless, leaves nothing behind."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import nats
import psutil
import pytest

from aios_stack.data_folder import StackState
from aios_stack.leftovers import end_leftovers, find_process
from aios_stack.nats_config import render_open
from aios_stack.ports import choose_ports
from aios_stack.stack import process_states
from aios_stack.supervision import ProcessPlan, RestartPolicy, State
from aios_stack.supervisor import Supervisor
from aios_stack.topology import ProcessSpec, nats_server


class Watch:
    """Wakes a test when the supervisor reports what it waits for."""

    def __init__(self) -> None:
        self.changed = asyncio.Condition()

    async def report(self, _: Supervisor) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def until(self, check: Callable[[], bool]) -> None:
        async with self.changed:
            await asyncio.wait_for(self.changed.wait_for(check), 15)


def nats_spec(tmp_path: Path) -> ProcessSpec:
    ports = choose_ports(["client", "monitor"], {})
    config = tmp_path / "server.conf"
    text = render_open("test", tmp_path / "jetstream", tmp_path)
    config.write_text(
        text.replace("port: -1", f"port: {ports['client']}").replace("127.0.0.1:-1", f"127.0.0.1:{ports['monitor']}")
    )
    return ProcessSpec(
        ProcessPlan("nats"),
        (nats_server(), "-c", str(config)),
        dict(os.environ),
        f"http://127.0.0.1:{ports['monitor']}/healthz",
        ports,
    )


def script_spec(name: str, code: str, plan: ProcessPlan | None = None) -> ProcessSpec:
    return ProcessSpec(
        plan or ProcessPlan(name), (sys.executable, "-c", code), dict(os.environ), "http://127.0.0.1:9/none", {}
    )


@contextlib.asynccontextmanager
async def supervised(specs: list[ProcessSpec], tmp_path: Path) -> AsyncIterator[tuple[Supervisor, Watch]]:
    watch = Watch()
    supervisor = Supervisor(specs, lambda name: tmp_path / "logs" / f"{name}.log", watch.report)
    task = asyncio.create_task(supervisor.run())
    try:
        yield supervisor, watch
    finally:
        supervisor.stop()
        await asyncio.wait_for(task, 15)


async def test_a_killed_server_comes_back_on_its_port_with_its_data(tmp_path: Path) -> None:
    spec = nats_spec(tmp_path)
    url = f"nats://127.0.0.1:{spec.ports['client']}"
    async with supervised([spec], tmp_path) as (supervisor, watch):
        await watch.until(lambda: supervisor.core.all_ready)
        first = supervisor.running["nats"].pid
        assert first is not None
        async with await nats.connect(url) as client:
            await client.jetstream().add_stream(name="KEPT", subjects=["kept"])
        os.kill(first, signal.SIGKILL)
        await watch.until(lambda: supervisor.core.status["nats"].restarts == 1 and supervisor.core.all_ready)
        assert supervisor.running["nats"].pid != first
        assert supervisor.core.status["nats"].last_exit == -signal.SIGKILL
        async with await nats.connect(url) as client:
            assert (await client.jetstream().stream_info("KEPT")).config.name == "KEPT"
        second = supervisor.running["nats"].pid
        assert second is not None
    assert not psutil.pid_exists(second)


async def test_a_process_that_cannot_start_is_given_up_and_the_others_are_ended(tmp_path: Path) -> None:
    plan = ProcessPlan("broken", restart=RestartPolicy(first_pause_s=0.01, attempts=3))
    watch = Watch()
    broken = script_spec("broken", "import sys; sys.exit('no such model')", plan)
    supervisor = Supervisor([nats_spec(tmp_path), broken], lambda name: tmp_path / f"{name}.log", watch.report)
    assert await asyncio.wait_for(supervisor.run(), 15) is False
    assert supervisor.core.failed == ["broken"]
    assert supervisor.core.status["nats"].state is State.STOPPED
    assert (tmp_path / "broken.log").read_text().count("no such model") == 3


async def test_a_program_that_does_not_exist_is_reported_in_its_log(tmp_path: Path) -> None:
    plan = ProcessPlan("ghost", restart=RestartPolicy(attempts=1))
    spec = ProcessSpec(plan, ("/no/such/program",), {}, "http://127.0.0.1:9/none", {})
    supervisor = Supervisor([spec], lambda name: tmp_path / f"{name}.log", Watch().report)
    assert await asyncio.wait_for(supervisor.run(), 15) is False
    assert "cannot start /no/such/program" in (tmp_path / "ghost.log").read_text()


async def test_a_process_that_ignores_sigterm_is_killed_with_its_children(tmp_path: Path) -> None:
    code = (
        "import os, signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(tmp_path / 'child')!r}, 'w').write(f'{{child.pid}}\\n')\n"
        "time.sleep(600)\n"
    )
    async with supervised([script_spec("stubborn", code, ProcessPlan("stubborn", stop_timeout_s=0.2))], tmp_path) as (
        supervisor,
        _,
    ):
        child = int(await asyncio.to_thread(wait_for_line, tmp_path / "child"))
    assert supervisor.core.status["stubborn"].last_exit == -signal.SIGKILL
    gone, alive = psutil.wait_procs([psutil.Process(child)] if psutil.pid_exists(child) else [], timeout=5)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE], gone


async def test_what_a_killed_supervisor_left_behind_is_found_and_ended(tmp_path: Path) -> None:
    async with supervised([nats_spec(tmp_path)], tmp_path) as (supervisor, watch):
        await watch.until(lambda: supervisor.core.all_ready)
        state = StackState(
            supervisor_pid=os.getpid(),
            started_s=0,
            url="nats://127.0.0.1:1",
            monitoring_url="http://127.0.0.1:1",
            otlp_endpoint="http://127.0.0.1:1",
            processes=process_states(supervisor),
        )
        (row,) = state.processes
        assert find_process(row) is not None
        stranger = row.model_copy(update={"created_s": 1.0})
        assert find_process(stranger) is None, "another process that has the pid now must not be touched"
        supervisor.core.stopping = True  # as if it were gone: it must not bring the process back
        assert await asyncio.to_thread(end_leftovers, state) == ["nats"]
        assert await asyncio.to_thread(end_leftovers, state) == []


def wait_for_line(path: Path) -> str:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if path.exists() and (text := path.read_text()).endswith("\n"):
            return text
        time.sleep(0.01)
    pytest.fail(f"{path} was not written")
