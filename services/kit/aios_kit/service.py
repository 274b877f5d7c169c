"""What the life of a service looks like: start, serve, drain, stop; the same for all of them.

    service = Service("memory", settings)
    service.serve("memory", "add", memory.add)
    run(service)

Ready means: the bus has seen every subscription. SIGTERM means: say goodbye, take nothing new, finish what was
accepted within `drain_timeout_s`, send the last spans, leave.
"""

import asyncio
import gc
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

import uvloop
from faststream import FastStream
from faststream.nats import NatsMessage
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.js import JetStreamContext

from aios_kit import replies
from aios_kit.bus import close, flush, make_broker
from aios_kit.health import HealthServer
from aios_kit.kernel_calls import KernelCalls
from aios_kit.lane import Lane
from aios_kit.logs import setup_logging
from aios_kit.metrics import Metrics
from aios_kit.operation import Answering, Call
from aios_kit.presence import Heartbeat
from aios_kit.redeeming import Redeeming
from aios_kit.settings import ServiceSettings
from aios_kit.tasks import Tasks, end
from aios_kit.tracing import Tracing
from aios_proto import subjects
from aios_proto.errors import AiosError, BusUnavailable
from aios_proto.headers import CallHeaders
from aios_proto.messages.base import Body, Result
from aios_proto.operations import OPERATIONS

__all__ = ["Call", "Service", "run"]

B = TypeVar("B", bound=Body)
Hook = Callable[[], Awaitable[None]]

# The exporter's thread may hold up the event loop for this long; Python's default is ten times as much.
_SWITCH_INTERVAL_S = 0.0005

# A call makes some fifty objects the collector looks at and none that it must free. Python's own threshold of 700 has
# it look every fourteen calls, which costs a tenth of a hop's CPU.
_GC_THRESHOLD = (20_000, 20, 100)

_REGAIN_RETRY_S = 0.2
_STANDING_BY = "standing by"


