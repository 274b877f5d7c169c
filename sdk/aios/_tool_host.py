"""Which functions an agent serves as tools, and what happens to an invocation of one: run, progress, answer, cancel."""

import asyncio
import contextvars
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from pydantic import JsonValue, ValidationError

from aios._tool_schema import ToolFunction
from aios._tracing import Tracing
from aios_proto.errors import AiosError, BusError, ManagerError, RequestTooLarge, ResourceConflict
from aios_proto.messages.tool import ToolInvocation

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 2.0
MAX_PROGRESS_CHARS: Final = 16_384
MAX_FAULT_CHARS: Final = 4_000
_RESULT_GRACE_S: Final = 30.0
_REGISTER_DEADLINE_S: Final = 20.0
_UNREGISTER_DEADLINE_S: Final = 2.0

log: Final = logging.getLogger("aios")


class ToolContext:
    """What a tool's function may know of the call it serves: declare a parameter of this type to get it.

    Attributes:
        call_id: names the call; the same for each attempt, so what was done under it once need not be done again.
        fencing_token: grows with each attempt at a tool with effects; None for tools that only read.
        deadline_s: seconds left when the call came.
    """

    def __init__(self, invocation: ToolInvocation, say: Callable[[str], None]) -> None:
        self.call_id = invocation.call_id
        self.fencing_token = invocation.fencing_token
        self.deadline_s = max(0.0, invocation.deadline_ms / 1000 - time.time())
        self._say = say
        self._loop = asyncio.get_running_loop()
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the result any more; a function that is not async looks at it now and then."""
        return self._cancelled

    def progress(self, text: str) -> None:
        """Lets the caller see a piece of text at once; may be called from any thread."""
        self._loop.call_soon_threadsafe(self._say, text)


class Kernel(Protocol):
    """What serving tools needs of the agent."""

    async def request(self, operation: str, body: Mapping[str, object], deadline_s: float) -> object:
        """Makes a system call of the tool manager, and waits for its end."""


@dataclass(eq=False)
class _Running:
    """One invocation.

    Attributes:
        said: progress that the kernel has not been told yet.
        telling: tells it.
    """

    invocation: ToolInvocation
    context: ToolContext
    said: list[str]
    task: "asyncio.Task[None] | None" = None
    telling: "asyncio.Task[None] | None" = None


class ToolHost:
    """Serves the functions of one agent.

    Args:
        replica: the token of this process below the agent's inbox.
        kernel: makes system calls.
        tracing: makes one span an invocation.
    """

    def __init__(self, replica: Callable[[], str], kernel: Kernel, tracing: Tracing) -> None:
        self._replica = replica
        self._kernel = kernel
        self._tracing = tracing
        self._functions: dict[str, ToolFunction] = {}
        self._registered: set[str] = set()
        self._running: dict[str, _Running] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = False

    @property
    def names(self) -> tuple[str, ...]:
        """The tools this agent has declared."""
        return tuple(sorted(self._functions))

    def declare(self, function: ToolFunction) -> None:
        """Adds a function; it is served from the next `register` on."""
        self._functions[function.spec.name] = function
        self._registered.discard(function.spec.name)

    async def register(self) -> None:
        """Tells the kernel of all functions that are new.

        Raises:
            AiosError: the kernel does not take one.
        """
        self._open = True
        for name, function in list(self._functions.items()):
            if name not in self._registered:
                await self._register(function)

    async def close(self) -> None:
        """Takes the functions out of service; what runs is cancelled."""
        if not self._open:
            return
        self._open = False
        await asyncio.gather(*map(self._unregister, self._registered))
        self._registered.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def reconnected(self) -> None:
        """There is a new connection: the kernel may have taken this process for gone."""
        if self._open and self._registered:
            self._registered.clear()
            self._start(self._register_again(), "aios-tools-register")

    def receive(self, data: bytes) -> None:
        """Takes one message from the tool manager."""
        try:
            invocation = ToolInvocation.model_validate_json(data)
        except ValidationError as error:
            log.warning("the tool manager sent something that is no invocation: %s", error)
            return
        running = self._running.get(invocation.invocation)
        if invocation.type == "cancel":
            if running is not None and running.task is not None:
                running.context._cancelled = True
                running.task.cancel()
        elif invocation.type == "ping":
            if running is None:
                body: dict[str, JsonValue] = {"invocation": invocation.invocation, "unknown": True}
                self._start(self._answer(body, time.time() + _RESULT_GRACE_S), "aios-tool-unknown")
        elif running is None:
            self._begin(invocation)

    def _begin(self, invocation: ToolInvocation) -> None:
        said: list[str] = []

        def say(text: str) -> None:
            said.append(text)
            if running.telling is None or running.telling.done():
                running.telling = self._start(self._tell(running), "aios-tool-progress")

        running = self._running[invocation.invocation] = _Running(invocation, ToolContext(invocation, say), said)
        running.task = self._start(self._serve(running), f"aios-tool-{invocation.tool}")

    async def _serve(self, running: _Running) -> None:
        invocation = running.invocation
        try:
            body = await self._outcome(running)
            await asyncio.sleep(0)  # what the function said at its very end is on its way through the loop
            if running.telling is not None:
                await asyncio.wait((running.telling,))
            await self._answer(body, invocation.deadline_ms / 1000 + _RESULT_GRACE_S)
        except asyncio.CancelledError:
            if not running.context.cancelled:
                raise
        finally:
            del self._running[invocation.invocation]

    async def _outcome(self, running: _Running) -> dict[str, JsonValue]:
        """What `tool.result` says of one run of a function."""
        invocation = running.invocation
        outcome: dict[str, JsonValue] = {"invocation": invocation.invocation}
        function = self._functions.get(invocation.tool)
        if function is None:
            return {**outcome, "unknown": True}
        span = self._tracing.start_tool(invocation.tool, invocation.call_id, invocation.traceparent)
        failure: BaseException | None = None
        try:
            return {**outcome, "content": await function.run(invocation.arguments, running.context)}
        except AiosError as error:
            failure = error
            return {**outcome, "fault": _fault(error.message, retryable=error.retryable, field=error.field)}
        except asyncio.CancelledError as error:
            failure = error
            raise
        except Exception as error:
            failure = error
            log.warning("the tool %s failed", invocation.tool, exc_info=True)
            return {**outcome, "fault": _fault(f"{type(error).__name__}: {error}")}
        finally:
            if span is not None:
                span.end(failure)

    async def _tell(self, running: _Running) -> None:
        while running.said:
            text = "".join(running.said)[:MAX_PROGRESS_CHARS]
            running.said.clear()
            await self._answer(
                {"invocation": running.invocation.invocation, "progress": text}, running.invocation.deadline_ms / 1000
            )

    async def _answer(self, body: Mapping[str, JsonValue], until: float) -> None:
        """Sends `tool.result` until the kernel has it, or has no use for it any more."""
        pause_s = FIRST_PAUSE_S
        while (left_s := until - time.time()) > 0:
            try:
                await self._kernel.request("result", body, left_s)
            except RequestTooLarge as error:
                body = {"invocation": body["invocation"], "fault": _fault(error.message)}
            except (BusError, ManagerError) as error:
                log.debug("a tool's result could not be sent now: %s", error)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            except AiosError as error:
                log.warning("the kernel does not take a tool's result: %s", error)
                return
            else:
                return

    async def _register(self, function: ToolFunction) -> None:
        until = time.monotonic() + _REGISTER_DEADLINE_S
        pause_s = FIRST_PAUSE_S
        body = {"tool": function.spec.model_dump(mode="json", exclude_none=True), "replica": self._replica()}
        while True:
            try:
                await self._kernel.request("register", body, _REGISTER_DEADLINE_S)
            except (BusError, ManagerError, ResourceConflict) as error:
                if not error.retryable or time.monotonic() + pause_s > until:
                    raise
            else:
                self._registered.add(function.spec.name)
                return
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def _unregister(self, name: str) -> None:
        try:
            await self._kernel.request("unregister", {"name": name, "replica": self._replica()}, _UNREGISTER_DEADLINE_S)
        except AiosError as error:
            log.debug("the tool %s could not be taken back: %s", name, error)

    async def _register_again(self) -> None:
        while self._open:
            try:
                await self.register()
            except AiosError as error:
                log.warning("the tools could not be registered again: %s", error)
            else:
                return
            await asyncio.sleep(LONGEST_PAUSE_S)

    def _start(self, work: Coroutine[None, None, None], name: str) -> "asyncio.Task[None]":
        # In a context of its own: an invocation is no part of whatever the loop was doing when it came.
        self._tasks.add(task := asyncio.create_task(work, name=name, context=contextvars.Context()))
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("serving a tool failed", exc_info=error)


def _fault(message: str, *, retryable: bool = False, field: str | None = None) -> JsonValue:
    text = message if len(message) <= MAX_FAULT_CHARS else message[: MAX_FAULT_CHARS - 1] + "…"
    return {"message": text, "retryable": retryable, "field": field}
