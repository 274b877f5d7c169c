"""What a model call on a context sends, and how contexts are made shorter: the operations that need a model."""

import asyncio
import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from weakref import WeakValueDictionary

from aios_context.changing import Changing
from aios_context.contexts import Contexts, plain
from aios_context.core import compression, history, window
from aios_context.core.compression import Compression
from aios_context.core.head import Head
from aios_context.core.history import Change, Limits
from aios_context.core.record import Message
from aios_context.core.reminder import Reminding, reminder
from aios_context.core.view import Turn, all_turns, visible
from aios_context.counting import Counting, Measured
from aios_context.logs import Logs
from aios_context.ports import Counts, Summariser
from aios_kit.logs import Log
from aios_kit.tasks import Tasks
from aios_proto.errors import AiosError, EngineFailed, InvalidRequest, ResourceConflict, ResourceNotFound
from aios_proto.headers import CallHeaders
from aios_proto.ids import new_syscall_id
from aios_proto.messages.context import (
    MIN_WINDOW_TOKENS,
    CompressRequest,
    CompressResult,
    WindowRequest,
    WindowResult,
)
from aios_proto.messages.llm import ChatMessage

# Turns are counted one by one; a tokeniser may count the whole a little differently.
_MARGIN = 0.01
_REMEMBERED_FAILURES = 10_000
_COMPRESSIONS = 3


@dataclass(frozen=True, slots=True)
class SummaryTiming:
    """When the policy `summarise` makes a summary, in shares of the window.

    Attributes:
        at: a prompt of this size begins one.
        target: what it leaves.
        at_once: summaries made at the same time.
    """

    at: float
    target: float
    at_once: int


