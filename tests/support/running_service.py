"""A kernel service running for a test: as a process of its own, or inside the test on its loop."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from support.nats_server import NatsServer

from aios_kit.service import Service
from aios_proto.permissions import Role

START_TIMEOUT_S = 20.0
_LOOK_AGAIN_S = 0.02
TESTS = Path(__file__).resolve().parents[1]

LogLine = dict[str, Any]


class Probe:
    """Looks at `/healthz`, `/readyz` and `/metrics` of a service."""

    def __init__(self) -> None:
        self.http_port = 0

    async def get(self, path: str) -> tuple[int, str]:
        """Status and text of one page."""
        timeout = aiohttp.ClientTimeout(total=5)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"http://127.0.0.1:{self.http_port}{path}") as response,
        ):
            return response.status, await response.text()

    async def readiness(self) -> tuple[int, str | None]:
        """Status of `/readyz` and the reason it gives."""
        status, text = await self.get("/readyz")
        return status, orjson.loads(text).get("reason")

    async def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Returns when `/readyz` is 200."""
        await self.wait_readiness(200, timeout_s)

    async def wait_readiness(self, status: int, timeout_s: float = START_TIMEOUT_S) -> str | None:
        """Looks at `/readyz` until it has this status; returns the reason it gives."""
        last: object = "no answer"
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    if self.http_port:
                        last = seen, reason = await self.readiness()
                        if seen == status:
                            return reason
                    await asyncio.sleep(_LOOK_AGAIN_S)
        except TimeoutError:
            raise AssertionError(f"/readyz was not {status} within {timeout_s} s, but {last}") from None


