"""The worker on the bus: obeys the scheduler's commands, says that it lives, keeps an eye on its engine."""

import asyncio
import secrets
from contextlib import suppress
from dataclasses import replace
from typing import Literal

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.kv import KeyValue

from aios_kit import replies
from aios_kit.lane import Lane
from aios_kit.service import Service
from aios_kit.streams import ensure_bucket, ensure_stream, results_bucket
from aios_kit.tasks import end
from aios_llm.adapters.jetstream_checkpoints import KvCheckpoints, checkpoints_bucket
from aios_llm.adapters.jetstream_kv import JetStreamKv, pieces_stream
from aios_llm.checkpoints import Checkpoints
from aios_llm.coalescing import Coalescer
from aios_llm.context_source import ContextSource
from aios_llm.endings import Endings
from aios_llm.engines import make_engine, renamed
from aios_llm.kv_trails import Allowance, KvTrails
from aios_llm.logprobs import Scores
from aios_llm.ports import Engine, EngineInfo, KvStore
from aios_llm.resuming import Resumer
from aios_llm.run import Run
from aios_llm.runner import DRAINING, Runner
from aios_llm.settings import WorkerSettings
from aios_llm.stop_sequences import StopFilter
from aios_llm.tokenising import Tokenising
from aios_llm.tool_calls import offers_tools
from aios_proto import headers as wire
from aios_proto import subjects
from aios_proto.decode import decode
from aios_proto.errors import AiosError, BusUnavailable, SyscallUnknown
from aios_proto.kernel import (
    WORKER_INTERVAL_S,
    AttachCommand,
    CallEnded,
    CallResult,
    CallReturned,
    CancelCommand,
    PreemptCommand,
    WorkerBye,
    WorkerHello,
)
from aios_proto.messages.llm import ChatRequest, CompleteRequest

_REQUESTS: dict[str, type[ChatRequest | CompleteRequest]] = {"chat": ChatRequest, "complete": CompleteRequest}


