"""Calls and managers for programs without an event loop: each method blocks, or gives a call that can be waited for."""

from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterator
from typing import Concatenate, Generic, ParamSpec, TypeVar, Unpack

from aios._agent import F
from aios._call import Call
from aios._calls import Calls
from aios._context import Context, Contexts
from aios._llm import LLM, GenerationOptions
from aios._loop_thread import LoopThread
from aios._memory import Memories
from aios._request import CallOptions
from aios._storage import Storage
from aios._tool_schema import ToolOptions
from aios._tools import Tools
from aios_proto.messages.llm import TokenLogprob
from aios_proto.messages.syscall import CancelResult, SyscallInfo
from aios_proto.messages.tool import ToolInfo

R = TypeVar("R")
P = ParamSpec("P")
V = TypeVar("V")


class SyncCall(Generic[R]):
    """A system call on its way, see `Call`. `result()` waits for the reply; iterating gives the text as it comes."""

    def __init__(self, loop: "LoopThread", call: Call[R]) -> None:
        self._loop = loop
        self._call = call

    @property
    def id(self) -> str:
        """Names the call."""
        return self._call.id

    @property
    def trace_id(self) -> str | None:
        """32 hex digits; None where nothing is traced, or it is not known yet."""
        return self._call.trace_id

    @property
    def done(self) -> bool:
        """Whether the call has ended, well or not."""
        return self._call.done

    @property
    def text(self) -> str:
        """The text that has come so far."""
        return self._call.text

    @property
    def logprobs(self) -> list[TokenLogprob]:
        """How likely the tokens were that have come so far; empty unless asked for."""
        return self._call.logprobs

    def __repr__(self) -> str:
        return f"<Sync{repr(self._call)[1:]}"

    def __iter__(self) -> Iterator[str]:
        return self._each(self._call)

    def tokens(self) -> Iterator[TokenLogprob]:
        """The answer token by token, each with how likely it was, see `Call.tokens`."""
        return self._each(self._call.tokens())

    def _each(self, source: AsyncIterable[V]) -> Iterator[V]:
        items = aiter(source)
        while True:
            item = self._loop.wait(lambda: _next(items.__anext__))
            if item is None:
                return
            yield item

    def result(self) -> R:
        """Waits for the reply, at the latest until two seconds after the call's deadline.

        Raises:
            AiosError: what ended the call.
        """
        return self._loop.wait(lambda: self._call)

    def accepted(self) -> None:
        """Waits until the kernel has the call on disk, see `Call.accepted`."""
        self._loop.wait(self._call.accepted)

    def cancel(self) -> CancelResult:
        """Ends the call, see `Call.cancel`."""
        return self._loop.wait(self._call.cancel)


async def _next(advance: Callable[[], Awaitable[V]]) -> V | None:
    try:
        return await advance()
    except StopAsyncIteration:
        return None


class _Namespace(Generic[R]):
    def __init__(self, loop: LoopThread, inner: R) -> None:
        self._loop = loop
        self._inner = inner


N = TypeVar("N")


def _blocking(
    method: Callable[Concatenate[N, P], Call[V]],
) -> Callable[Concatenate[_Namespace[N], P], SyncCall[V]]:
    """The same method, with a call that blocks."""

    def blocking(self: _Namespace[N], /, *args: P.args, **kwargs: P.kwargs) -> SyncCall[V]:
        return SyncCall(self._loop, self._loop.call(lambda: method(self._inner, *args, **kwargs)))

    blocking.__doc__ = method.__doc__
    return blocking


class SyncLLM(_Namespace[LLM]):
    """The model calls of one agent, see `LLM`."""

    chat = _blocking(LLM.chat)
    complete = _blocking(LLM.complete)
    embed = _blocking(LLM.embed)
    models = _blocking(LLM.models)

    def pause(self, call: SyncCall[R]) -> bool:
        """Ends a call so that others can go on from it, see `LLM.pause`."""
        return self._loop.wait(lambda: self._inner.pause(call._call))

    def fork(self, call: SyncCall[R], count: int = 1, **options: Unpack[GenerationOptions]) -> list[SyncCall[R]]:
        """Goes on from a paused call, as often as wanted, see `LLM.fork`."""
        calls = self._loop.call(lambda: self._inner.fork(call._call, count, **options))
        return [SyncCall(self._loop, forked) for forked in calls]


class SyncCalls(_Namespace[Calls]):
    """The open calls of one agent, see `Calls`."""

    attach = _blocking(Calls.attach)

    def list(self, limit: int = 100, **options: Unpack[CallOptions]) -> "list[SyscallInfo]":
        """Which calls have not ended; the oldest first."""
        return SyncCall(self._loop, self._loop.call(lambda: self._inner.list(limit, **options))).result()

    def cancel(self, call_id: str) -> CancelResult:
        """Ends a call, see `Calls.cancel`."""
        return self._loop.wait(lambda: self._inner.cancel(call_id))


