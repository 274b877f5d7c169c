"""The emulated engine behind the HTTP front: the batcher on the loop's clock, and answers made of filler words.

Tokens are delivered every `tick_s`, those of several steps together; the times of steps are exact, as the batcher
computes them, and do not depend on when the loop came round.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from aios_engine.backend import (
    Backend,
    Ending,
    GeneratedToken,
    Generation,
    GenerationRequest,
    Load,
    ModelFacts,
    Progress,
    StepReport,
    TokenEvent,
)
from aios_engine.core.stopping import FinishReason
from aios_engine.emulator import tokens
from aios_engine.emulator.batcher import Batcher, Job
from aios_engine.emulator.settings import EmulatorSettings
from aios_engine.emulator.timing import HARDWARE
from aios_engine.errors import IncompleteGenerationError, ValidationError
from aios_engine.http.front import Front
from aios_engine.service import open_front

_CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@dataclass(slots=True, eq=False)
class EmulatedGeneration:
    """One generation; see `backend.Generation`."""

    job: Job
    progress: Progress
    cancel: Callable[["EmulatedGeneration"], None]
    tells_top: bool = False
    events: asyncio.Queue[TokenEvent | None] = field(default_factory=asyncio.Queue)
    delivered: int = 0
    ended: bool = False

    async def __aiter__(self) -> AsyncIterator[TokenEvent]:
        """Tokens as they come."""
        while True:
            event = await self.events.get()
            if event is None:
                raise IncompleteGenerationError
            yield event
            if event.ending is not None:
                return

    def close(self) -> None:
        """Stops it at the end of the step, if it has not ended."""
        if not self.ended:
            self.cancel(self)


class EmulatedBackend:
    """`backend.Backend` that takes a GPU's time.

    Args:
        settings: what it pretends to be.
        observe: told of what happened since the last tick, as one step.
    """

    def __init__(self, settings: EmulatorSettings, observe: Callable[[StepReport], None]) -> None:
        hardware = HARDWARE[settings.hardware]
        self._batcher = Batcher(
            hardware,
            kv_tokens=settings.kv_tokens,
            chunk_tokens=settings.chunk_tokens,
            max_concurrent=settings.max_concurrent_requests,
            max_batch=settings.max_sequences,
        )
        self._tick_s = settings.tick_s
        self._observe = observe
        self._generations: dict[str, EmulatedGeneration] = {}
        self._numbers = itertools.count()
        self._changed = asyncio.Event()
        self._closed = False
        self._begun = time.monotonic()
        self._begun_ns = time.time_ns()
        slot_tokens = min(settings.n_ctx, self._batcher.kv_tokens)
        self._facts = ModelFacts(
            id=settings.model,
            description=f"emulated 8B BF16 on {hardware.name}",
            dtype="bfloat16",
            device="emulated",
            vocabulary=tokens.VOCABULARY,
            chat_template=_CHAT_TEMPLATE,
            bos_token=None,
            eos_token=None,
            slots=settings.max_sequences,
            slot_tokens=slot_tokens,
            pool_tokens=self._batcher.kv_tokens,
        )
        self._running = asyncio.create_task(self._run(), name="emulator")

    @property
    def facts(self) -> ModelFacts:
        """What is served."""
        return self._facts

    @property
    def load(self) -> Load:
        """How busy it is now."""
        batcher = self._batcher
        return Load(len(batcher.waiting), batcher.running, batcher.reserved_tokens)

    @property
    def healthy(self) -> bool:
        """Whether time goes on."""
        return not self._closed and not self._running.done()

    def tokenize(self, text: str, *, add_special: bool = True) -> list[int]:
        """Token ids of a text; there are no special ones."""
        return tokens.tokenize(text)

    def piece(self, token: int) -> bytes:
        """The bytes of a token."""
        return tokens.piece(token)

    async def start(self, request: GenerationRequest) -> Generation:
        """Puts a generation into the queue.

        Raises:
            ValidationError: it asks for a grammar, or would never fit.
            IncompleteGenerationError: the backend is closed.
            OverloadedError: as many as allowed are there already.
        """
        if self._closed:
            raise IncompleteGenerationError
        if request.grammar is not None:
            raise ValidationError("grammars are not emulated")
        path, sizes = tokens.blocks(request.prompt)
        job = Job(
            key=str(next(self._numbers)),
            path=path,
            sizes=sizes,
            input_tokens=len(request.prompt),
            output_tokens=tokens.natural_length(request.prompt),
            max_new_tokens=request.max_new_tokens,
        )
        generation = EmulatedGeneration(job, Progress(time.time_ns()), self._cancel, request.top_n_tokens > 0)
        now = self._now()
        self._deliver(now)
        self._batcher.submit(job, now)
        self._generations[job.key] = generation
        self._batcher.advance(now)
        self._changed.set()
        return generation

    async def close(self) -> None:
        """Stops everything."""
        self._closed = True
        self._running.cancel()
        await asyncio.wait([self._running])
        for generation in self._generations.values():
            generation.ended = True
            generation.events.put_nowait(None)
        self._generations.clear()

    def _now(self) -> float:
        return time.monotonic() - self._begun

    def _unix_ns(self, seconds: float) -> int:
        return self._begun_ns + int(seconds * 1e9)

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            self._deliver(self._now())
            if self._batcher.next_time() is None:
                await self._changed.wait()
            else:
                await asyncio.sleep(self._tick_s)

    def _cancel(self, generation: EmulatedGeneration) -> None:
        generation.ended = True
        now = self._now()
        self._deliver(now)
        self._batcher.cancel(generation.job.key, now)
        self._batcher.advance(now)
        self._generations.pop(generation.job.key, None)
        generation.progress.ended_ns = self._unix_ns(now)
        self._changed.set()

    def _deliver(self, now: float) -> None:
        """Hands out the tokens made by `now`."""
        before = self._batcher.totals.busy_s
        prefilled = False
        ended: dict[str, float] = {}
        for happened in self._batcher.advance(now):
            prefilled |= happened.kind == "first"
            if happened.kind == "ended":
                ended[happened.job.key] = happened.at
        for key, generation in list(self._generations.items()):
            job = generation.job
            if job.first_token_at is None:
                continue
            done = key in ended
            self._hand_over(generation, job.length if done else self._batcher.tokens_of(key, now), done=done)
            if done:
                generation.ended = True
                generation.progress.ended_ns = self._unix_ns(ended[key])
                del self._generations[key]
        seconds = self._batcher.totals.busy_s - before
        if seconds > 0:
            self._observe(StepReport("prefill" if prefilled else "decode", 0, self._batcher.running, seconds, seconds))

    def _hand_over(self, generation: EmulatedGeneration, made: int, *, done: bool) -> None:
        job, progress = generation.job, generation.progress
        if progress.prefilled_ns is None and job.first_token_at is not None:
            progress.started_ns = self._unix_ns(job.started_at)
            progress.prefilled_ns = self._unix_ns(job.first_token_at)
            progress.cached_tokens = job.cached_tokens
        for index in range(generation.delivered, made):
            ending = None
            if done and index == made - 1:
                whole = "".join(map(tokens.word, range(made)))
                stopped = job.output_tokens < job.max_new_tokens
                ending = Ending(whole, FinishReason.EOS_TOKEN if stopped else FinishReason.LENGTH, made)
            # It never says anything else, so each word is certain, and the only one that is likely at all.
            token = GeneratedToken(index % 8, tokens.word(index), 0.0, special=False)
            generation.events.put_nowait(TokenEvent(token, (token,) if generation.tells_top else (), ending))
        generation.delivered = progress.generated_tokens = max(generation.delivered, made)


async def open_emulator(front: Front, stop: asyncio.Event) -> Backend | None:
    """The backend of `python -m aios_engine emulate`."""
    settings = front.settings
    assert isinstance(settings, EmulatorSettings)
    backend = EmulatedBackend(settings, front.metrics.stepped)
    open_front(front, backend)
    return backend
