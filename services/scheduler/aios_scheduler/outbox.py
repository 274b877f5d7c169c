"""How the core's commands leave: one after another in the order they were decided.

Decisions are made at once, sending may wait for the bus. Were each sent by whoever caused it, an order to end a call
could overtake the one to run it. Only a call whose body must first be filled with results from the store goes aside,
with all commands about it that follow, so that nobody else's call waits for that reading.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Literal

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from aios_kit import replies
from aios_kit.service import Service
from aios_proto import headers as wire
from aios_proto import subjects, telemetry
from aios_proto.errors import AiosError, DependencyFailed
from aios_proto.kernel import AttachCommand, CancelCommand, DecisionFact, PreemptCommand
from aios_scheduler.core import SchedulerCore
from aios_scheduler.core.call import ModelCall, WorkerId
from aios_scheduler.core.commands import Adopt, CancelRun, CheckResult, Command, Dispatch, Forget, Preempt, Refuse
from aios_scheduler.core.events import Event, ResultChecked, RunEnded
from aios_scheduler.ledger import End, Entry, Ledger
from aios_scheduler.placeholders import fill, references, text_of
from aios_scheduler.results import Results

_ACK = b"+ACK"
_REPEATED_ACKS = 4096
_LOOKUPS_AT_ONCE = 64
_TOLD_RESULTS = 1024
_FLUSH_S = 2.0


@dataclass(frozen=True, slots=True)
class _Attach:
    """Tell this worker of one more listener."""

    worker: WorkerId
    command: AttachCommand


_Item = tuple[Command | _Attach, Entry | None]


class Outbox:
    """Executes commands; see the module.

    Args:
        service: its lane, tracing and metrics.
        core: asked for the policy's name and live workers.
        ledger: open calls.
        feed: takes the events that come of commands.
        decisions: which of them are published as events.
    """

    def __init__(
        self,
        service: Service,
        core: SchedulerCore,
        ledger: Ledger,
        feed: Callable[[Event], None],
        decisions: Literal["all", "exceptions", "none"],
    ) -> None:
        self._decisions = decisions
        self._service = service
        self._core = core
        self._ledger = ledger
        self._feed = feed
        self._results: Results | None = None
        self._commands: asyncio.Queue[_Item] = asyncio.Queue()
        self._aside: dict[str, deque[_Item]] = {}
        self._told: OrderedDict[str, bytes] = OrderedDict()
        self._executor: asyncio.Task[None] | None = None
        self._lookups: set[asyncio.Task[None]] = set()
        self._lookup_slots = asyncio.Semaphore(_LOOKUPS_AT_ONCE)
        self._acknowledged: deque[str] = deque(maxlen=_REPEATED_ACKS)
        self._fence: dict[str, str] = {}

    def open(self, results: Results, fence: int) -> None:
        """Begins to execute; `fence` goes with every command to a worker."""
        self._results = results
        self._fence = {wire.FENCE: str(fence)}
        self._executor = asyncio.create_task(self._execute_all(), name="outbox")

    async def close(self) -> None:
        """Executes what was decided so far, and nothing more."""
        if self._executor is None:
            return
        try:
            await asyncio.wait_for(self._commands.join(), _FLUSH_S)
        except TimeoutError:
            self._service.log.warning("some commands were not sent", commands=self._commands.qsize())
        for task in (self._executor, *self._lookups):
            task.cancel()
        await asyncio.wait((self._executor, *self._lookups))

    def put(self, commands: Sequence[Command]) -> None:
        """Lets these be executed after all those before. What they end is closed in the ledger at once."""
        for command in commands:
            key = command.call.key
            match command:
                case Refuse(_, error):
                    entry = self._ledger.open.get(key)
                    frame = error_frame(entry, error) if entry is not None and command.call.durable else None
                    self._ledger.close(key, End(frame=frame))
                case Forget(_, worker):
                    known = None if worker is None else self._core.workers.get(worker)
                    entry = self._ledger.close(key, End(None if known is None else (known.id, known.incarnation)))
                case _:
                    entry = self._ledger.open.get(key)
            self._commands.put_nowait((command, entry))

    def told(self, key: str, frame: bytes) -> None:
        """A worker told what a call's result is: those that refer to it need not read the store."""
        self._told[key] = frame
        if len(self._told) > _TOLD_RESULTS:
            self._told.popitem(last=False)

    def attach(self, worker: WorkerId, key: str, inbox: str, text_offset: int) -> None:
        """Tells a worker of one more listener, after it was told of the call."""
        self._commands.put_nowait((_Attach(worker, AttachCommand(key=key, reply=inbox, text_offset=text_offset)), None))

    def attach_to_ended(self, end: End, key: str, inbox: str, text_offset: int) -> bool:
        """Lets the worker that ended a call answer again; False if it is not there any more."""
        if end.worker is None:
            return False
        worker, incarnation = end.worker
        known = self._core.workers.get(worker)
        if known is None or known.incarnation != incarnation:
            return False
        self.attach(worker, key, inbox, text_offset)
        return True

    async def end_with(self, entry: Entry, error: AiosError) -> None:
        """Answers a call with an error and takes it out of the durable queue."""
        await self.answer_all(entry, error_frame(entry, error))
        await self._acknowledge(entry)
        self._service.metrics.calls.labels(entry.operation, error.code).inc()
        entry.hop.end(error)

    async def answer_all(self, entry: Entry, frame: bytes) -> None:
        """Sends everyone who listens to a call its last frame."""
        for inbox in entry.inboxes:
            await self._service.lane.reply(inbox, frame)

    async def acknowledge(self, message: Msg) -> None:
        """Takes a message out of the durable queue."""
        self._acknowledged.append(message.reply)
        await self._service.lane.publish(message.reply, _ACK)

    async def acknowledge_again(self) -> None:
        """The connection was lost: what was sent last may not have arrived."""
        for reply in list(self._acknowledged):
            await self._service.lane.publish(reply, _ACK)

    async def _acknowledge(self, entry: Entry) -> None:
        if entry.queued_message is not None:
            await self.acknowledge(entry.queued_message)

    async def _execute_all(self) -> None:
        while True:
            item = await self._commands.get()
            command, entry = item
            key = command.command.key if isinstance(command, _Attach) else command.call.key
            if (waiting := self._aside.get(key)) is not None:
                waiting.append(item)
            elif isinstance(command, Dispatch) and entry is not None and self._must_read(entry):
                self._aside[key] = deque([item])
                self._start(self._execute_aside(key), "fill with results")
            else:
                await self._execute_safely(command, entry)

    async def _execute_aside(self, key: str) -> None:
        items = self._aside[key]
        while items:
            await self._execute_safely(*items.popleft())
        del self._aside[key]

    async def _execute_safely(self, command: Command | _Attach, entry: Entry | None) -> None:
        try:
            await self._execute(command, entry)
        except NatsError as error:
            # A lost `run` or `cancel` shows in the worker's next heartbeats.
            self._service.log.warning("a command was lost", command=type(command).__name__, error=str(error))
        except Exception:
            self._service.log.exception("a command could not be executed", command=type(command).__name__)
        finally:
            self._commands.task_done()

    def _start(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._lookups.add(task)
        task.add_done_callback(self._lookups.discard)

    async def _execute(self, command: Command | _Attach, entry: Entry | None) -> None:
        match command:
            case _Attach(worker, attach):
                await self._send(worker, "attach", attach)
            case CancelRun(call, worker, reason):
                await self._send(worker, "cancel", CancelCommand(key=call.key, reason=reason))
            case Preempt(call, worker):
                await self._send(worker, "preempt", PreemptCommand(key=call.key))
                await self._tell("preempted", call, worker)
            case _ if entry is None:
                self._service.log.error("a command about a call that is not open", command=type(command).__name__)
            case Dispatch(call, worker):
                await self._dispatch(command, entry)
                if self._decisions == "all":
                    await self._tell("dispatched", call, worker)
            case Adopt(_, worker):
                await self._attach_listeners(entry, worker)
            case Refuse(call, error):
                await self.end_with(entry, error)
                await self._tell("refused", call, None, error.code)
            case Forget():
                entry.hop.end()
                await self._acknowledge(entry)
                self._service.metrics.calls.labels(entry.operation, "ok").inc()
            case CheckResult(call):
                self._start(self._look_up(call, entry), "look up result")

    async def _dispatch(self, command: Dispatch, entry: Entry) -> None:
        call, worker, attempt = command.call, command.worker, command.attempt
        headers = entry.headers
        try:
            body = await self._filled(entry)
        except DependencyFailed as error:
            await self.answer_all(entry, error_frame(entry, error))
            self._feed(RunEnded(call.key, worker, succeeded=False, code=error.code))
            return
        entry.hop.set(
            {
                telemetry.WORKER: worker[1],
                telemetry.ATTEMPT: attempt,
                telemetry.POLICY: self._core.policy_of(call),
            }
        )
        out = headers.to_wire()
        if entry.hop.traceparent is not None:
            out[wire.TRACEPARENT] = entry.hop.traceparent
        out[wire.ATTEMPT] = str(attempt)
        received = headers.times_us[0] if headers.times_us else entry.queued_us
        out[wire.TIMES] = f"{received},{entry.queued_us},{time.time_ns() // 1000}"
        out[wire.DURABILITY] = "durable" if call.durable else "volatile"
        out[wire.OPERATION] = call.operation
        if call.durable and self._core.chains.is_awaited(call.key):
            out[wire.AWAITED] = "1"
        out[wire.INCARNATION] = command.incarnation
        out.update(self._fence)
        entry.hop.end()
        await self._service.lane.publish(subjects.worker(*worker, "run"), body, headers=out)
        await self._attach_listeners(entry, worker)

    async def _tell(self, decision: str, call: ModelCall, worker: WorkerId | None, code: str | None = None) -> None:
        if self._decisions == "none":
            return
        now = time.time()
        fact = DecisionFact(
            id=call.id,
            agent=call.agent,
            program=call.program,
            policy=self._core.policy_of(call),
            worker=None if worker is None else worker[1],
            attempt=call.attempt,
            waited_ms=max(0, round((now - call.arrived) * 1000)),
            code=code,
            at_ms=int(now * 1000),
        )
        await self._service.lane.publish(
            subjects.event(call.tenant, f"scheduler.{decision}"), fact.model_dump_json(exclude_none=True).encode()
        )

    async def _filled(self, entry: Entry) -> bytes:
        """The body with the results it refers to.

        Raises:
            DependencyFailed: one of them is not stored.
        """
        wanted = self._wanted(entry)
        if not wanted or self._results is None:
            return entry.body
        texts: dict[str, str] = {}
        for call_id, key in wanted.items():
            frame = self._told.get(key)
            if frame is None:
                async with self._lookup_slots:
                    frame = await self._results.find_patiently(key)
            text = None if frame is None else text_of(frame)
            if text is None:
                raise DependencyFailed(f"the result of {call_id} is not stored; only durable calls keep theirs")
            texts[call_id] = text
        return fill(entry.body, texts)

    def _wanted(self, entry: Entry) -> dict[str, str]:
        """The calls whose results a body refers to, and their keys."""
        headers = entry.headers
        if not headers.after:
            return {}
        return {call_id: f"{headers.tenant}.{headers.agent}.{call_id}" for call_id in references(entry.body)}

    def _must_read(self, entry: Entry) -> bool:
        return any(key not in self._told for key in self._wanted(entry).values())

    async def _attach_listeners(self, entry: Entry, worker: WorkerId) -> None:
        for inbox, text_offset in list(entry.listeners.items()):
            await self._send(
                worker, "attach", AttachCommand(key=entry.headers.key, reply=inbox, text_offset=text_offset)
            )

    async def _send(
        self,
        worker: WorkerId,
        command: Literal["attach", "cancel", "preempt"],
        body: AttachCommand | CancelCommand | PreemptCommand,
    ) -> None:
        await self._service.lane.publish(
            subjects.worker(*worker, command), body.model_dump_json().encode(), headers=self._fence
        )

    async def _look_up(self, call: ModelCall, entry: Entry) -> None:
        assert self._results is not None
        async with self._lookup_slots:
            frame = await self._results.find_patiently(call.key)
        if frame is not None:
            await self.answer_all(entry, frame)  # its worker may have died before it sent the answer
        self._feed(ResultChecked(call.key, frame is not None))


def error_frame(entry: Entry, error: AiosError) -> bytes:
    """The last frame of a call that ends with this error."""
    return replies.failed(entry.headers.id, error, trace_id=entry.hop.trace_id)
