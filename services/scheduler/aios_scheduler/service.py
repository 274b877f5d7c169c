"""The scheduler on the bus: events from calls and workers go into the core, its commands go out."""

import asyncio
import math
import time

from nats.aio.msg import Msg
from pydantic import ValidationError

from aios_kit.lease import Lease
from aios_kit.service import Service
from aios_kit.streams import (
    IDEMPOTENCY_WINDOW_S,
    MAX_OPEN_CALLS,
    ensure_bucket,
    ensure_stream,
    results_bucket,
    scheduler_bucket,
    syscalls_stream,
)
from aios_kit.work_queue import WorkQueue
from aios_proto import headers as wire
from aios_proto import subjects, telemetry
from aios_proto.decode import decode
from aios_proto.errors import AiosError, InvalidRequest, SyscallUnknown, UnknownOperation
from aios_proto.kernel import WORKER_REPORT, CallResult, WorkerBye, WorkerHello
from aios_proto.messages.llm import ChatRequest, CompleteRequest, Generation
from aios_scheduler.arrivals import Arrivals
from aios_scheduler.attaching import Attaching
from aios_scheduler.configuration_store import ConfigurationStore
from aios_scheduler.core import SchedulerCore
from aios_scheduler.core.call import CallState, ModelCall
from aios_scheduler.core.commands import Command
from aios_scheduler.core.configuration import DEFAULT_POOL
from aios_scheduler.core.events import Arrived, EndKnown, Event, Tick, WorkerLeft
from aios_scheduler.ledger import End, Entry, Ledger
from aios_scheduler.management import Management
from aios_scheduler.outbox import Outbox, error_frame
from aios_scheduler.placeholders import check_placeholders, succeeded
from aios_scheduler.probing import Probing
from aios_scheduler.reports import event_of
from aios_scheduler.results import Results
from aios_scheduler.settings import SchedulerSettings

_CONSUMER = "scheduler"
_ACK_WAIT_S = 3600.0
_LOOKUP_PATIENCE_S = 30.0
_DEFAULT_DEADLINE_S = 3600.0
_FAILED_PAUSE_S = 0.1
_REQUESTS: dict[str, type[Generation]] = {"chat": ChatRequest, "complete": CompleteRequest}


