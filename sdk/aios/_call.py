"""One call as its maker holds it: await it for the reply, iterate over it for the text as it comes."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Generator
from typing import Final, Generic, Protocol, TypeVar

import orjson
from pydantic import ValidationError

from aios._course import Action, Course
from aios._logprobs import Logprobs
from aios._reply import ChatReply, CompleteReply, answer_text
from aios._request import Request
from aios._tracing import CallSpan
from aios._transcript import Transcript
from aios_proto.errors import (
    AccessDenied,
    AiosError,
    BusUnavailable,
    DeadlineExceeded,
    InternalError,
    ManagerUnavailable,
    SyscallUnknown,
)
from aios_proto.frames import Done, Failed
from aios_proto.messages.llm import TokenLogprob
from aios_proto.messages.syscall import CancelResult

R = TypeVar("R", covariant=True)
T = TypeVar("T")

NO_RESPONDERS: Final = "503"

log: Final = logging.getLogger("aios")


class Line(Protocol):
    """What a call needs of the agent that made it."""

    @property
    def connected(self) -> bool:
        """Whether something sent now leaves at once."""

    async def send(self, token: str, request: Request, context: dict[str, str]) -> None:
        """Publishes the request; its answers come back under the token.

        Raises:
            BusUnavailable: there is no connection now.
        """

    def attach_request(self, call_id: str, text_offset: int, deadline_s: float) -> Request:
        """A request for the frames of a call that runs."""

    async def cancel(self, call_id: str) -> CancelResult:
        """Ends a call."""

    def forget(self, token: str) -> None:
        """The call has ended: drop what still comes under its token."""


class Call(Generic[R]):
    """A system call on its way. It was sent when it was made; nothing has to be awaited for it to run.

    `await call` gives the reply, or raises what ended the call. `async for piece in call` gives the answer's text as
    it comes, without gap and without repeat whatever failed on the way, and at its end raises what ended the call.
    Both may be done, in any order, by several tasks, and end at the latest two seconds after the call's deadline.
    Giving up waiting does not end the call: `cancel` does.
    """

    def __init__(
        self,
        line: Line,
        token: str,
        request: Request,
        decode: "Callable[[Done, str | None], R]",
        *,
        span: CallSpan | None = None,
        context: dict[str, str] | None = None,
        attached_id: str | None = None,
        text_offset: int = 0,
    ) -> None:
        self._line = line
        self._token = token
        self._request = request
        self._decode = decode
        self._span = span
        self._context = context or {}
        self._id = attached_id or request.call_id
        self._attach_only = attached_id is not None
        self._attach_id = request.call_id if self._attach_only else ""
        self._transcript = Transcript(text_offset)
        self._logprobs = Logprobs()
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + request.deadline_s
        self._course = Course(self._loop.time(), self._deadline, attach_only=self._attach_only)
        self._trace_id = span.trace_id if span is not None else None
        self._taken = asyncio.Event()
        self._finished = False
        self._reply: R | None = None
        self._error: AiosError | None = None
        self._news = asyncio.Event()
        self._wake = asyncio.Event()

    @property
    def id(self) -> str:
        """Names the call, for `agent.calls.attach`, `agent.calls.cancel`, and `after` of another call."""
        return self._id

    @property
    def operation(self) -> str:
        """What it asks for, such as `llm.chat`."""
        return self._request.operation

    @property
    def trace_id(self) -> str | None:
        """32 hex digits, for `aios trace`; None where nothing is traced, or it is not known yet."""
        return self._trace_id

    @property
    def done(self) -> bool:
        """Whether the call has ended, well or not."""
        return self._finished

    @property
    def text(self) -> str:
        """The text that has come so far."""
        return self._transcript.text

    @property
    def logprobs(self) -> list[TokenLogprob]:
        """How likely the tokens were that have come so far; empty unless asked for."""
        return list(self._logprobs.entries)

    def tokens(self) -> AsyncIterator[TokenLogprob]:
        """The answer token by token, each with how likely it was, as it comes; needs `logprobs=True`.

        Like the text it has no gap and no repeat, and at its end raises what ended the call.
        """
        return _Items(self, self._logprobs.entries)

    def __repr__(self) -> str:
        state = "running" if not self._finished else self._error.code if self._error is not None else "done"
        return f"<Call {self._id} {self._request.operation} {state}>"

    def __await__(self) -> Generator[object, None, R]:
        return self._result().__await__()

    def __aiter__(self) -> AsyncIterator[str]:
        return _Items(self, self._transcript.pieces)

    async def accepted(self) -> None:
        """Returns once the kernel has the call on disk (or, for a volatile call, has answered in any way).

        Raises:
            AiosError: the call ended before.
        """
        await self._taken.wait()
        if self._error is not None:
            raise self._error.with_traceback(None)

    async def cancel(self) -> CancelResult:
        """Ends the call; it then raises `SyscallCancelled`, unless it has ended by itself.

        Raises:
            SyscallUnknown: the kernel does not know it (any more).
        """
        if self._finished:
            return CancelResult(id=self._id, state="ended")
        return await self._line.cancel(self._id)

    async def _result(self) -> R:
        while not self._finished:
            self._news.clear()
            await self._news.wait()
        if self._error is not None:
            raise self._error.with_traceback(None)
        return self._reply  # type: ignore[return-value]  # finished without an error: there is one

    # What the agent calls.

    async def run(self) -> None:
        """Sends, sends again where needed, and ends the call at its deadline. Never raises."""
        while not self._finished:
            now = self._loop.time()
            action, until = self._course.decide(now, connected=self._line.connected)
            if action is Action.EXPIRE:
                self.fail(self._expiry())
                return
            if action is Action.DESERT:
                self.fail(ManagerUnavailable("no access service answers system calls"))
                return
            if action is not Action.WAIT:
                try:
                    await self._line.send(self._token, *self._outgoing(action, now))
                except BusUnavailable as error:
                    log.debug("call %s could not be sent now: %s", self._id, error)
            timer = self._loop.call_at(until, self._wake.set)
            try:
                await self._wake.wait()
            finally:
                timer.cancel()
            self._wake.clear()

    def receive(self, data: bytes, status: str | None) -> None:
        """Takes one message that came to the call's reply subject."""
        if status is not None:
            if status == NO_RESPONDERS:
                self._course.deserted(self._loop.time())
                self._wake.set()
            return
        try:
            frame = orjson.loads(data)
            frame_id, kind = frame["id"], frame["type"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            log.warning("call %s got something that is no frame: %r", self._id, data[:200])
            return
        if self._finished:
            return
        if frame_id != self._id:
            if frame_id == self._attach_id and kind == "error":
                self._attach_failed(data)
            return
        self._course.frame(self._loop.time())
        if kind == "delta":
            self._delta(frame)
            return
        try:
            self._other_frame(kind, frame, data)
        except ValidationError as error:
            self.fail(InternalError(f"the kernel sent a malformed {kind} frame: {error}"))

    def reconnected(self) -> None:
        """There is a new connection."""
        self._course.reconnected(self._loop.time())
        self._wake.set()

    def fail(self, error: AiosError) -> None:
        """Ends the call with an error, unless it has ended."""
        if self._finished:
            return
        error.syscall_id = error.syscall_id or self._id
        error.trace_id = error.trace_id or self._trace_id
        self._error = error
        if self._span is not None:
            self._span.failed(error)
        self._end()

    def denied(self, subject: str | None) -> None:
        """The bus refused a message to that subject (lower case); a call that was answered before was not it."""
        if subject is None:
            self.fail(AccessDenied("the bus does not let this agent hear its replies"))
        elif subject == self._request.subject.lower() and not self._course.heard:
            self.fail(AccessDenied(f"the bus does not let this agent publish to {self._request.subject}"))

    # Inside.

    def _outgoing(self, action: Action, now: float) -> tuple[Request, dict[str, str]]:
        if action is Action.SEND:
            return self._request, self._context
        remaining_s = max(0.001, self._deadline - now)
        request = self._line.attach_request(self._id, self._transcript.length, remaining_s)
        self._attach_id = request.call_id
        return request, self._context

    def _delta(self, frame: dict[str, object]) -> None:
        offset, text = frame.get("text_offset"), frame.get("text")
        if not (isinstance(offset, int) and isinstance(text, str)):
            log.warning("call %s got a delta without text or offset", self._id)
            return
        if self._span is not None:
            self._span.first_token()
        if not self._taken.is_set():
            self._taken.set()
        told = frame.get("logprobs")
        if (told is None or self._scored(frame.get("logprobs_offset"), told)) and self._transcript.add(offset, text):
            self._news.set()
        else:
            self._course.gap(self._loop.time())
            self._wake.set()

    def _scored(self, offset: object, told: object) -> bool:
        """Takes in log probabilities; False where some are missing before them."""
        try:
            return self._logprobs.add(offset, told)
        except (TypeError, ValueError) as error:
            log.warning("call %s got log probabilities that are none: %s", self._id, error)
            return True

    def _other_frame(self, kind: object, frame: dict[str, object], data: bytes) -> None:
        if kind == "done":
            done = Done.model_validate_json(data)
            try:
                reply = self._decode(done, self._trace_id)
            except InternalError as error:
                self.fail(error)
                return
            whole = answer_text(done)
            if whole is not None:
                self._transcript.complete(whole)
            if isinstance(reply, ChatReply | CompleteReply) and reply.logprobs is not None:
                self._logprobs.complete(reply.logprobs)
            self._reply = reply
            self._end()
            if self._span is not None:
                self._span.done(done)
        elif kind == "error":
            self._failed(AiosError.from_body(Failed.model_validate_json(data).error))
        elif kind in ("accepted", "pending_approval"):
            if kind == "pending_approval":
                self._course.parked()
            trace_id = frame.get("trace_id")
            if self._trace_id is None and isinstance(trace_id, str):
                self._trace_id = trace_id
            if not self._taken.is_set():
                self._taken.set()
                if self._span is not None and kind == "accepted":
                    self._span.accepted()
        self._wake.set()

    def _attach_failed(self, data: bytes) -> None:
        try:
            error = AiosError.from_body(Failed.model_validate_json(data).error)
        except ValidationError:
            log.warning("call %s got a malformed error frame", self._id)
            return
        if self._attach_only:
            self.fail(error)
        elif isinstance(error, SyscallUnknown):
            self._failed(error)
            self._wake.set()
        else:
            log.debug("call %s could not be attached to: %s", self._id, error)

    def _failed(self, error: AiosError) -> None:
        """Ends the call with the kernel's error, unless sending it again may help: its id makes that safe."""
        now = self._loop.time()
        if isinstance(error, SyscallUnknown) and self._course.unknown(now):
            return
        if isinstance(error, BusUnavailable) and self._course.postponed(now, error.retry_after_s or 0):
            return
        self.fail(error)

    def _expiry(self) -> AiosError:
        if not self._line.connected:
            return BusUnavailable("the connection to the bus was lost and did not come back before the call's deadline")
        return DeadlineExceeded("nothing final came before the call's deadline")

    def _end(self) -> None:
        self._finished = True
        self._line.forget(self._token)
        self._taken.set()
        self._news.set()
        self._wake.set()

    async def _next_item(self, items: list[T], index: int) -> T | None:
        """The item of that index; None after the last. Raises what ended the call."""
        while index >= len(items):
            if self._finished:
                if self._error is not None:
                    raise self._error.with_traceback(None)
                return None
            self._news.clear()
            await self._news.wait()
        return items[index]


class _Items(Generic[T]):
    """One reader's place in what comes of a call."""

    def __init__(self, call: Call[object], items: list[T]) -> None:
        self._call = call
        self._items = items
        self._index = 0

    def __aiter__(self) -> "_Items[T]":
        return self

    async def __anext__(self) -> T:
        item = await self._call._next_item(self._items, self._index)
        if item is None:
            raise StopAsyncIteration
        self._index += 1
        return item
