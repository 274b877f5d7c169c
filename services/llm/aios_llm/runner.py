"""How one call is run from prompt to last frame, and what becomes of it when something fails."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Literal

from opentelemetry.trace import SpanKind

from aios_kit import replies
from aios_kit.logs import Log
from aios_kit.tracing import Hop, Tracing
from aios_llm.budget import held_to
from aios_llm.checkpoints import Checkpoints
from aios_llm.context_source import ContextSource
from aios_llm.ports import Engine, EngineInfo, Finish, GenerateRequest
from aios_llm.requests import generate_request, result
from aios_llm.resuming import Resumer, Resumption, can_resume
from aios_llm.run import PAUSED, PREEMPTED, Origin, Run
from aios_llm.settings import WorkerSettings
from aios_llm.tool_calls import as_constrained, wanted_tool
from aios_proto import telemetry
from aios_proto.errors import (
    AiosError,
    DeadlineExceeded,
    EngineFailed,
    EngineOverloaded,
    EngineRefused,
    EngineUnavailable,
    ResourceNotFound,
    SyscallCancelled,
)
from aios_proto.frames import Usage
from aios_proto.kernel import CallEnded, CallResult, CallReturned
from aios_proto.messages.llm import ChatRequest, ChatResult, CompleteRequest

EndOutcome = Literal["done", "error", "cancelled", "deadline"]
ReturnReason = Literal["overloaded", "unavailable", "draining", "failed", "preempted"]
Report = Callable[[CallResult | CallEnded | CallReturned], Awaitable[None]]
KeepResult = Callable[[Run, bytes], Awaitable[None]]

DRAINING = "draining"
_LAST_CHECKPOINT_S = 1.0
_TOLD_BYTES = 16_384


class Runner:
    """Runs calls on one engine.

    Args:
        engine: where tokens come from.
        settings: the worker's name, limits and defaults.
        tracing: for the worker's spans.
        report: tells the scheduler how a call went.
        keep_result: stores the last frame of a call, before the scheduler forgets the call.
        checkpoints: write what was made while it is made.
        resumer: finds what a call that was begun before goes on from.
        contexts: have the conversations of calls that name one.
        log: for what callers are not told.
    """

    def __init__(
        self,
        engine: Engine,
        settings: WorkerSettings,
        tracing: Tracing,
        report: Report,
        keep_result: KeepResult,
        checkpoints: Checkpoints,
        resumer: Resumer,
        contexts: ContextSource,
        log: Log,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._tracing = tracing
        self._report = report
        self._keep_result = keep_result
        self._checkpoints = checkpoints
        self._resumer = resumer
        self._contexts = contexts
        self._log = log

    async def run(self, run: Run, call: ChatRequest | CompleteRequest, info: EngineInfo) -> None:
        """Runs one call; one report follows: `ended` after the caller's last frame, or `returned` without one."""
        headers = run.headers
        hop = self._tracing.hop(
            telemetry.SPAN_WORKER,
            headers.traceparent,
            attributes={
                telemetry.SYSCALL_ID: headers.id,
                telemetry.GEN_AI_OPERATION: "chat" if isinstance(call, ChatRequest) else "text_completion",
                telemetry.GEN_AI_REQUEST_MODEL: call.model or info.model,
                telemetry.WORKER: self._settings.worker_name,
                telemetry.POOL: self._settings.pool,
                telemetry.ATTEMPT: headers.attempt,
            },
        )
        failure: AiosError | None = None
        run.began = True
        try:
            self._checkpoints.begin(run)
            finish = await self._generate_in_time(run, call, info, hop)
            text = await run.finish_text()
            await self._done(run, call, text, finish, info, hop)
        except AiosError as error:
            failure = error
            if isinstance(error, EngineRefused) and error.field == "messages" and isinstance(call, CompleteRequest):
                error.field = "prompt"
            await self._failed(run, error, hop)
        except TimeoutError:
            failure = DeadlineExceeded(f"the deadline passed after {run.transcript.tokens} tokens")
            await self._end(run, failure, "deadline", hop)
        except asyncio.CancelledError:
            failure = SyscallCancelled(f"the call was cancelled after {run.transcript.tokens} tokens")
            await self._cancelled(run, failure, hop)
        except Exception:
            self._log.exception("a run failed", syscall_id=headers.id, trace_id=hop.trace_id)
            failure = replies.internal("llm")
            await self._end(run, failure, "error", hop)
        finally:
            run.close()
            self._checkpoints.leave(run)
            hop.end(None if run.cancel_reason == PREEMPTED else failure)

    async def _generate_in_time(
        self, run: Run, call: ChatRequest | CompleteRequest, info: EngineInfo, hop: Hop
    ) -> Finish:
        try:
            if run.cancel_reason is not None:  # before it began
                raise asyncio.CancelledError
            async with asyncio.timeout(_seconds_left(run.headers.deadline_ms)):
                return await self._generate(run, call, info, hop)
        finally:
            run.ending = True

    async def _generate(self, run: Run, call: ChatRequest | CompleteRequest, info: EngineInfo, hop: Hop) -> Finish:
        resumed_hop = Hop(None)
        if run.attempt > 1 or call.continue_from is not None:
            resumed_hop = self._tracing.hop(telemetry.SPAN_RESUMED, hop.traceparent, kind=SpanKind.INTERNAL)
        try:
            request = await self._prepare(run, call, info, resumed_hop)
            return await self._stream(run, request, hop, resumed_hop)
        finally:
            resumed_hop.end()

    async def _prepare(
        self, run: Run, call: ChatRequest | CompleteRequest, info: EngineInfo, resumed_hop: Hop
    ) -> GenerateRequest:
        """The engine's request: for the whole answer, or for the rest of one that was begun before."""
        checkpoint = await self._checkpoints.load(run.key) if run.attempt > 1 else None
        if checkpoint is not None and checkpoint.prompt is not None:
            prompt = checkpoint.prompt
            call = as_constrained(call) if isinstance(call, ChatRequest) else call
        elif isinstance(call, ChatRequest):
            call = as_constrained(await self._contexts.whole(run.headers, call, info))
            prompt = await self._engine.render(call.messages)
        else:
            prompt = call.prompt
        request = generate_request(prompt, call, run.key, self._settings.llm_default_max_tokens)
        request = await held_to(run.headers.budget_tokens, request, self._engine)
        if info.holds_kv:
            request = replace(request, kv_key=run.key)
        run.resumable = can_resume(request, info)
        if run.resumable:
            keep_prompt = run.headers.context is not None  # what others append there changes it
            run.origin = Origin(info.model, info.fingerprint, prompt, keep_prompt, info.id)
        found = None if checkpoint is None else await self._resumer.resumption(run, checkpoint, request, info)
        if found is None and call.continue_from is not None:
            other = replace(run.headers, id=call.continue_from).key  # one of the caller's own, whatever it names
            found = await self._continuation(other, request, info)
            request = replace(request, kv_from=other)
        if found is None:
            return request
        resumed_hop.set({telemetry.RESUME_LEVEL: found.level, telemetry.RESUMED_TOKENS: found.begun.tokens})
        await run.go_on_from(found.checkpoint, found.begun)
        return replace(request, begun=found.begun)

    async def _continuation(self, other: str, request: GenerateRequest, info: EngineInfo) -> Resumption:
        """What another call has made, to go on from it."""
        checkpoint = await self._checkpoints.of_other(other)
        if checkpoint is None:
            raise ResourceNotFound("nothing is kept of a call of that id", field="continue_from")
        return await self._resumer.continuation(other, checkpoint, request, info)

    async def _stream(self, run: Run, request: GenerateRequest, hop: Hop, resumed_hop: Hop) -> Finish:
        request_hop = self._tracing.hop(
            telemetry.SPAN_ENGINE_REQUEST,
            hop.traceparent,
            kind=SpanKind.CLIENT,
            attributes={telemetry.GEN_AI_REQUEST_MAX_TOKENS: request.max_new_tokens},
        )
        failure: AiosError | None = None
        try:
            async with aclosing(self._engine.generate(request, request_hop.traceparent)) as stream:
                async for item in stream:
                    resumed_hop.end()
                    if run.first_token_us is None:
                        hop.event(telemetry.EVENT_FIRST_TOKEN)
                    if isinstance(item, Finish):
                        run.ending = True  # a checkpoint or a stop after the last token would have it made again
                        if item.last is not None:
                            await run.add(item.last.text, item.last.tokens, item.last.ids, item.last.scored)
                        return item
                    await run.add(item.text, item.tokens, item.ids, item.scored)
                    self._checkpoints.progressed(run)
            raise EngineFailed("the engine's stream ended without an end")
        except AiosError as error:
            failure = error
            raise
        except asyncio.CancelledError:
            failure = SyscallCancelled("the request to the engine was closed")
            raise
        finally:
            request_hop.end(failure)

    async def _done(
        self, run: Run, call: ChatRequest | CompleteRequest, text: str, finish: Finish, info: EngineInfo, hop: Hop
    ) -> None:
        prompt_tokens = finish.prompt_tokens + run.inherited
        usage = Usage(
            prompt_tokens=prompt_tokens,
            completion_tokens=finish.completion_tokens - run.inherited,
            cached_tokens=min(prompt_tokens, finish.cached_tokens),
        )
        hop.set(
            {
                telemetry.GEN_AI_RESPONSE_MODEL: info.model,
                telemetry.GEN_AI_INPUT_TOKENS: usage.prompt_tokens,
                telemetry.GEN_AI_OUTPUT_TOKENS: usage.completion_tokens,
                telemetry.CACHED_TOKENS: usage.cached_tokens,
            }
        )
        answer = result(call, text, finish, info.model, run.headers.id)
        tool = ""
        if isinstance(call, ChatRequest) and isinstance(answer, ChatResult):
            await self._contexts.record(run.headers, call, answer.message)
            tool = wanted_tool(answer.message)
        frame = replies.done(
            run.headers.id,
            answer,
            usage=usage,
            timings=run.timings(),
            worker=self._settings.worker_name,
            logprobs=None if run.scores is None else run.scores.entries(run.scores.certain),
        )
        await self._send_last(run, frame, "done", None, usage, tool)

    async def _failed(self, run: Run, error: AiosError, hop: Hop) -> None:
        """A failure of the engine is the scheduler's to deal with; anything else is the caller's to hear."""
        match error:
            case EngineOverloaded():
                await self._return(run, "overloaded", error)
            case EngineUnavailable():
                await self._return(run, "unavailable", error)
            case EngineFailed():
                await self._return(run, "failed", error)
            case _:
                await self._end(run, error, "error", hop)

    async def _cancelled(self, run: Run, error: AiosError, hop: Hop) -> None:
        if run.cancel_reason == PREEMPTED:
            await self._preempted(run, hop)
        elif run.cancel_reason == DRAINING:
            await self._return(run, "draining", error)
        elif run.cancel_reason == "deadline":
            late = DeadlineExceeded(f"the deadline passed after {run.transcript.tokens} tokens")
            await self._end(run, late, "deadline", hop)
        else:
            if run.cancel_reason == PAUSED:  # before the caller hears of it, and may want to go on
                run.kept = await self._checkpoints.write_now(run, _LAST_CHECKPOINT_S)
            await self._end(run, error, "cancelled", hop)

    async def _preempted(self, run: Run, hop: Hop) -> None:
        """Gives the call back with what it has made; its KV stays in the engine, and may go to the store after that."""
        span = self._tracing.hop(
            telemetry.SPAN_PREEMPTED,
            hop.traceparent,
            kind=SpanKind.INTERNAL,
            attributes={telemetry.PREEMPTED_TOKENS: run.tokens},
            start_ns=run.preempted_ns,
        )
        await self._return(run, "preempted", SyscallCancelled(f"stopped after {run.tokens} tokens"))
        span.end()

    async def _end(self, run: Run, error: AiosError, outcome: EndOutcome, hop: Hop) -> None:
        usage = run.usage_so_far()
        if run.streaming:
            await run.flush()
        frame = replies.failed(run.headers.id, error, trace_id=hop.trace_id, usage=usage)
        await self._send_last(run, frame, outcome, error.code, usage)

    async def _send_last(
        self, run: Run, frame: bytes, outcome: EndOutcome, code: str | None, usage: Usage, tool: str = ""
    ) -> None:
        # The caller first: if this process dies before the result is kept, the call runs once more and the caller
        # ignores the second answer.
        await run.send_last(frame)
        if run.headers.awaited and outcome == "done" and len(frame) <= _TOLD_BYTES:
            place = {"pool": self._settings.pool, "worker": self._settings.worker_name}
            await self._report(CallResult(**place, key=run.headers.key, frame=frame.decode()))
        await self._keep_result(run, frame)
        if not run.kept:
            self._checkpoints.forget(run)
        await self._report(
            CallEnded(
                pool=self._settings.pool,
                worker=self._settings.worker_name,
                key=run.headers.key,
                attempt=run.headers.attempt,
                outcome=outcome,
                code=code,
                usage=usage,
                tool=tool,
            )
        )
        if outcome != "done" and not run.kept:
            await self._engine.release_kv(run.key)  # an engine that was stopped holds it for going on

    async def _return(self, run: Run, reason: ReturnReason, error: AiosError) -> None:
        if run.streaming:
            await run.flush()
        await self._checkpoints.write_now(run, _LAST_CHECKPOINT_S)
        self._checkpoints.leave(run)
        await self._report(
            CallReturned(
                pool=self._settings.pool,
                worker=self._settings.worker_name,
                key=run.headers.key,
                attempt=run.headers.attempt,
                reason=reason,
                message=error.message,
                retry_after_s=error.retry_after_s or 0.0,
                tokens=run.tokens,
            )
        )


def _seconds_left(deadline_ms: int | None) -> float | None:
    return None if deadline_ms is None else max(0.0, deadline_ms / 1000 - time.time())