class SchedulerService:
    """Wires the core to the bus. All of it runs on one event loop; the core is never entered twice at once."""

    def __init__(self, settings: SchedulerSettings) -> None:
        self.settings = settings
        self.service = Service("scheduler", settings)
        self._configurations = ConfigurationStore(
            settings.base, settings.scheduler_pools, settings.request_timeout_s, self.service.log
        )
        self.core = SchedulerCore(self._configurations.current)
        self.ledger = Ledger()
        self.outbox = Outbox(self.service, self.core, self.ledger, self._feed, settings.scheduler_decision_events)
        self._attaching = Attaching(self.service, self.core, self.ledger, self.outbox)
        self._queue: WorkQueue | None = None
        self._results: Results | None = None
        self._lease: Lease | None = None
        self._listening_since = 0.0
        self._recovered_up_to = math.inf
        self._arrivals = Arrivals(IDEMPOTENCY_WINDOW_S, complete=False, now=time.monotonic())
        self._wake = asyncio.Event()
        self._sleeping_until = math.inf
        self._timer: asyncio.Task[None] | None = None
        self._probing: Probing | None = None
        service = self.service
        service.before_start(self._stand_by)
        service.on_start(self._start)
        service.on_reconnect(self._reconnected)
        service.on_drain(self._drain)
        service.ready_when(self._not_ready)
        for operation in _REQUESTS:
            service.announce("llm", operation)
        service.announce("syscall", "attach")
        Management(
            service,
            self.core,
            self.ledger,
            self._feed,
            fence=lambda: 0 if self._lease is None else self._lease.token,
            choose=self._configurations.choose,
        )

    async def _stand_by(self) -> None:
        """Waits for the lease, and hears meanwhile who works on what: so much less must be waited for afterwards."""
        service, settings = self.service, self.settings
        bucket = await ensure_bucket(service.js, scheduler_bucket(settings.jetstream_replicas))
        await service.lane.subscribe(subjects.ALL_WORKER_REPORTS, self._on_report)
        self._listening_since = time.time()
        lease = Lease(
            bucket,
            settings.instance,
            settings.scheduler_lease_s,
            settings.request_timeout_s,
            waiting=service.stand_by,
            lost=service.stop,
            log=service.log,
        )
        await lease.acquire()
        self._lease = lease
        lease.keep()
        self.core.configure(await self._configurations.open(bucket))

    async def _start(self) -> None:
        assert self._lease is not None
        service, replicas = self.service, self.settings.jetstream_replicas
        await ensure_stream(service.js, syscalls_stream(replicas))
        bucket = await ensure_bucket(service.js, results_bucket(replicas))
        self._results = Results(bucket, self.settings.request_timeout_s, _LOOKUP_PATIENCE_S, service.log)
        unused = (await bucket.status()).values == 0
        self._arrivals = Arrivals(IDEMPOTENCY_WINDOW_S, complete=unused, now=time.monotonic())
        self.outbox.open(self._results, self._lease.token)
        self._attaching.open(self._results)
        self.core.hold_until(self._listening_since + self.settings.scheduler_listen_s)
        self._queue = WorkQueue(
            service.nc,
            service.js,
            subjects.SYSCALLS_STREAM,
            _CONSUMER,
            max_open=MAX_OPEN_CALLS,
            ack_wait_s=_ACK_WAIT_S,
            handler=self._on_durable,
            replaced=service.stop,
            log=service.log,
        )
        self._recovered_up_to = await self._queue.start()
        for operation in _REQUESTS:
            await service.lane.subscribe(subjects.kernel("llm", operation), self._on_direct, queue=service.role)
        await service.lane.subscribe(
            subjects.kernel("syscall", "attach"), self._attaching.on_attach, queue=service.role
        )
        self._timer = asyncio.create_task(self._keep_time(), name="timer")
        self._probing = Probing(service.nc, lambda worker, incarnation: self._feed(WorkerLeft(worker, incarnation)))

    async def _reconnected(self) -> None:
        if self._queue is not None:
            self._recovered_up_to = await self._queue.resume()
        await self.outbox.acknowledge_again()

    async def _drain(self) -> None:
        """Leaves at once: durable calls stay in the queue, running ones are finished by their workers."""
        if self._timer is not None:
            self._timer.cancel()
        if self._probing is not None:
            await self._probing.close()
            self._probing = None
        if self._queue is not None:
            await self._queue.stop()
        await self.outbox.close()
        stopped = SyscallUnknown("the scheduler stopped; send the call again", retryable=True)
        for call in list(self.core.calls.values()):
            waits = call.state in (CallState.QUEUED, CallState.HELD)
            if waits and not call.durable and (entry := self.ledger.open.get(call.key)) is not None:
                await self.outbox.end_with(entry, stopped)
        if self._lease is not None:
            await self._lease.release()

    def _not_ready(self) -> str | None:
        return None if any(worker.ready for worker in self.core.workers) else "no worker is ready"

    # Calls

    async def _on_durable(self, message: Msg) -> None:
        metadata = message.metadata
        recovered = metadata.sequence.stream <= self._recovered_up_to or metadata.num_delivered > 1
        headers = self._headers(message)
        if headers is None:
            await self.outbox.acknowledge(message)
        else:
            self._arrivals.add(headers.key, time.monotonic())
            await self._take(message, headers, message, recovered=recovered)

    async def _on_direct(self, message: Msg) -> None:
        """A volatile call, or a durable one that access is writing to the stream at the same time."""
        headers = self._headers(message)
        if headers is None:
            return
        durable = headers.durability == "durable"
        if not durable:
            await self._take(message, headers, None, recovered=False)
            return
        now = time.monotonic()
        known, new = self._arrivals.known(headers.key), self._arrivals.surely_new(headers.key, now)
        self._arrivals.add(headers.key, now)
        if not known:  # of a known one the stream's copy decides what to do
            await self._take(message, headers, None, recovered=not new)

    def _headers(self, message: Msg) -> wire.CallHeaders | None:
        try:
            return wire.from_kernel(message.headers)
        except InvalidRequest as error:
            self.service.log.warning("a call without a kernel's headers was dropped", error=str(error))
            return None

    async def _take(self, message: Msg, headers: wire.CallHeaders, queued: Msg | None, *, recovered: bool) -> None:
        key = headers.key
        if await self._is_known(headers, queued):
            return
        if recovered and self._results is not None:
            frame = await self._results.find_patiently(key)
            if frame is not None:
                await self.service.lane.reply(headers.reply, frame)
                if queued is not None:
                    await self.outbox.acknowledge(queued)
                return
            if await self._is_known(headers, queued):  # it may have come on the other way meanwhile
                return
        manager, operation = subjects.operation_of(message.subject) or ("", "")
        now_us = time.time_ns() // 1000
        hop = self.service.tracing.hop(
            telemetry.SPAN_QUEUE,
            headers.traceparent,
            attributes={
                telemetry.SYSCALL_ID: headers.id,
                telemetry.PROGRAM: headers.program or "",
                telemetry.PRIORITY: headers.priority,
            },
        )
        entry = Entry(headers, f"{manager}.{operation}", message.data, now_us, queued, hop)
        try:
            if manager != "llm" or operation not in _REQUESTS:
                raise UnknownOperation(f"the scheduler does not run {manager}.{operation}")
            request = decode(_REQUESTS[operation], message.data)
            check_placeholders(message.data, headers.after)
        except AiosError as error:
            durable = queued is not None or headers.durability == "durable"
            self.ledger.close(key, End(frame=error_frame(entry, error) if durable else None))
            await self.outbox.end_with(entry, error)
            return
        now = now_us / 1e6
        call = ModelCall(
            key=key,
            id=headers.id,
            tenant=headers.tenant,
            agent=headers.agent,
            program=headers.program or headers.agent,
            operation=operation,
            model=request.model,
            priority=headers.priority,
            deadline=now + _DEFAULT_DEADLINE_S if headers.deadline_ms is None else headers.deadline_ms / 1000,
            arrived=now,
            durable=queued is not None or headers.durability == "durable",
            size_bytes=len(message.data),
            pool=request.pool or DEFAULT_POOL,
            bound=request.pool is not None,
            budget_tokens=headers.budget_tokens,
            has_deadline=headers.deadline_ms is not None,
            max_tokens=request.max_tokens or 0,
            resumable=request.response_format is None,
            after=tuple(f"{headers.tenant}.{headers.agent}.{call_id}" for call_id in headers.after),
        )
        self.ledger.enter(entry)
        if call.after and (unknown := self.core.chains.unknown_ends(call)):
            await self._look_up_ends(unknown)
        self._feed(Arrived(call, recovered))

    async def _look_up_ends(self, keys: list[str]) -> None:
        """Calls that a new one waits for may have ended before this scheduler started."""
        if self._results is None:
            return
        for key in keys:
            frame = await self._results.find_patiently(key)
            if frame is not None:
                self._feed(EndKnown(key, succeeded(frame)))

    async def _is_known(self, headers: wire.CallHeaders, queued: Msg | None) -> bool:
        """Deals with a call that came before: it runs once, and answers wherever it was asked from."""
        key = headers.key
        known, end = self.ledger.open.get(key), self.ledger.end_of(key)
        if known is not None:
            if queued is None:
                self._attaching.listen(known, headers.reply, 0)
            else:
                known.queued_message = queued  # delivered again: this is the one to acknowledge now
            return True
        if end is None:
            return False
        if queued is not None:
            await self.outbox.acknowledge(queued)  # the acknowledgement before was lost
            return True
        return self.outbox.attach_to_ended(end, key, headers.reply, 0)

    # Workers

    async def _on_report(self, message: Msg) -> None:
        try:
            report = WORKER_REPORT.validate_json(message.data)
        except ValidationError as error:
            self.service.log.warning("a worker's report could not be read", error=str(error))
            return
        if self._probing is not None:
            if isinstance(report, WorkerHello):
                self._probing.heard((report.pool, report.worker), report.incarnation)
            elif isinstance(report, WorkerBye):
                self._probing.left((report.pool, report.worker))
        if isinstance(report, CallResult):
            self.outbox.told(report.key, report.frame.encode())
        self._feed(event_of(report))

    # The core

    def _feed(self, event: Event) -> None:
        self._decide(event)

    def _decide(self, event: Event) -> bool:
        """Lets the core decide on an event; whether it could."""
        now, done = time.time(), True
        commands: list[Command] = []
        try:
            self.core.take_in(event, now, commands)
        except Exception:  # one event must not stop the others: what was decided goes out, and time goes on
            done = False
            self.service.log.exception("the core failed at an event", kind=type(event).__name__)
        self.outbox.put(commands)
        wake = self.core.next_wake(now)
        if wake is not None and wake < self._sleeping_until:
            self._wake.set()
        return done

    async def _keep_time(self) -> None:
        while True:
            self._wake.clear()
            now = time.time()
            wake = self.core.next_wake(now)
            self._sleeping_until = math.inf if wake is None else wake
            try:
                # Not `wait_for`, which before Python 3.12 can swallow a cancellation.
                async with asyncio.timeout(None if wake is None else max(0.0, wake - now)):
                    await self._wake.wait()
            except TimeoutError:
                if not self._decide(Tick()):
                    await asyncio.sleep(_FAILED_PAUSE_S)  # what is due was not done, and would be due again at once
