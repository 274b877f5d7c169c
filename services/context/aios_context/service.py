"""The context manager on the bus: which operations it serves, and what it is made of."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from aios_context.adapters.kv_context_store import KvContextStore
from aios_context.adapters.llm_calls import LlmSummariser, LlmTokeniser
from aios_context.changing import Changing
from aios_context.contexts import Contexts, Quotas
from aios_context.core.history import Limits
from aios_context.core.reminder import Reminding
from aios_context.counting import Counting
from aios_context.logs import Logs
from aios_context.settings import ContextSettings
from aios_context.sweeping import Sweep
from aios_context.windows import SummaryTiming, Windows
from aios_kit.service import Call, Service
from aios_kit.tasks import end
from aios_proto.errors import ManagerUnavailable
from aios_proto.headers import CallHeaders
from aios_proto.messages.base import Body, Empty, Result

B = TypeVar("B", bound=Body)
R = TypeVar("R", bound=Result)


class ContextService:
    """Wires contexts to the bus."""

    def __init__(self, settings: ContextSettings) -> None:
        self.settings = settings
        self.service = Service("context", settings)
        self._contexts: Contexts | None = None
        self._windows: Windows | None = None
        self._sweeping: asyncio.Task[None] | None = None
        self._serve()
        self.service.before_start(self._open)
        self.service.on_drain(self._drain)
        self.service.on_stop(self._stop)

    def _serve(self) -> None:
        serve = self.service.serve
        serve("context", "open", self._with_contexts(Contexts.open))
        serve("context", "append", self._with_contexts(Contexts.append))
        serve("context", "get", self._with_contexts(Contexts.get))
        serve("context", "fork", self._with_contexts(Contexts.fork))
        serve("context", "snapshot", self._with_contexts(Contexts.snapshot))
        serve("context", "restore", self._with_contexts(Contexts.restore))
        serve("context", "discard", self._with_contexts(Contexts.discard))
        serve("context", "pin", self._with_contexts(Contexts.pin))
        serve("context", "grant", self._with_contexts(Contexts.grant))
        serve("context", "close", self._with_contexts(Contexts.close))
        serve("context", "record", self._with_contexts(Contexts.record))
        serve("context", "list", self._list)
        serve("context", "window", self._with_windows(Windows.window))
        serve("context", "compress", self._with_windows(Windows.compress))

    async def _open(self) -> None:
        settings, service = self.settings, self.service
        store = await KvContextStore.open(service.js, settings.jetstream_replicas)
        limits = Limits(settings.context_max_bytes, settings.context_max_turns)
        quotas = Quotas(
            limits,
            settings.context_per_agent,
            settings.context_snapshots_per_agent,
            settings.context_ttl_s,
            settings.context_snapshot_ttl_s,
        )
        logs = Logs(store, settings.context_cache_bytes)
        changing = Changing(store, logs)
        counting = Counting(LlmTokeniser(service.kernel_calls, settings.context_tokenise_deadline_s))
        timing = SummaryTiming(
            settings.context_summary_at, settings.context_summary_target, settings.context_summaries_at_once
        )
        self._contexts = Contexts(store, logs, changing, counting, quotas, _now_ms)
        self._windows = Windows(
            self._contexts,
            logs,
            changing,
            counting,
            LlmSummariser(service.kernel_calls, settings.context_summary_deadline_s),
            limits,
            timing,
            Reminding(settings.context_remind_after_tokens, settings.context_reminder_tokens),
            _now_ms,
            service.log,
        )
        sweep = Sweep(store, settings.context_sweep_grace_s, service.log)
        self._sweeping = asyncio.create_task(sweep.run(settings.context_sweep_s), name="sweep")

    async def _drain(self) -> None:
        if self._windows is not None:
            await self._windows.drain(0)

    async def _stop(self) -> None:
        if self._sweeping is not None:
            await end(self._sweeping)

    async def _list(self, call: Call[Empty]) -> Result:
        if self._contexts is None:
            raise _not_open()
        return await self._contexts.list(call.headers)

    def _with_contexts(
        self, operation: Callable[[Contexts, CallHeaders, B], Awaitable[R]]
    ) -> Callable[[Call[B]], Awaitable[R]]:
        async def handle(call: Call[B]) -> R:
            if self._contexts is None:
                raise _not_open()
            return await operation(self._contexts, call.headers, call.body)

        return handle

    def _with_windows(
        self, operation: Callable[[Windows, CallHeaders, B], Awaitable[R]]
    ) -> Callable[[Call[B]], Awaitable[R]]:
        async def handle(call: Call[B]) -> R:
            if self._windows is None:
                raise _not_open()
            return await operation(self._windows, call.headers, call.body)

        return handle


def _not_open() -> ManagerUnavailable:
    return ManagerUnavailable("the context manager is starting", retry_after_s=1)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
