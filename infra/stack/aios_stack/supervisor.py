"""Runs processes as the supervision core decides: starts them, asks whether they are ready, hears of their ends."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from io import BufferedWriter
from pathlib import Path

import aiohttp
import psutil

from aios_stack.readiness import wait_ready
from aios_stack.supervision import (
    BecameReady,
    Command,
    Event,
    Exited,
    Kill,
    Start,
    StopAsked,
    Supervision,
    Terminate,
    TimePassed,
    WakeAt,
)
from aios_stack.topology import ProcessSpec

_LARGE_LOG_BYTES = 16 << 20
_CANNOT_START = 127
"""Exit code of a program that could not be executed, as a shell reports it."""


@dataclass(slots=True)
class Running:
    """What the supervisor knows of one process beside its state.

    Attributes:
        pid: the process now running; None while there is none.
        created_s: Unix time of its start, as the operating system tells it.
        detail: what it said last on the way to readiness.
    """

    pid: int | None = None
    created_s: float | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class _Detail:
    name: str
    text: str


Report = Callable[["Supervisor"], Awaitable[None]]


@dataclass
class Supervisor:
    """A set of processes.

    Attributes:
        specs: the processes.
        log_path: the log file of a process.
        report: awaited after every change.
        core: states and decisions.
        running: pids and details, by name.
    """

    specs: Sequence[ProcessSpec]
    log_path: Callable[[str], Path]
    report: Report
    core: Supervision = field(init=False)
    running: dict[str, Running] = field(init=False)

    def __post_init__(self) -> None:
        self.core = Supervision([spec.plan for spec in self.specs])
        self.running = {spec.name: Running() for spec in self.specs}
        self._specs = {spec.name: spec for spec in self.specs}
        self._events: asyncio.Queue[Event | _Detail] = asyncio.Queue()
        self._children: dict[str, asyncio.subprocess.Process] = {}
        self._wake_at: float | None = None

    def stop(self) -> None:
        """Asks everything to end; `run` returns when it has."""
        self._events.put_nowait(StopAsked())

    async def run(self) -> bool:
        """Runs until stopped, or until a process cannot be started; then ends the others.

        Returns:
            Whether every process was ready at some time.
        """
        was_ready = False
        try:
            async with aiohttp.ClientSession(trust_env=False) as session, asyncio.TaskGroup() as group:
                commands = self.core.begin(time.monotonic())
                while True:
                    for command in commands:
                        await self._obey(command, group, session)
                    was_ready = was_ready or self.core.all_ready
                    await self.report(self)
                    if self.core.all_ended:
                        return was_ready
                    if self.core.failed and not self.core.stopping:
                        self.stop()
                    commands = await self._next()
        finally:
            self._kill_all()

    async def _next(self) -> list[Command]:
        timeout_s = None if self._wake_at is None else max(0.0, self._wake_at - time.monotonic())
        try:
            event = await asyncio.wait_for(self._events.get(), timeout_s)
        except TimeoutError:
            event = TimePassed()
        if isinstance(event, _Detail):
            self.running[event.name].detail = event.text
            return []
        if isinstance(event, Exited):
            self.running[event.name] = Running()
            self._children.pop(event.name, None)
        elif isinstance(event, BecameReady):
            self.running[event.name].detail = ""
        self._wake_at = None
        return self.core.on_event(event, time.monotonic())

    async def _obey(self, command: Command, group: asyncio.TaskGroup, session: aiohttp.ClientSession) -> None:
        match command:
            case Start(name):
                await self._start(name, group, session)
            case Terminate(name):
                self._signal(name, signal.SIGTERM)
            case Kill(name):
                self._signal(name, signal.SIGKILL)
            case WakeAt(at_s):
                self._wake_at = at_s

    async def _start(self, name: str, group: asyncio.TaskGroup, session: aiohttp.ClientSession) -> None:
        spec = self._specs[name]
        try:
            with await asyncio.to_thread(_open_log, self.log_path(name)) as log:
                # A session of its own: Ctrl-C in a terminal reaches the supervisor only, which ends things in order.
                child = await asyncio.create_subprocess_exec(
                    *spec.argv,
                    env=dict(spec.env),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        except OSError as error:
            await asyncio.to_thread(_append, self.log_path(name), f"cannot start {spec.argv[0]}: {error}\n")
            self._events.put_nowait(Exited(name, _CANNOT_START))
            return
        self._children[name] = child
        self.running[name] = Running(child.pid, _created_s(child.pid))
        group.create_task(self._live(name, child, session), name=f"process {name}")

    async def _live(self, name: str, child: asyncio.subprocess.Process, session: aiohttp.ClientSession) -> None:
        probe = asyncio.create_task(self._probe(name, session), name=f"readiness of {name}")
        try:
            code = await child.wait()
        finally:
            probe.cancel()
            await asyncio.gather(probe, return_exceptions=True)
        self._events.put_nowait(Exited(name, code))

    async def _probe(self, name: str, session: aiohttp.ClientSession) -> None:
        def on_detail(text: str) -> None:
            self._events.put_nowait(_Detail(name, text))

        await wait_ready(session, self._specs[name].ready_url, on_detail)
        self._events.put_nowait(BecameReady(name))

    def _signal(self, name: str, number: signal.Signals) -> None:
        child = self._children.get(name)
        if child is None or child.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if number is signal.SIGKILL:
                os.killpg(child.pid, number)  # what the process has started itself goes with it
            else:
                child.send_signal(number)

    def _kill_all(self) -> None:
        """The last resort of a supervisor that ends by an error: nothing may stay behind."""
        for name in list(self._children):
            self._signal(name, signal.SIGKILL)


def _created_s(pid: int) -> float | None:
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def _open_log(path: Path) -> BufferedWriter:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > _LARGE_LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
    return path.open("ab")


def _append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)
