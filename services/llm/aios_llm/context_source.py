"""Where the messages of a chat call that names a context come from, and where its new turns and its answer go.

The context manager decides what fits the model's window; the worker renders what it gets with the one template, so a
context has one prompt and the engine finds its beginning in the prefix cache. Turns and answer are recorded together,
before the caller hears that the call is done, and once however often the call is run.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from aios_kit.kernel_calls import KernelCalls
from aios_llm.ports import EngineInfo
from aios_proto.errors import BusUnavailable, DeadlineExceeded, ManagerUnavailable
from aios_proto.headers import CallHeaders
from aios_proto.messages.context import MIN_WINDOW_TOKENS, ContextInfo, RecordRequest, WindowRequest, WindowResult
from aios_proto.messages.llm import ChatMessage, ChatRequest

R = TypeVar("R")

_TRIES = 6
_AGAIN_S = 0.5


class ContextSource:
    """Asks the context manager.

    Args:
        calls: of this worker.
        default_max_tokens: new tokens of a call that names no limit.
        timeout_s: longest wait for one answer.
    """

    def __init__(self, calls: KernelCalls, default_max_tokens: int, timeout_s: float) -> None:
        self._calls = calls
        self._default_max_tokens = default_max_tokens
        self._timeout_s = timeout_s

    async def whole(self, headers: CallHeaders, call: ChatRequest, info: EngineInfo) -> ChatRequest:
        """The call with all messages that are to be sent; itself where it names no context.

        Raises:
            ResourceNotFound: there is no such context of the caller's.
            InvalidRequest: what must be sent does not fit the window.
            AiosError: the context manager could not be asked.
        """
        if headers.context is None:
            return call
        room = info.max_total_tokens - (call.max_tokens or self._default_max_tokens)
        request = WindowRequest(
            context=headers.context,
            messages=call.messages,
            model=info.model,
            max_tokens=max(MIN_WINDOW_TOKENS, min(room, info.max_input_tokens)),
            for_call=headers.id,
        )
        window = await _patiently(
            lambda: self._calls.call(
                "context", "window", request, WindowResult, on_behalf=headers, deadline_s=self._timeout_s
            )
        )
        return call.model_copy(update={"messages": window.messages})

    async def record(self, headers: CallHeaders, call: ChatRequest, answer: ChatMessage) -> None:
        """Adds the call's own turns and its answer to its context, if it names one.

        Raises:
            ResourceNotFound: the context was closed meanwhile.
            QuotaExhausted: the context is full.
            AiosError: the context manager could not be asked.
        """
        if headers.context is None:
            return
        request = RecordRequest(context=headers.context, messages=[*call.messages, answer], for_call=headers.id)
        await _patiently(
            lambda: self._calls.call(
                "context", "record", request, ContextInfo, on_behalf=headers, deadline_s=self._timeout_s
            )
        )


async def _patiently(ask: Callable[[], Awaitable[R]]) -> R:
    """Asks again for a while: a manager that is restarted, or a bus that is away, comes back within seconds.

    Asking twice does no harm: the manager knows a call by its id.
    """
    for _ in range(_TRIES - 1):
        try:
            return await ask()
        except (BusUnavailable, ManagerUnavailable):
            await asyncio.sleep(_AGAIN_S)
        except DeadlineExceeded:
            pass  # if it was the call's own deadline, the next attempt ends at once
    return await ask()
