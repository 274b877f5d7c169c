"""How a run with effects ends on disk when it is cancelled: by its caller, by the manager's own end, or too late."""

import asyncio

import orjson
import pytest
from pydantic import JsonValue

from aios_kit.logs import setup_logging
from aios_kit.settings import ServiceSettings
from aios_kit.tracing import Tracing
from aios_proto.errors import SyscallCancelled
from aios_proto.headers import CallHeaders
from aios_proto.messages.tool import ToolRecord, ToolSpec
from aios_tool.attempts import Attempts, Stop
from aios_tool.core.registry import Registry, compiled
from aios_tool.ports import Attempt, Before, Claimed, Progress
from aios_tool.settings import ToolSettings


class Claims:
    """Keeps what is written; `hold` makes writing wait."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.hold: asyncio.Event | None = None
        self.finishing = asyncio.Event()

    async def claim(self, key: str) -> Claimed | Before:
        return Claimed(1)

    async def take_over(self, key: str, revision: int) -> Claimed | None:
        raise NotImplementedError

    async def finish(self, key: str, revision: int, frame: bytes) -> None:
        self.finishing.set()
        if self.hold is not None:
            await self.hold.wait()
        self.frames.append(frame)


class Runner:
    """Answers once it may."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()

    async def run(self, attempt: Attempt, progress: Progress) -> JsonValue:
        self.begun.set()
        await self.may_end.wait()
        return "acted"


class Bench:
    """One call of a tool with effects."""

    def __init__(self) -> None:
        self.claims, self.runner, self.stop = Claims(), Runner(), Stop()
        settings, log = ToolSettings(), setup_logging("tool", ServiceSettings())
        registry = Registry()
        attempts = Attempts(settings, registry, {"agent": self.runner}, lambda: self.claims, log)
        spec = ToolSpec(name="act", input_schema={})
        record = ToolRecord(tool=spec, tenant="acme", owner="bob", source="agent", registered_ms=0)
        headers = CallHeaders("c1", tenant="acme", agent="alice", reply="_INBOX.acme.alice.0")
        hop = Tracing("tool", ServiceSettings()).hop("tool.call", None)
        self.task = asyncio.create_task(attempts.run(headers, compiled(record, 1), {}, self._progress, hop, self.stop))

    async def _progress(self, text: str) -> None: ...

    def kept(self) -> list[str]:
        return [orjson.loads(frame).get("error", {}).get("code", "done") for frame in self.claims.frames]


async def test_a_run_that_its_caller_cancels_ends_on_disk_as_cancelled() -> None:
    bench = Bench()
    await bench.runner.begun.wait()
    bench.stop.cancelled = True
    bench.task.cancel()
    with pytest.raises(SyscallCancelled, match="may have had its effect"):
        await bench.task
    assert bench.kept() == ["syscall.cancelled"]


async def test_a_run_that_the_managers_own_end_cuts_off_stays_open_on_disk() -> None:
    bench = Bench()
    await bench.runner.begun.wait()
    bench.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await bench.task
    assert bench.kept() == []


async def test_it_is_too_late_to_cancel_once_the_tool_has_answered() -> None:
    bench = Bench()
    bench.claims.hold = asyncio.Event()
    await bench.runner.begun.wait()
    before = bench.stop.settled
    bench.runner.may_end.set()
    await bench.claims.finishing.wait()
    assert (before, bench.stop.settled) == (False, True)
    bench.claims.hold.set()
    assert orjson.loads(await bench.task)["result"]["content"] == "acted"
    assert bench.kept() == ["done"]