class SyncTools(_Namespace[Tools]):
    """The tools of one agent, see `Tools`."""

    call = _blocking(Tools.call)

    def list(self, **options: Unpack[CallOptions]) -> "list[ToolInfo]":
        """Which tools there are, see `Tools.list`."""
        return SyncCall(self._loop, self._loop.call(lambda: self._inner.list(**options))).result()

    def declare(self, function: F, **options: Unpack[ToolOptions]) -> F:
        """Makes a function a tool, see `Tools.declare`."""
        return self._inner.declare(function, **options)

    def serve(self) -> None:
        """Registers the functions that were declared since the agent connected, see `Tools.serve`."""
        self._loop.wait(self._inner.serve)

    @property
    def served(self) -> tuple[str, ...]:
        """Names of the functions this agent has declared."""
        return self._inner.served


def _waiting(
    method: Callable[Concatenate[N, P], Coroutine[None, None, V]],
) -> Callable[Concatenate[_Namespace[N], P], V]:
    """The same method, which waits for its end."""

    def waiting(self: _Namespace[N], /, *args: P.args, **kwargs: P.kwargs) -> V:
        return self._loop.wait(lambda: method(self._inner, *args, **kwargs))

    waiting.__doc__ = method.__doc__
    return waiting


class SyncContext(_Namespace[Context]):
    """One conversation, see `Context`."""

    chat = _blocking(Context.chat)
    append = _blocking(Context.append)
    get = _blocking(Context.get)
    window = _blocking(Context.window)
    pin = _blocking(Context.pin)
    grant = _blocking(Context.grant)
    snapshot = _blocking(Context.snapshot)
    restore = _blocking(Context.restore)
    compress = _blocking(Context.compress)
    close = _blocking(Context.close)

    @property
    def name(self) -> str:
        """Its name among the agent's own."""
        return self._inner.name

    def fork(
        self, name: str | None = None, *, at_version: int | None = None, **options: Unpack[CallOptions]
    ) -> "SyncContext":
        """Makes a conversation that shares the past of this one and waits for it, see `Context.fork`."""
        call = self._loop.call(lambda: self._inner.fork(name, at_version=at_version, **options))
        return SyncContext(self._loop, self._loop.wait(lambda: call))


def _opening(
    method: Callable[Concatenate[N, P], Call[Context]],
) -> Callable[Concatenate[_Namespace[N], P], SyncContext]:
    """The same method, which waits for the conversation."""

    def opening(self: _Namespace[N], /, *args: P.args, **kwargs: P.kwargs) -> SyncContext:
        call = self._loop.call(lambda: method(self._inner, *args, **kwargs))
        return SyncContext(self._loop, self._loop.wait(lambda: call))

    opening.__doc__ = method.__doc__
    return opening


class SyncContexts(_Namespace[Contexts]):
    """The conversations of one agent, see `Contexts`."""

    open = _opening(Contexts.open)
    fork = _opening(Contexts.fork)
    restore = _opening(Contexts.restore)
    read = _blocking(Contexts.read)
    list = _blocking(Contexts.list)
    discard = _blocking(Contexts.discard)

    def use(self, name: str) -> SyncContext:
        """A conversation that was opened before, see `Contexts.use`."""
        return SyncContext(self._loop, self._inner.use(name))


class SyncStorage(_Namespace[Storage]):
    """The files of one agent, see `Storage`."""

    write = _waiting(Storage.write)
    write_file = _waiting(Storage.write_file)
    read = _waiting(Storage.read)
    read_text = _waiting(Storage.read_text)
    read_file = _waiting(Storage.read_file)
    info = _blocking(Storage.info)
    list = _blocking(Storage.list)
    delete = _blocking(Storage.delete)
    move = _blocking(Storage.move)
    versions = _blocking(Storage.versions)
    rollback = _blocking(Storage.rollback)
    search = _blocking(Storage.search)
    share = _blocking(Storage.share)
    shares = _blocking(Storage.shares)
    mount = _blocking(Storage.mount)
    unmount = _blocking(Storage.unmount)
    interactions = _blocking(Storage.interactions)


class SyncMemories(_Namespace[Memories]):
    """The notes of one agent, see `Memories`."""

    add = _blocking(Memories.add)
    get = _blocking(Memories.get)
    update = _blocking(Memories.update)
    remove = _blocking(Memories.remove)
    search = _blocking(Memories.search)
    list = _blocking(Memories.list)
    inject = _blocking(Memories.inject)
    forget = _blocking(Memories.forget)
    usage = _blocking(Memories.usage)
    grant = _blocking(Memories.grant)
    revoke = _blocking(Memories.revoke)
    create_pool = _blocking(Memories.create_pool)
    grant_pool = _blocking(Memories.grant_pool)
    revoke_pool = _blocking(Memories.revoke_pool)
    pools = _blocking(Memories.pools)
    add_memory = create_memory = add
    get_memory = get
    update_memory = update
    remove_memory = delete_memory = remove
    retrieve_memory = search_memories = search