class Windows:
    """Serves `context.window` and `context.compress`.

    Args:
        contexts: finds the caller's contexts.
        logs: reads their logs.
        changing: writes summaries.
        counting: counts tokens.
        summariser: makes summaries.
        limits: of one context.
        timing: of the policy `summarise`.
        reminding: when pinned turns are repeated.
        now_ms: Unix time.
        log: for summaries that failed with nobody waiting for them.
    """

    def __init__(
        self,
        contexts: Contexts,
        logs: Logs,
        changing: Changing,
        counting: Counting,
        summariser: Summariser,
        limits: Limits,
        timing: SummaryTiming,
        reminding: Reminding,
        now_ms: Callable[[], int],
        log: Log,
    ) -> None:
        self._contexts = contexts
        self._logs = logs
        self._changing = changing
        self._counting = counting
        self._summariser = summariser
        self._limits = limits
        self._timing = timing
        self._reminding = reminding
        self._now_ms = now_ms
        self._log = log
        self._tasks = Tasks(timing.at_once, log)
        self._locks: WeakValueDictionary[tuple[str, str, str], asyncio.Lock] = WeakValueDictionary()
        self._compressing: set[str] = set()
        self._failed: dict[str, int] = {}

    async def window(self, caller: CallHeaders, request: WindowRequest) -> WindowResult:
        """See `context.window`."""
        head = await self._contexts.readable(caller, request.context)
        recorded = None if request.for_call is None else head.recall(request.for_call)
        turns = visible(all_turns(await self._logs.records(head, None if recorded is None else recorded.before)))
        new = [Turn(head.turns + n, head.version, message) for n, message in enumerate(plain(request.messages))]
        measured = await self._counting.measure([*turns, *new], request.model or head.model, caller)
        own, others = measured.turns[: len(turns)], measured.turns[len(turns) :]
        most = _prompt_tokens(head.window_tokens, request.max_tokens, measured.counts)
        other_tokens = measured.counts.prompt_overhead + sum(sized.tokens for sized in others)
        chosen = window.plan(own, other_tokens, most, head.policy)
        reminders: list[Message] = []
        sent = {turn.number for turn in chosen.turns}
        said = reminder([sized for sized in own if sized.turn.number in sent], new, self._reminding)
        if said is not None:
            extra = await self._counting.measure([Turn(head.turns, head.version, said)], measured.counts.model, caller)
            with suppress(InvalidRequest):  # where there is no room for it, the window goes without
                chosen = window.plan(own, other_tokens + extra.turns[0].tokens, most, head.policy)
                reminders = [said]
        if head.policy == "summarise" and chosen.tokens + chosen.left_out_tokens > self._timing.at * most:
            target = max(MIN_WINDOW_TOKENS, int(self._timing.target * most))
            await self._summarise_soon(caller, head, target, measured.counts.model)
        return WindowResult(
            context=head.name,
            version=head.version,
            messages=[
                *(ChatMessage.model_validate(message) for message in (*(t.message for t in chosen.turns), *reminders)),
                *request.messages,
            ],
            tokens=chosen.tokens,
            left_out=chosen.left_out,
            left_out_tokens=chosen.left_out_tokens,
        )

    async def compress(self, caller: CallHeaders, request: CompressRequest) -> CompressResult:
        """See `context.compress`. One at a time for each context here; another replica's is noticed at the end."""
        lock = self._locks.setdefault((caller.tenant, caller.agent, request.context), asyncio.Lock())
        async with lock:
            for _ in range(_COMPRESSIONS - 1):
                with suppress(ResourceConflict):
                    return await self._compress(caller, request)
            return await self._compress(caller, request)

    async def drain(self, timeout_s: float) -> None:
        """Ends the summaries nobody waits for; they are begun again when the context is used next."""
        await self._tasks.drain(timeout_s)

    async def _compress(self, caller: CallHeaders, request: CompressRequest) -> CompressResult:
        head = await self._contexts.readable(caller, request.context)
        if (done := head.recall(caller.id)) is not None:
            return CompressResult(context=head.name, version=done.version, **dict(done.extra))
        turns = visible(all_turns(await self._logs.records(head)))
        measured = await self._counting.measure(turns, request.model or head.model, caller)
        chosen = compression.plan(measured.turns, measured.counts.prompt_overhead, request.target_tokens)
        if not chosen.summarised:
            return CompressResult(
                context=head.name,
                version=head.version,
                before_tokens=chosen.before_tokens,
                after_tokens=chosen.before_tokens,
            )
        text, figures = await self._summary(caller, chosen, measured)
        change = Change(caller.id, self._now_ms())

        def decide(stored: Head | None) -> Head:
            if stored is None or not stored.lives(change.now_ms):
                raise ResourceNotFound(f"there is no context {head.name}", field="context")
            return history.summarise(
                stored,
                change,
                compression.summary_message(text),
                chosen.summary_of,
                self._limits,
                rewrites=head.rewrites,
                figures=figures,
            )

        changed = await self._changing.change(caller.tenant, caller.agent, head.name, caller.id, decide)
        return CompressResult(context=head.name, version=changed.version, **figures)

    async def _summary(
        self, caller: CallHeaders, chosen: Compression, measured: Measured
    ) -> tuple[str, dict[str, int]]:
        """Folds the chosen turns into one summary; returns it with what it cost and saved."""
        counts = measured.counts
        texts = compression.parts(chosen, min(counts.max_total_tokens, counts.max_input_tokens + chosen.summary_tokens))
        summary: str | None = None
        asked: list[str] = []
        answered: list[str] = []
        for number, part in enumerate(texts):
            messages = compression.request(summary, part, chosen.summary_tokens)
            call_id = hashlib.sha256(f"{caller.key} {number}".encode()).hexdigest()[:26]
            summary = await self._summariser.ask(messages, chosen.summary_tokens, counts.model, caller, call_id)
            if not summary.strip():
                raise EngineFailed("the model's summary is empty")
            asked += [message.content or "" for message in messages]
            answered.append(summary)
        text = summary or ""
        content = str(compression.summary_message(text)["content"])
        spent = (await self._counting.count([*asked, *answered, content], counts.model, caller)).tokens
        overhead = len(texts) * (2 * counts.turn_overhead + counts.prompt_overhead)
        return text, {
            "before_tokens": chosen.before_tokens,
            "after_tokens": chosen.rest_tokens + spent[-1] + counts.turn_overhead,
            "summarised_turns": len(chosen.summarised),
            "model_calls": len(texts),
            "spent_prompt_tokens": sum(spent[: len(asked)]) + overhead,
            "spent_completion_tokens": sum(spent[len(asked) : -1]),
        }

    async def _summarise_soon(self, caller: CallHeaders, head: Head, target_tokens: int, model: str) -> None:
        """Begins a summary nobody waits for, unless one is being made or this state has failed before.

        The call at hand does not wait: it holds a worker's place, which the summary may need.
        """
        key = f"{head.tenant}.{head.agent}.{head.name}"
        if (
            key in self._compressing
            or self._failed.get(key) == head.version
            or len(self._tasks) >= self._timing.at_once
        ):
            return
        self._compressing.add(key)
        request = CompressRequest(context=head.name, target_tokens=target_tokens, model=model)
        behalf = replace(caller, id=new_syscall_id(), deadline_ms=None, reply="")
        await self._tasks.start(self._compress_alone(behalf, request, key, head.version), f"summarise {key}")

    async def _compress_alone(self, caller: CallHeaders, request: CompressRequest, key: str, version: int) -> None:
        self._failed.pop(key, None)
        try:
            done = await self.compress(caller, request)
            self._log.info("a context was summarised", context=key, before=done.before_tokens, after=done.after_tokens)
        except AiosError as error:
            self._log.warning("a context could not be summarised", context=key, error=str(error))
            if len(self._failed) >= _REMEMBERED_FAILURES:
                self._failed.clear()
            self._failed[key] = version
        finally:
            self._compressing.discard(key)


def _prompt_tokens(own: int | None, wanted: int | None, counts: Counts) -> int:
    """Most tokens of the prompt: by the context, by the call, by the model."""
    engine = counts.max_input_tokens - max(8, int(counts.max_input_tokens * _MARGIN))
    return max(1, min(tokens for tokens in (own, wanted, engine) if tokens is not None))
