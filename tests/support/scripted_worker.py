"""A worker's side of the wire, done by hand: what the scheduler gives it, and what it reports."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from support.nats_server import settle

from aios_kit import replies
from aios_proto import headers as wire
from aios_proto import subjects
from aios_proto.kernel import CallEnded, CallResult, CallReturned, WorkerBye, WorkerHello

TIMEOUT_S = 10.0
StartWorker = Callable[..., Awaitable["ScriptedWorker"]]
Reason = Literal["overloaded", "unavailable", "draining", "failed"]


@dataclass(frozen=True)
class Given:
    """One `run` command."""

    headers: wire.CallHeaders
    body: dict[str, Any]
    incarnation: str


class ScriptedWorker:
    """Beats like a worker, keeps what it is given in `given`, and ends it when the test says so."""

    def __init__(
        self,
        nc: Client,
        name: str = "w1",
        *,
        limit: int = 1,
        model: str = "llama",
        incarnation: str = "a",
        pool: str = "default",
    ):
        self.nc = nc
        self.pool = pool
        self.name = name
        self.limit = limit
        self.model = model
        self.incarnation = incarnation
        self.ready = True
        self.running: dict[str, int] = {}
        self.given: list[Given] = []
        self.cancelled: list[str] = []
        self.attached: list[dict[str, Any]] = []
        self._news = asyncio.Condition()
        self._beating: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listens and beats."""
        await self.nc.subscribe(f"aios.k.llm.{self.pool}.{self.name}.*", cb=self._on_command)
        await settle(self.nc)
        self._beating = asyncio.create_task(self._beat())

    async def stop(self) -> None:
        """Falls silent, as a crash would."""
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.wait((self._beating,))
            self._beating = None

    async def hello(self) -> None:
        """One heartbeat."""
        await self._report(
            WorkerHello(
                pool=self.pool,
                worker=self.name,
                incarnation=self.incarnation,
                model=self.model,
                engine="scripted",
                in_flight_limit=self.limit,
                max_input_tokens=100,
                max_total_tokens=200,
                ready=self.ready,
                running=self.running,
            )
        )

    async def goodbye(self) -> None:
        """Says that it stops, and stops."""
        await self.stop()
        await self._report(WorkerBye(pool=self.pool, worker=self.name, incarnation=self.incarnation))

    async def run(self, number: int = 0) -> Given:
        """Waits for the `run` of that number."""
        try:
            async with asyncio.timeout(TIMEOUT_S), self._news:
                await self._news.wait_for(lambda: len(self.given) > number)
        except TimeoutError:
            raise AssertionError(f"{self.name} was given {len(self.given)} calls, not {number + 1}") from None
        return self.given[number]

    async def wait(self, kept: list[Any], count: int = 1) -> None:
        """Waits until `cancelled` or `attached` has so many entries."""
        async with asyncio.timeout(TIMEOUT_S), self._news:
            await self._news.wait_for(lambda: len(kept) >= count)

    async def done(self, given: Given, *, store: bool = True, answer: bool = True, report: bool = True) -> None:
        """Ends a call as a worker does, but for the steps left out."""
        headers = given.headers
        frame = replies.done(headers.id, {"text": f"by {self.name}", "finish_reason": "stop", "model": self.model})
        if answer:
            await self.nc.publish(headers.reply, frame)
        if store and headers.durability == "durable":
            await (await self.nc.jetstream().key_value(subjects.RESULTS_BUCKET)).put(headers.key, frame)
        self.running.pop(headers.key, None)
        if report:
            await self._report(
                CallEnded(pool=self.pool, worker=self.name, key=headers.key, attempt=headers.attempt, outcome="done")
            )

    async def tell(self, given: Given) -> None:
        """Tells the caller and the scheduler the result, and has not stored it yet."""
        headers = given.headers
        frame = replies.done(headers.id, {"text": f"by {self.name}", "finish_reason": "stop", "model": self.model})
        await self.nc.publish(headers.reply, frame)
        await self._report(CallResult(pool=self.pool, worker=self.name, key=headers.key, frame=frame.decode()))

    async def give_back(self, given: Given, reason: Reason, retry_after_s: float = 0) -> None:
        """Returns a call."""
        self.running.pop(given.headers.key, None)
        await self._report(
            CallReturned(
                pool=self.pool,
                worker=self.name,
                key=given.headers.key,
                attempt=given.headers.attempt,
                reason=reason,
                message="told so",
                retry_after_s=retry_after_s,
            )
        )

    async def _beat(self) -> None:
        while True:
            await self.hello()
            await asyncio.sleep(0.2)

    async def _report(self, report: WorkerHello | WorkerBye | CallResult | CallEnded | CallReturned) -> None:
        await self.nc.publish(subjects.worker_report(self.pool, self.name), report.model_dump_json().encode())

    async def _on_command(self, message: Msg) -> None:
        async with self._news:
            match message.subject.rsplit(".", 1)[-1]:
                case "run":
                    headers = wire.from_kernel(message.headers)
                    incarnation = (message.headers or {})[wire.INCARNATION]
                    self.given.append(Given(headers, orjson.loads(message.data), incarnation))
                    self.running[headers.key] = 0
                case "cancel":
                    self.cancelled.append(orjson.loads(message.data)["key"])
                case "attach":
                    self.attached.append(orjson.loads(message.data))
            self._news.notify_all()