class WorkerService:
    """Wires a runner to the bus."""

    def __init__(self, settings: WorkerSettings, engine: Engine | None = None) -> None:
        self.settings = settings
        self.service = Service("llm", settings)
        self.engine = engine or make_engine(settings)
        self.runs: dict[str, Run] = {}
        self._runner: Runner | None = None
        self._checkpoints: Checkpoints | None = None
        self._trails: KvTrails | None = None
        self._fence = 0
        self._endings = Endings()
        self._incarnation = secrets.token_hex(8)
        self._info: EngineInfo | None = None
        self._healthy = False
        self._results: KeyValue | None = None
        self._background: list[asyncio.Task[None]] = []
        self._commands: Lane | None = None
        self._draining = False
        self._look = asyncio.Event()
        self._tokenising = Tokenising(self.service, self.engine)
        self.service.on_start(self._start)
        self.service.on_reconnect(self._open_kv)
        self.service.on_drain(self._drain)
        self.service.on_stop(self._stop)
        self.service.ready_when(self._not_ready)

    async def _start(self) -> None:
        pool, name = self.settings.pool, self.settings.worker_name
        self._results = await ensure_bucket(self.service.js, results_bucket(self.settings.jetstream_replicas))
        await self._open_checkpoints()
        # Outlives the service's own subscriptions: while the last calls end they can still be cancelled, and what the
        # scheduler sends before it hears of the drain goes back.
        self._commands = Lane(self.service.nc, self.service.log)
        await self._commands.subscribe(f"aios.k.llm.{pool}.{name}.*", self._on_command)
        self._background = [
            asyncio.create_task(self._watch_engine(), name="watch engine"),
            asyncio.create_task(self._say_hello(), name="say hello"),
        ]

    async def _open_checkpoints(self) -> None:
        settings, service = self.settings, self.service
        bucket = await ensure_bucket(service.js, checkpoints_bucket(settings.jetstream_replicas))
        store = KvCheckpoints(bucket, settings.request_timeout_s, service.log)
        self._trails = KvTrails(
            self.engine,
            lambda: self._info is not None and self._info.kv_pieces,
            await self._kv_store(),
            Allowance(settings.llm_kv_save_bytes_per_s, asyncio.get_running_loop().time),
            0.8 * settings.llm_checkpoint_interval_s,
            service.log,
        )
        self._checkpoints = Checkpoints(
            store, settings.llm_checkpoint_tokens, settings.llm_checkpoint_interval_s, service.log, self._trails
        )
        self._checkpoints.start()
        self._runner = Runner(
            self.engine,
            settings,
            service.tracing,
            self._report_end,
            self._keep_result,
            self._checkpoints,
            Resumer(self.engine, self._trails, service.log),
            ContextSource(service.kernel_calls, settings.llm_default_max_tokens, settings.llm_context_timeout_s),
            service.log,
        )

    async def _kv_store(self) -> KvStore | None:
        settings, service = self.settings, self.service
        if not settings.llm_kv_save_bytes_per_s:
            return None
        await self._open_kv()
        return JetStreamKv(service.nc, service.js, settings.request_timeout_s, service.log)

    async def _open_kv(self) -> None:
        """Sees to the stream of KV, in the background: no call waits for what only saves work."""
        if self.settings.llm_kv_save_bytes_per_s:
            await self.service.tasks.start(self._make_kv_stream(), "make the stream of KV")

    async def _make_kv_stream(self) -> None:
        """Makes it where there is none: it is in the bus' memory, and gone with it."""
        try:
            await ensure_stream(self.service.js, pieces_stream())
        except (BusUnavailable, NatsError) as error:
            self.service.log.warning("KV of running calls is not stored", error=str(error))

    async def _drain(self) -> None:
        """Lets running calls end; those that cannot within the drain time go back to the scheduler."""
        self._draining = True
        await self._hello()
        tasks = [run.task for run in self.runs.values() if run.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=self.settings.drain_timeout_s * 0.8)
        for run in list(self.runs.values()):
            run.cancel(DRAINING)
        if left := [run.task for run in self.runs.values() if run.task is not None]:
            await asyncio.wait(left, timeout=2)
        if self._checkpoints is not None:
            await self._checkpoints.stop(timeout_s=1)
        if self._trails is not None:
            await self._trails.stop(timeout_s=1)

    async def _stop(self) -> None:
        if self._commands is not None:
            await self._commands.drain()
        await end(*self._background)
        bye = WorkerBye(pool=self.settings.pool, worker=self.settings.worker_name, incarnation=self._incarnation)
        await self._report(bye)
        await self.engine.close()

    def _not_ready(self) -> str | None:
        return None if self._healthy else "the engine is not ready"

    # Commands

    async def _on_command(self, message: Msg) -> None:
        """All commands come over one subscription: a `cancel` or `attach` must not overtake the `run` it is about."""
        if not self._is_obeyed(message):
            return
        match message.subject.rsplit(".", 1)[-1]:
            case "run":
                await self._on_run(message)
            case "cancel":
                self._on_cancel(CancelCommand.model_validate_json(message.data))
            case "preempt":
                self._on_preempt(PreemptCommand.model_validate_json(message.data))
            case "attach":
                await self._on_attach(AttachCommand.model_validate_json(message.data))
            case "probe":
                return  # it asks whether anybody listens, and the bus has answered that
            case other:
                self.service.log.warning("a command is not known", command=other)

    def _is_obeyed(self, message: Msg) -> bool:
        """Whether the sender is the newest scheduler heard of: one that was replaced must not go on deciding."""
        fence = int((message.headers or {}).get(wire.FENCE, 0))
        if 0 < fence < self._fence:
            self.service.log.warning("a command of a replaced scheduler was ignored", subject=message.subject)
            return False
        self._fence = max(self._fence, fence)
        return True

    async def _on_run(self, message: Msg) -> None:
        headers = wire.from_kernel(message.headers)
        if (message.headers or {}).get(wire.INCARNATION, self._incarnation) != self._incarnation:
            self.service.log.info("a call for the process before this one was left out", syscall_id=headers.id)
            return
        if (known := self.runs.get(headers.key)) is not None:
            # The scheduler had lost sight of it: it goes on, as the run that was asked for now.
            known.headers = replace(known.headers, attempt=headers.attempt)
            await known.attach(headers.reply, 0)
            return
        if (frame := self._endings.get(headers.key)) is not None:
            await self.service.lane.reply(headers.reply, frame)
            await self._report(self._ended_before(headers))
            return
        info = self._info
        if self._draining:
            await self._report_return(headers, "draining", "the worker is being stopped")
            return
        if info is None or not self._healthy or self._runner is None:
            await self._report_return(headers, "unavailable", "the engine is not ready")
            return
        try:
            call = decode(_REQUESTS[headers.operation], message.data)
        except AiosError as error:
            await self.service.lane.reply(headers.reply, replies.failed(headers.id, error))
            await self._report(self._ended_before(headers))
            return
        tools = isinstance(call, ChatRequest) and offers_tools(call)
        stop = () if tools else tuple(call.stop)  # a turn that may be a call of a tool is a document, whole or nothing
        run = Run(
            headers=headers,
            streaming=call.stream and not tools,
            send=self.service.lane.reply,
            coalescer=Coalescer(self.settings.llm_delta_interval_s, self.settings.llm_delta_tokens),
            stop_filter=StopFilter(stop),
            listeners=[headers.reply],
            scores=Scores(stop, call.top_logprobs or 0) if call.logprobs else None,
        )
        self.runs[headers.key] = run
        self.service.metrics.in_flight.inc()
        run.task = asyncio.create_task(self._run(self._runner, run, call, info), name="run")

    async def _run(self, runner: Runner, run: Run, call: ChatRequest | CompleteRequest, info: EngineInfo) -> None:
        try:
            await runner.run(run, call, info)
        finally:
            if self.runs.get(run.headers.key) is run:
                del self.runs[run.headers.key]
            self.service.metrics.in_flight.dec()

    def _on_cancel(self, command: CancelCommand) -> None:
        run = self.runs.get(command.key)
        if run is not None:
            run.cancel(command.reason)

    def _on_preempt(self, command: PreemptCommand) -> None:
        run = self.runs.get(command.key)
        if run is not None:
            run.preempt()

    async def _on_attach(self, command: AttachCommand) -> None:
        run, frame = self.runs.get(command.key), self._endings.get(command.key)
        if run is not None:
            await run.attach(command.reply, command.text_offset)
        elif frame is not None:
            await self.service.lane.reply(command.reply, frame)
        else:
            error = SyscallUnknown("this worker does not know the call any more", field="id")
            await self.service.lane.reply(command.reply, replies.failed(command.key.rsplit(".", 1)[-1], error))

    # Reports

    async def _report(self, report: WorkerHello | WorkerBye | CallResult | CallEnded | CallReturned) -> None:
        subject = subjects.worker_report(self.settings.pool, self.settings.worker_name)
        try:
            await self.service.lane.publish(subject, report.model_dump_json(exclude_none=True).encode())
        except NatsError as error:
            # The scheduler learns it from the next heartbeat: a call that is not listed there has ended or was lost.
            self.service.log.warning("a report was lost", report=report.type, error=str(error))

    async def _report_end(self, report: CallResult | CallEnded | CallReturned) -> None:
        if isinstance(report, CallResult):
            await self._report(report)
            return
        operation = "llm.run"
        outcome = "returned" if isinstance(report, CallReturned) else report.code or "ok"
        self.service.metrics.calls.labels(operation, outcome).inc()
        self.runs.pop(report.key, None)
        await self._report(report)
        if isinstance(report, CallReturned) and report.reason in ("unavailable", "failed"):
            self._look.set()

    async def _report_return(
        self, headers: wire.CallHeaders, reason: Literal["draining", "unavailable"], message: str
    ) -> None:
        await self._report(
            CallReturned(
                pool=self.settings.pool,
                worker=self.settings.worker_name,
                key=headers.key,
                attempt=headers.attempt,
                reason=reason,
                message=message,
            )
        )

    def _ended_before(self, headers: wire.CallHeaders) -> CallEnded:
        return CallEnded(
            pool=self.settings.pool,
            worker=self.settings.worker_name,
            key=headers.key,
            attempt=headers.attempt,
            outcome="done",
        )

    async def _keep_result(self, run: Run, frame: bytes) -> None:
        self._endings.keep(run.headers.key, frame)
        if run.headers.durability != "durable" or self._results is None:
            return
        try:
            await asyncio.wait_for(self._results.put(run.headers.key, frame), self.settings.request_timeout_s)
        except (NatsError, TimeoutError) as error:
            # The caller still gets its answer; only a second asking after a crash would run the call again.
            self.service.log.warning("a result could not be kept", syscall_id=run.headers.id, error=str(error))

    # Heartbeats

    async def _say_hello(self) -> None:
        while True:
            await self._hello()
            await asyncio.sleep(WORKER_INTERVAL_S)

    async def _hello(self) -> None:
        info = self._info
        if info is None:
            return
        await self._report(
            WorkerHello(
                pool=self.settings.pool,
                worker=self.settings.worker_name,
                incarnation=self._incarnation,
                model=info.model,
                engine=info.version,
                in_flight_limit=self.settings.llm_in_flight or info.concurrency,
                max_input_tokens=info.max_input_tokens,
                max_total_tokens=info.max_total_tokens,
                kv_tokens=info.kv_tokens,
                can_preempt=info.resumes != "no",
                engine_id=self.settings.engine_id or info.id,
                ready=self._healthy and not self._draining,
                running={key: run.transcript.tokens for key, run in self.runs.items()},
            )
        )

    async def _watch_engine(self) -> None:
        """Asks the engine how it is: HTTP has no way to be told. At once after a call that it failed."""
        while True:
            self._look.clear()
            await self._look_at_engine()
            with suppress(TimeoutError):
                async with asyncio.timeout(self.settings.llm_engine_check_s):  # `wait_for` can swallow a cancellation
                    await self._look.wait()

    async def _look_at_engine(self) -> None:
        was_healthy = self._healthy
        healthy = await self.engine.healthy()
        if healthy and not was_healthy:
            try:
                said = await self.engine.info()
            except AiosError as error:
                self.service.log.warning("the engine says it is healthy but not what it serves", error=str(error))
                return
            self._info = said if self.settings.model is None else renamed(said, self.settings.model)
            await self._tokenising.offer(self._info)
            self.service.log.info("engine ready", model=self._info.model, engine=self._info.version)
        elif was_healthy and not healthy:
            self.service.log.warning("engine lost")
        self._healthy = healthy
        if healthy != was_healthy:
            await self._hello()
