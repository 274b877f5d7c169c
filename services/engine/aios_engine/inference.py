"""How a validated request becomes tokens: permits, queueing, and what is counted and traced on the way.

As in text-generation-inference, a request first needs one of `max_concurrent_requests` permits and fails at once
where there is none, and is only then validated.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from opentelemetry.trace import SpanKind

from aios_engine.backend import (
    Backend,
    Ending,
    GeneratedToken,
    Generation,
    GenerationRequest,
    Progress,
    PromptToken,
)
from aios_engine.errors import (
    EngineError,
    IncompleteGenerationError,
    OverloadedError,
    TemplateRejectedError,
    ToolError,
    UnhealthyError,
    ValidationError,
)
from aios_engine.metrics import EngineMetrics, FailureKind
from aios_engine.validation import Limits, validate, validate_best_of
from aios_engine.wire import GenerateRequest
from aios_kit.tracing import Hop, Tracing
from aios_proto import telemetry

T = TypeVar("T")

_INLINE_TOKENIZE_CHARS = 8192
"""Longer texts are tokenised in a thread, so that they do not hold up the loop; shorter take well under 1 ms."""


@dataclass(frozen=True, slots=True)
class Running:
    """A generation under way."""

    request: GenerationRequest
    generation: Generation
    received_ns: int


@dataclass(frozen=True, slots=True)
class Completed:
    """A generation that has ended, whole."""

    request: GenerationRequest
    tokens: tuple[GeneratedToken, ...]
    top_tokens: tuple[tuple[GeneratedToken, ...], ...]
    ending: Ending
    progress: Progress
    received_ns: int

    @property
    def prefill(self) -> tuple[PromptToken, ...]:
        """The prompt with log-probabilities, if asked for."""
        return self.progress.prefill

    @property
    def mean_logprob(self) -> float:
        """What `best_of` compares."""
        return sum(token.logprob for token in self.tokens) / len(self.tokens)


async def gather_first_error(work: Iterable[Coroutine[None, None, T]]) -> list[T]:
    """Runs coroutines side by side; the first that fails cancels the others, and its error is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in work]
    except BaseExceptionGroup as errors:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None
    return [task.result() for task in tasks]


class Inference:
    """Runs requests on a backend."""

    def __init__(
        self, backend: Backend, limits: Limits, max_concurrent_requests: int, metrics: EngineMetrics, tracing: Tracing
    ) -> None:
        self.backend = backend
        self.limits = limits
        self.metrics = metrics
        self._tracing = tracing
        self._permits = max_concurrent_requests

    @asynccontextmanager
    async def run(self, request: GenerateRequest, hop: Hop) -> AsyncIterator[Running]:
        """Starts a generation and sees to its end, whichever way the block is left.

        Args:
            request: as it came.
            hop: the span of the HTTP request.

        Raises:
            EngineError: it was refused, or failed.
        """
        received_ns = time.time_ns()
        if self._permits <= 0:
            self._count_failure(OverloadedError())
            raise OverloadedError
        self._permits -= 1
        generation: Generation | None = None
        try:
            valid = await self.validate(request)
            generation = await self.backend.start(valid)
            self.metrics.queued(len(valid.prompt), valid.max_new_tokens)
            yield Running(valid, generation, received_ns)
            self.metrics.succeeded(received_ns, generation.progress)
        except EngineError as error:
            self._count_failure(error)
            raise
        finally:
            self._permits += 1
            if generation is not None:
                generation.close()
                self._trace(hop, generation.progress, len(valid.prompt))

    async def validate(self, request: GenerateRequest) -> GenerationRequest:
        """What a request asks for.

        Raises:
            ValidationError: it cannot be served.
        """
        ids = await self.tokenize(request.inputs, add_special=request.add_special_tokens)
        return validate(request, self.limits, lambda: ids)

    async def tokenize(self, text: str, *, add_special: bool = True) -> list[int]:
        """Token ids of a text."""
        if len(text) <= _INLINE_TOKENIZE_CHARS:
            return self.backend.tokenize(text, add_special=add_special)
        return await asyncio.to_thread(self.backend.tokenize, text, add_special=add_special)

    async def complete(self, request: GenerateRequest, hop: Hop) -> Completed:
        """Runs a generation to its end.

        Raises:
            EngineError: it was refused, or failed.
        """
        async with self.run(request, hop) as running:
            tokens: list[GeneratedToken] = []
            top_tokens: list[tuple[GeneratedToken, ...]] = []
            async for event in running.generation:
                tokens.append(event.token)
                top_tokens.append(event.top_tokens)
                if event.ending is not None:
                    return Completed(
                        running.request,
                        tuple(tokens),
                        tuple(top_tokens) if running.request.top_n_tokens else (),
                        event.ending,
                        running.generation.progress,
                        running.received_ns,
                    )
            raise IncompleteGenerationError

    async def complete_best_of(
        self, request: GenerateRequest, best_of: int, hop: Hop
    ) -> tuple[Completed, list[Completed]]:
        """Runs a request several times, each with a seed of its own.

        Returns:
            The one whose tokens have the highest mean log-probability, and the others.

        Raises:
            EngineError: one of them was refused, or failed.
        """
        try:
            validate_best_of(best_of, self.limits)
        except ValidationError as error:
            self._count_failure(error)
            raise
        completed = await gather_first_error(self.complete(request, hop) for _ in range(best_of))
        best = max(completed, key=lambda one: one.mean_logprob)
        completed.remove(best)
        return best, completed

    def refused(self, error: EngineError) -> EngineError:
        """Counts an error found before the generation began."""
        self._count_failure(error)
        return error

    def _count_failure(self, error: EngineError) -> None:
        kinds: dict[type[EngineError], FailureKind] = {
            OverloadedError: "overloaded",
            ValidationError: "validation",
            IncompleteGenerationError: "incomplete",
            TemplateRejectedError: "template",
            ToolError: "tool",
            UnhealthyError: "unhealthy",
        }
        self.metrics.failed(kinds.get(type(error), "generation"))

    def _trace(self, hop: Hop, progress: Progress, input_tokens: int) -> None:
        if not hop.recording:
            return
        hop.set(
            {
                telemetry.GEN_AI_INPUT_TOKENS: input_tokens,
                telemetry.GEN_AI_OUTPUT_TOKENS: progress.generated_tokens,
                telemetry.CACHED_TOKENS: progress.cached_tokens,
            }
        )
        ended = progress.ended_ns or time.time_ns()
        marks = (
            ("queue", progress.queued_ns, progress.started_ns),
            ("prefill", progress.started_ns, progress.prefilled_ns),
            ("decode", progress.prefilled_ns, ended),
        )
        for name, start, end in marks:
            if start is not None:
                span = self._tracing.hop(f"engine.{name}", hop.traceparent, kind=SpanKind.INTERNAL, start_ns=start)
                span.end(time_ns=end or ended)