class ServiceProcess(Probe):
    """A service as its own process.

    Attributes:
        log: the structured lines it has logged so far; lines that are no JSON stand under `raw`.
    """

    def __init__(self, process: asyncio.subprocess.Process, name: str) -> None:
        super().__init__()
        self.name = name
        self.log: list[LogLine] = []
        self._process = process
        self._news = asyncio.Condition()
        self._reader = asyncio.create_task(self._read(), name=f"log of {name}")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    def events(self) -> list[str]:
        """What it has logged, by event only."""
        return [str(line.get("event", line.get("raw"))) for line in self.log]

    async def logged(self, event: str, times: int = 1, timeout_s: float = START_TIMEOUT_S) -> LogLine:
        """Waits until it has logged this event so often; returns the line."""

        def found() -> list[LogLine]:
            return [line for line in self.log if line.get("event") == event]

        try:
            async with asyncio.timeout(timeout_s), self._news:
                await self._news.wait_for(lambda: len(found()) >= times or self._reader.done())
        except TimeoutError:
            pass
        assert len(found()) >= times, f"{self.name} did not log {event!r} {times} times, but:\n{self.text()}"
        return found()[times - 1]

    def text(self) -> str:
        """The log for a human."""
        return "\n".join(line.get("raw") or orjson.dumps(line).decode() for line in self.log)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal."""
        self._process.send_signal(number)

    async def stop(self, timeout_s: float = START_TIMEOUT_S) -> int:
        """Asks it to end (SIGTERM) and returns its exit status."""
        if self._process.returncode is None:
            self._process.terminate()
        return await self.wait(timeout_s)

    async def kill(self) -> None:
        """Ends it as a crash would (SIGKILL)."""
        if self._process.returncode is None:
            self._process.kill()
        await self.wait(10)

    async def wait(self, timeout_s: float = START_TIMEOUT_S) -> int:
        """Waits until it has ended and all of its log is read."""
        try:
            status = await asyncio.wait_for(self._process.wait(), timeout_s)
        except TimeoutError:
            raise AssertionError(f"{self.name} did not end within {timeout_s} s:\n{self.text()}") from None
        await asyncio.wait_for(self._reader, timeout_s)
        return status

    async def _read(self) -> None:
        assert self._process.stderr is not None
        async for raw in self._process.stderr:
            try:
                line: LogLine = orjson.loads(raw)
            except orjson.JSONDecodeError:
                line = {"raw": raw.decode(errors="replace").rstrip()}
            self.http_port = line.get("http_port", self.http_port)
            async with self._news:
                self.log.append(line)
                self._news.notify_all()
        async with self._news:
            self._news.notify_all()


@contextlib.asynccontextmanager
async def running_process(
    module: str,
    server: NatsServer,
    role: Role | None = None,
    env: Mapping[str, str] | None = None,
    *,
    instance: str | None = None,
    wait_ready: bool = True,
) -> AsyncIterator[ServiceProcess]:
    """Runs `python -m <module>` against a server until the block ends.

    Args:
        module: `aios_access`, or a module of `tests/`.
        server: the bus.
        role: whose nkey it uses on a provisioned server; None on an open one.
        env: further environment variables, such as `AIOS_ACCESS_ISSUER_FILE`.
        instance: name of the replica.
        wait_ready: whether to wait for `/readyz` first.
    """
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("AIOS_", "OTEL_"))}
    paths = [str(TESTS), *filter(None, [variables.get("PYTHONPATH")])]
    variables |= {
        "PYTHONPATH": os.pathsep.join(paths),
        "AIOS_NATS_URL": server.url,
        "AIOS_INSTANCE": instance or module.rsplit(".", 1)[-1].replace("aios_", ""),
        "AIOS_HTTP_PORT": "0",
    }
    if role is not None:
        variables["AIOS_NATS_NKEY_FILE"] = str(server.seed_file(role))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        env=variables | dict(env or {}),
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        limit=1 << 20,
    )
    service = ServiceProcess(process, module)
    try:
        if wait_ready:
            try:
                await service.logged("ready")
            except AssertionError as error:
                raise AssertionError(f"{module} did not become ready:\n{service.text()}") from error
            await service.wait_ready()
        yield service
    finally:
        await service.kill()


def access_env(server: NatsServer) -> dict[str, str]:
    """What access needs of a provisioned server beside its nkey."""
    credentials = server.credentials
    assert credentials is not None, "an open server has no auth callout"
    return {
        "AIOS_ACCESS_ISSUER_FILE": str(credentials.issuer_seed),
        "AIOS_ACCESS_XKEY_FILE": str(credentials.xkey_seed),
        "AIOS_ACCESS_BOOTSTRAP_FILE": str(credentials.bootstrap_agents),
    }


class InProcess(Probe):
    """A service on the test's own loop."""

    def __init__(self, service: Service) -> None:
        super().__init__()
        self.service = service
        self._task = asyncio.create_task(service.run(), name=f"service {service.role}")

    @property
    def ended(self) -> bool:
        return self._task.done()

    async def wait_bound(self) -> None:
        """Returns when the probes can be asked."""
        async with asyncio.timeout(START_TIMEOUT_S):
            while not self.service.http_port:
                assert not self._task.done(), self._task
                await asyncio.sleep(_LOOK_AGAIN_S)
        self.http_port = self.service.http_port

    async def stop(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Does what SIGTERM does and waits for the end.

        Raises:
            AiosError: what `Service.run` raised.
        """
        self.service.stop()
        await self.wait(timeout_s)

    async def wait(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Waits until it has ended by itself; raises what it raised."""
        await asyncio.wait_for(asyncio.shield(self._task), timeout_s)

    async def cancel(self) -> None:
        """Ends it at once."""
        if not self._task.done():
            self._task.cancel()
        await asyncio.wait((self._task,))


@contextlib.asynccontextmanager
async def running_in_process(service: Service, *, wait_ready: bool = True) -> AsyncIterator[InProcess]:
    """Runs a service on the test's loop until the block ends."""
    running = InProcess(service)
    try:
        await running.wait_bound()
        if wait_ready:
            await running.wait_ready()
        yield running
        if not running.ended:
            await running.stop()
    finally:
        await running.cancel()