class Service:
    """One kernel service: a FastStream application with the chassis around it.

    Args:
        role: which service; names its connection, inbox, spans and permissions.
        settings: where the bus is, how to log, how long to drain.
        concurrency: operations worked on at once; further ones wait on the bus connection.
    """

    def __init__(self, role: str, settings: ServiceSettings, *, concurrency: int = 256) -> None:
        self.role = role
        self.settings = settings
        self.log = setup_logging(role, settings)
        self.metrics = Metrics()
        self.tracing = Tracing(role, settings)
        self.broker = make_broker(role, settings, self._reconnected, self._bus_closed)
        self.app = FastStream(self.broker, logger=None)
        self.tasks = Tasks(concurrency, self.log)
        self.kernel_calls = KernelCalls(role, self.tracing)
        self.http_port = 0
        self._operations: dict[str, list[str]] = {}
        self._subscribers: list[Any] = []
        self._before_start: list[Hook] = []
        self._on_start: list[Hook] = []
        self._on_reconnect: list[Hook] = []
        self._on_drain: list[Hook] = []
        self._on_stop: list[Hook] = []
        self._readiness: list[Callable[[], str | None]] = []
        self._phase = "starting"
        self._stop = asyncio.Event()
        self._failure: AiosError | None = None
        self._regaining: asyncio.Task[None] | None = None
        self._only_while: Hook | None = None
        self._lane: Lane | None = None
        self._health = HealthServer(self.metrics, self._not_ready)

    @property
    def nc(self) -> Client:
        """The broker's connection; only after the start."""
        return self.broker.connection

    @property
    def js(self) -> JetStreamContext:
        """JetStream on the same connection, with the service's request timeout."""
        return self.nc.jetstream(timeout=self.settings.request_timeout_s)

    @property
    def lane(self) -> Lane:
        """The hot path; only after the start."""
        if self._lane is None:
            msg = "the service is not connected yet"
            raise RuntimeError(msg)
        return self._lane

    def before_start(self, hook: Hook) -> None:
        """Awaits `hook` when the bus is connected, before any operation is subscribed.

        For a service of which only one instance may be active: here the others wait for their turn.
        """
        self._before_start.append(hook)

    def stand_by(self) -> None:
        """Another instance is active: this one counts as ready while it waits, or a rollout would wait for ever."""
        self._phase = _STANDING_BY

    def only_while(self, hook: Hook) -> None:
        """Awaits `hook` before each operation's handler; what it raises is the call's answer."""
        self._only_while = hook

    def on_start(self, hook: Hook) -> None:
        """Awaits `hook` when the bus is connected, before the service is ready."""
        self._on_start.append(hook)

    def on_reconnect(self, hook: Hook) -> None:
        """Awaits `hook` after the connection was lost and regained."""
        self._on_reconnect.append(hook)

    def on_drain(self, hook: Hook) -> None:
        """Awaits `hook` when nothing new comes in any more, while accepted work may still be running."""
        self._on_drain.append(hook)

    def on_stop(self, hook: Hook) -> None:
        """Awaits `hook` when all work has ended, before the connection closes."""
        self._on_stop.append(hook)

    def ready_when(self, reason: Callable[[], str | None]) -> None:
        """Adds a condition to `/readyz`: None, or why the service is not ready."""
        self._readiness.append(reason)

    def announce(self, manager: str, operation: str) -> None:
        """Lets access send this operation here; for operations handled on the lane."""
        if (manager, operation) not in OPERATIONS:
            msg = f"{manager}.{operation} is not in the system-call table"
            raise ValueError(msg)
        self._operations.setdefault(manager, []).append(operation)

    def serve(
        self,
        manager: str,
        operation: str,
        handler: Callable[[Call[B]], Awaitable[Result]],
        *,
        subject: str | None = None,
    ) -> None:
        """Answers an operation: decode, call `handler`, reply `done`; an exception becomes an `error` frame.

        The handler runs in a task of its own, until the call's deadline.

        Args:
            manager: such as `memory`.
            operation: such as `add`.
            handler: does the work.
            subject: where its calls come to; None is the operation's own, and access is told that it is served.
        """
        if subject is None:
            self.announce(manager, operation)
        request = cast("type[B]", OPERATIONS[manager, operation].request)
        name = f"{manager}.{operation}"
        answering = Answering(
            *(self.role, name, request, handler, self.tracing, self.metrics, self.log, self.may_begin, self._active)
        )

        async def work(message: Msg) -> None:
            await answering.answer(self.lane, message)

        async def consume(message: Msg) -> None:
            await self.tasks.start(work(message), name)

        subscriber = self.broker.subscriber(
            subject or subjects.kernel(manager, operation), queue=self.role, decoder=_whole_message, no_reply=True
        )
        subscriber(consume)
        self._subscribers.append(subscriber)

    async def may_begin(self, headers: CallHeaders, operation: str) -> bool:
        """Whether a call that a human approved may run here; access sends it again until somebody has begun it.

        `serve` asks by itself; whoever takes calls on the lane asks before it runs one with `headers.approval`.
        """
        try:
            first = await Redeeming(self.kernel_calls).first(headers)
        except AiosError as error:
            self.log.warning("an approval could not be redeemed", operation=operation, error=str(error))
            return False
        if not first:
            self.log.info("an approved call has begun elsewhere", operation=operation, syscall_id=headers.id)
        return first

    async def _active(self) -> None:
        if self._only_while is not None:
            await self._only_while()

    async def run(self) -> None:
        """Lives until SIGTERM, SIGINT or `stop()`.

        Raises:
            BusUnavailable: the bus closed the connection for good; a new process may connect again.
            InternalError: a hook failed after the connection was regained.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        self.http_port = await self._health.start(self.settings.http_host, self.settings.http_port)
        self.log.info("starting", http_port=self.http_port, bus=self.settings.nats_url)
        try:
            if await self._connected_before_stop():
                await self._serve_until_stop()
        finally:
            await self._health.stop()
            await asyncio.to_thread(self.tracing.close)
            self.log.info("stopped")
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Begins the way out; `run` returns when it is done."""
        self._stop.set()

    async def _connected_before_stop(self) -> bool:
        self._phase = "waiting for the bus"
        connecting = asyncio.ensure_future(self.broker.connect())
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait((connecting, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not connecting.done():
            connecting.cancel()
            with suppress(asyncio.CancelledError):
                await connecting
            return False
        await connecting
        return True

    async def _serve_until_stop(self) -> None:
        self._phase = "starting"
        nc = self.nc
        lane = self._lane = Lane(nc, self.log)
        try:
            heartbeat = Heartbeat(lane, self.settings.instance, self._operations)
            async with asyncio.TaskGroup() as group:
                starting = group.create_task(self._start())
                stopping = group.create_task(self._stop.wait())
                await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
                if starting.done():
                    await starting
                    beating = group.create_task(heartbeat.run())
                    self._phase = "ready"
                    self.log.info("ready", http_port=self.http_port)
                    await stopping
                    beating.cancel()
                starting.cancel()
            await self._drain(heartbeat)
        finally:
            self._phase = "stopped"
            with suppress(NatsError):  # a connection that is away cannot be drained
                await self.app.stop()
            await close(nc)

    async def _start(self) -> None:
        for hook in self._before_start:
            await hook()
        self._phase = "starting"
        await self.kernel_calls.open(self.nc)
        await self.app.start()
        for hook in self._on_start:
            await hook()
        await flush(self.nc, self.settings.request_timeout_s)

    async def _drain(self, heartbeat: Heartbeat) -> None:
        self._phase = "draining"
        started = time.monotonic()
        if self._regaining is not None:
            await end(self._regaining)
        await heartbeat.beat(leaving=True)
        try:
            async with asyncio.timeout(self.settings.drain_timeout_s):
                await self._take_nothing_new()
        except TimeoutError:
            self.log.warning("the subscriptions could not be drained in time")
        for hook in self._on_drain:
            await hook()
        left = self.settings.drain_timeout_s - (time.monotonic() - started)
        if cut_off := await self.tasks.drain(max(0.1, left)):
            self.log.warning("work was cut off at the end of the drain", tasks=cut_off)
        for hook in self._on_stop:
            await hook()
        if self.nc.is_connected:
            with suppress(AiosError):
                await flush(self.nc, 1)

    async def _take_nothing_new(self) -> None:
        """Ends the subscriptions once the messages already delivered have been taken."""
        for subscriber in self._subscribers:
            subscription: Subscription | None = subscriber.subscription
            if subscription is not None:
                with suppress(NatsError):
                    await subscription.drain()  # type: ignore[no-untyped-call]
                subscriber.subscription = None
        await self.lane.drain()

    def _reconnected(self) -> None:
        self.kernel_calls.connection_lost()
        # In a task of its own: the client waits for its callback, and takes an error in it for a lost connection.
        if self._regaining is not None:
            self._regaining.cancel()
        self._regaining = asyncio.create_task(self._regain(), name="regain")

    async def _regain(self) -> None:
        for hook in self._on_reconnect:
            while True:
                try:
                    await hook()
                    break
                except (NatsError, AiosError, TimeoutError) as error:
                    # JetStream needs a moment longer than the server to come back.
                    self.log.warning("could not take up the work again yet", error=str(error) or type(error).__name__)
                except Exception:
                    self.log.exception("could not take up the work again")
                    self._fail(replies.internal(self.role))
                    return
                await asyncio.sleep(_REGAIN_RETRY_S)

    def _bus_closed(self) -> None:
        if self._phase != "stopped":
            self.log.error("the bus closed the connection for good")
            self._fail(BusUnavailable("the bus closed the connection for good"))

    def _fail(self, error: AiosError) -> None:
        """Ends the process with an error, so that whoever supervises it starts a new one."""
        self._failure = error
        self.stop()

    def _not_ready(self) -> str | None:
        if self._phase == _STANDING_BY and self.nc.is_connected:
            return None
        if self._phase != "ready":
            return self._phase
        if not self.nc.is_connected:
            return "the bus connection is lost"
        if self._regaining is not None and not self._regaining.done():
            return "taking up the work again after the bus connection was lost"
        return next((reason for check in self._readiness if (reason := check()) is not None), None)


def run(service_factory: Callable[[], Service]) -> None:
    """Runs a service as a process on uvloop; what `python -m aios_<service>` calls."""

    async def main() -> None:
        service = service_factory()
        gc.collect()
        gc.freeze()  # what was imported and built by now stays; collections need not look at it again
        gc.set_threshold(*_GC_THRESHOLD)
        await service.run()

    sys.setswitchinterval(_SWITCH_INTERVAL_S)

    uvloop.run(main())


async def _whole_message(message: NatsMessage) -> Msg:
    """A decoder that decodes nothing: the body is parsed once, by the operation's own model.

    FastStream keeps what a decoder returns inside its message: returned itself, it would hold its body in a cycle.
    """
    return message.raw_message
