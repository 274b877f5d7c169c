"""The scheduler's side of the wire, done by hand: what a worker is told, and what it says."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from support.frame_inbox import FrameInbox

from aios_proto import headers as wire
from aios_proto import subjects
from aios_proto.ids import new_syscall_id
from aios_proto.kernel import (
    WORKER_REPORT,
    AttachCommand,
    CallEnded,
    CallResult,
    CallReturned,
    CancelCommand,
    PreemptCommand,
    WorkerBye,
    WorkerHello,
)

TIMEOUT_S = 10.0
Report = WorkerHello | WorkerBye | CallResult | CallEnded | CallReturned
R = TypeVar("R", bound=Report)


class ScriptedScheduler:
    """Commands one worker, hears its reports, and reads what its callers get.

    Attributes:
        reports: all so far, in the order they came.
        patience_s: longest wait for a report, and for the end of a call; calls get three times that.
    """

    def __init__(self, nc: Client, worker: str = "w1", pool: str = "default", *, patience_s: float = TIMEOUT_S) -> None:
        self.nc = nc
        self.worker = worker
        self.pool = pool
        self.patience_s = patience_s
        self.inbox = FrameInbox(nc, subjects.inbox_prefix("acme", "alice"))
        self.reports: list[Report] = []
        self._news = asyncio.Condition()

    async def open(self) -> None:
        """Listens."""
        await self.nc.subscribe(subjects.worker_report(self.pool, self.worker), cb=self._on_report)
        await self.inbox.open()

    async def heard(self, kind: type[R], condition: Callable[[R], bool] = lambda _: True, since: int = 0) -> R:
        """Waits for a report of that kind for which the condition holds."""

        def found() -> R | None:
            return next((r for r in self.reports[since:] if isinstance(r, kind) and condition(r)), None)

        try:
            async with asyncio.timeout(self.patience_s), self._news:
                await self._news.wait_for(lambda: found() is not None)
        except TimeoutError:
            raise AssertionError(f"no {kind.__name__} as wanted; reports: {self.reports[-5:]}") from None
        report = found()
        assert report is not None
        return report

    def headers(
        self,
        operation: str = "complete",
        *,
        call_id: str | None = None,
        durable: bool = False,
        attempt: int = 1,
        deadline_s: float | None = None,
        reply: str | None = None,
        traceparent: str | None = None,
    ) -> wire.CallHeaders:
        now_us = time.time_ns() // 1000
        return wire.CallHeaders(
            id=call_id or new_syscall_id(),
            tenant="acme",
            agent="alice",
            group="agent",
            reply=reply or self.inbox.new_subject(),
            deadline_ms=int((time.time() + (3 * self.patience_s if deadline_s is None else deadline_s)) * 1000),
            durability="durable" if durable else "volatile",
            attempt=attempt,
            operation=operation,
            traceparent=traceparent,
            times_us=(now_us, now_us, now_us),
        )

    async def run(
        self, body: dict[str, Any] | None = None, headers: wire.CallHeaders | None = None
    ) -> wire.CallHeaders:
        """Gives the worker a call."""
        headers = headers or self.headers()
        if body is None:
            body = {"prompt": "Hi"}
        await self._command("run", orjson.dumps(body), headers.to_wire())
        return headers

    async def cancel(
        self, call: wire.CallHeaders, reason: Literal["cancelled", "paused", "deadline"] = "cancelled"
    ) -> None:
        """Tells the worker to end a call."""
        await self._command("cancel", CancelCommand(key=call.key, reason=reason).model_dump_json().encode())

    async def preempt(self, call: wire.CallHeaders) -> None:
        """Tells the worker to stop a call so that it can go on later."""
        await self._command("preempt", PreemptCommand(key=call.key).model_dump_json().encode())

    async def attach(self, call: wire.CallHeaders, text_offset: int = 0) -> str:
        """Tells the worker of one more listener; returns its inbox."""
        inbox = self.inbox.new_subject()
        command = AttachCommand(key=call.key, reply=inbox, text_offset=text_offset)
        await self._command("attach", command.model_dump_json().encode())
        return inbox

    async def frames(self, call: wire.CallHeaders) -> list[dict[str, Any]]:
        """Everything the call's caller gets."""
        return await self.inbox.until_end(call.reply, self.patience_s)

    async def _command(
        self, command: subjects.WorkerCommand, body: bytes, headers: dict[str, str] | None = None
    ) -> None:
        await self.nc.publish(subjects.worker(self.pool, self.worker, command), body, headers=headers)

    async def _on_report(self, message: Msg) -> None:
        async with self._news:
            self.reports.append(WORKER_REPORT.validate_json(message.data))
            self._news.notify_all()
