"""Which requests are in each step of an emulated engine, and when the step ends: a state machine without a clock.

Text-generation-inference's scheduling: one FIFO queue whose head blocks the rest, admission where input and
`max_new_tokens` fit the KV pool, prompts prefilled in chunks beside the sequences that decode, a cancelled request
leaves at the end of the step, and beyond `max_concurrent` requests are refused at once. Between two changes of the
batch every step has the same shape, so they are taken in one leap: a request costs O(log n), not O(tokens).
"""

import heapq
import math
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field

from aios_engine.emulator.prefix_cache import Node, PrefixCache
from aios_engine.emulator.timing import Hardware
from aios_engine.errors import OverloadedError, ValidationError


@dataclass(slots=True, eq=False)
class Job:
    """One request.

    Attributes:
        path: keys of the prompt's segments; each stands for the prompt up to its end.
        sizes: tokens of each segment; their sum is at most `input_tokens`.
        output_tokens: tokens after which the model would stop by itself.
        max_new_tokens: KV reserved for the answer, and its longest length.
        cached_tokens: prompt tokens found in the prefix cache.
        first_token_at: when its prompt was computed (seconds).
    """

    key: str
    path: tuple[Hashable, ...]
    sizes: tuple[int, ...]
    input_tokens: int
    output_tokens: int
    max_new_tokens: int
    cached_tokens: int = 0
    computed: int = 0
    started_at: float = 0.0
    first_token_at: float | None = None
    finish_step: int = 0
    reserved: int = 0
    pinned: Node | None = None
    cancelled: bool = False
    running: bool = False

    @property
    def length(self) -> int:
        """Tokens it will generate."""
        return max(1, min(self.output_tokens, self.max_new_tokens))


@dataclass(frozen=True, slots=True)
class Happened:
    """A job got its first token, ended, or left after a cancellation.

    Attributes:
        tokens: generated so far.
    """

    kind: str
    job: Job
    at: float
    tokens: int


@dataclass(slots=True)
class Totals:
    """What an engine has done.

    Attributes:
        busy_s: seconds in steps.
        prefilled_tokens: prompt tokens computed.
        cached_tokens: prompt tokens found in the cache.
        generated_tokens: tokens of answers.
    """

    busy_s: float = 0.0
    prefilled_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0


@dataclass(slots=True)
class _Leap:
    """Steps under way: `count` of them, the first `first_s` long, each later one `growth_s` longer."""

    begin: float
    count: int
    first_s: float
    growth_s: float
    chunks: list[tuple[Job, int]] = field(default_factory=list)

    def after(self, steps: int) -> float:
        return self.begin + steps * self.first_s + self.growth_s * steps * (steps - 1) / 2

    @property
    def end(self) -> float:
        return self.after(self.count)

    def steps_by(self, time: float, *, whole: bool) -> int:
        """Steps ended by a time; with `whole`, the step under way counts too."""
        elapsed = time - self.begin
        if elapsed <= 0:
            return 1 if whole else 0
        half = self.growth_s / 2
        linear = self.first_s - half
        if half <= 0:
            exact = elapsed / linear
        else:
            exact = (math.sqrt(linear * linear + 4 * half * elapsed) - linear) / (2 * half)
        steps = math.ceil(exact - 1e-9) if whole else math.floor(exact + 1e-9)
        return max(1 if whole else 0, min(self.count, steps))


class Batcher:
    """One emulated engine. Times are seconds of whatever clock the caller keeps; they must not go back.

    Args:
        hardware: what it pretends to run on.
        kv_tokens: size of the KV pool; None takes the hardware's.
        chunk_tokens: prompt tokens computed in one step.
        max_concurrent: requests waiting and running before more are refused.
        max_batch: sequences in a step.
    """

    def __init__(
        self,
        hardware: Hardware,
        *,
        kv_tokens: int | None = None,
        chunk_tokens: int = 2048,
        max_concurrent: int = 128,
        max_batch: int = 1024,
    ) -> None:
        self.hardware = hardware
        self.kv_tokens = hardware.kv_tokens if kv_tokens is None else kv_tokens
        self.totals = Totals()
        self.cache = PrefixCache()
        self.waiting: deque[Job] = deque()
        self.jobs: dict[str, Job] = {}
        self.reserved_tokens = 0
        self._chunk_tokens = chunk_tokens
        self._max_concurrent = max_concurrent
        self._max_batch = max_batch
        self._prefilling: deque[Job] = deque()
        self._decoding: list[tuple[int, int, Job]] = []
        self._running = 0
        self._decoders = 0
        self._kv_decoding = 0
        self._steps = 0
        self._tie = 0
        self._leap: _Leap | None = None
        self._cancelled: list[Job] = []
        self._now = 0.0

    @property
    def running(self) -> int:
        """Sequences that have a place in the batch."""
        return self._running

    def submit(self, job: Job, now: float) -> None:
        """Puts a request into the queue; `advance` to `now` first.

        Raises:
            OverloadedError: as many as allowed are there already.
            ValidationError: it would not fit an empty KV pool.
        """
        if job.input_tokens + job.max_new_tokens > self.kv_tokens:
            raise ValidationError(
                f"`inputs` tokens + `max_new_tokens` must be <= {self.kv_tokens}."
                f" Given: {job.input_tokens} `inputs` tokens and {job.max_new_tokens} `max_new_tokens`"
            )
        if len(self.jobs) >= self._max_concurrent:
            raise OverloadedError
        self.jobs[job.key] = job
        self.waiting.append(job)
        self._interrupt(now)

    def cancel(self, key: str, now: float) -> None:
        """Takes a request out at the end of the step under way."""
        job = self.jobs.get(key)
        if job is None or job.cancelled:
            return
        job.cancelled = True
        self._cancelled.append(job)
        self._interrupt(now)

    def tokens_of(self, key: str, now: float) -> int:
        """Tokens a request has generated."""
        job = self.jobs.get(key)
        if job is None or job.first_token_at is None:
            return 0
        done = self._steps if self._leap is None else self._steps + self._leap.steps_by(now, whole=False)
        return min(job.length, max(1, job.length - (job.finish_step - done)))

    def next_time(self) -> float | None:
        """When something happens next by itself; None while idle."""
        return None if self._leap is None else self._leap.end

    def advance(self, now: float) -> list[Happened]:
        """Everything that happened up to `now`, in order."""
        happened: list[Happened] = []
        while self._leap is not None and self._leap.end <= now:
            self._complete(self._leap, happened)
            self._begin(happened)
        self._now = max(self._now, now)
        if self._leap is None and (self.waiting or self._cancelled):
            self._begin(happened)
        return happened

    def _interrupt(self, now: float) -> None:
        """The batch changes: the leap ends with the step under way."""
        self._now = max(self._now, now)
        if self._leap is not None:
            self._leap.count = self._leap.steps_by(now, whole=True)

    def _complete(self, leap: _Leap, happened: list[Happened]) -> None:
        end = leap.end
        self.totals.busy_s += end - leap.begin
        self._now = end
        self._steps += leap.count
        self._kv_decoding += self._decoders * leap.count
        self.totals.generated_tokens += self._decoders * leap.count
        for job, tokens in leap.chunks:
            job.computed += tokens
            self.totals.prefilled_tokens += tokens
            if job.computed >= job.input_tokens:
                self._first_token(job, end, happened)
        while self._decoding and self._decoding[0][0] <= self._steps:
            _, _, job = heapq.heappop(self._decoding)
            if job.running:
                self._leave(job)
                happened.append(Happened("ended", job, end, job.length))

    def _first_token(self, job: Job, now: float, happened: list[Happened]) -> None:
        self._prefilling.remove(job)
        job.first_token_at = now
        self.totals.generated_tokens += 1
        happened.append(Happened("first", job, now, 1))
        job.finish_step = self._steps + job.length - 1
        self._tie += 1
        self._decoders += 1
        self._kv_decoding += job.input_tokens + 1
        heapq.heappush(self._decoding, (job.finish_step, self._tie, job))

    def _leave(self, job: Job) -> None:
        """A running job gives its KV back; its prompt stays in the cache."""
        job.running = False
        self._running -= 1
        if job.first_token_at is not None:
            self._decoders -= 1
            # `finish_step` tells how many tokens it has by now.
            self._kv_decoding -= job.input_tokens + job.length - (job.finish_step - self._steps)
        else:
            self._prefilling.remove(job)
        self.reserved_tokens -= job.reserved
        if job.computed >= job.input_tokens:
            self.cache.insert(job.path, job.sizes, self.kv_tokens - self.reserved_tokens - self.cache.tokens)
        if job.pinned is not None:
            self.cache.unpin(job.pinned)
        del self.jobs[job.key]

    def _begin(self, happened: list[Happened]) -> None:
        self._drop_cancelled(happened)
        self._admit()
        self._leap = None
        if self._prefilling:
            self._leap = self._mixed_step()
        elif self._decoders:
            while not self._decoding[0][2].running:
                heapq.heappop(self._decoding)
            first = self.hardware.decode_s(self._decoders, self._kv_decoding)
            count = self._decoding[0][0] - self._steps
            self._leap = _Leap(self._now, count, first, self.hardware.kv_token_s * self._decoders)

    def _drop_cancelled(self, happened: list[Happened]) -> None:
        for job in self._cancelled:
            if self.jobs.get(job.key) is not job:
                continue
            tokens = 0
            if job.running:
                if job.first_token_at is not None:
                    tokens = job.length - (job.finish_step - self._steps)
                self._leave(job)
            else:
                self.waiting.remove(job)
                del self.jobs[job.key]
            happened.append(Happened("cancelled", job, self._now, tokens))
        self._cancelled.clear()

    def _admit(self) -> None:
        while self.waiting and self._running < self._max_batch:
            job = self.waiting[0]
            node = self.cache.longest(job.path)
            cached = 0 if node is None else min(node.depth_tokens, job.input_tokens - 1)
            needed = job.input_tokens - cached + job.max_new_tokens
            if node is not None:
                self.cache.pin(node)
            free = self.kv_tokens - self.reserved_tokens - self.cache.tokens
            if needed > free:
                free += self.cache.evict(needed - free)
            if needed > free:
                if node is not None:
                    self.cache.unpin(node)
                return
            self.waiting.popleft()
            job.pinned, job.cached_tokens, job.computed, job.reserved = node, cached, cached, needed
            job.started_at, job.running = self._now, True
            self.totals.cached_tokens += cached
            self.reserved_tokens += needed
            self._running += 1
            self._prefilling.append(job)

    def _mixed_step(self) -> _Leap:
        chunks: list[tuple[Job, int]] = []
        left = self._chunk_tokens
        seconds = self.hardware.decode_s(self._decoders, self._kv_decoding) + self.hardware.prefill_s
        for job in self._prefilling:
            tokens = min(left, job.input_tokens - job.computed)
            seconds += self.hardware.chunk_s(job.computed, job.computed + tokens)
            chunks.append((job, tokens))
            left -= tokens
            if left <= 0:
                break
        return _Leap(self._now, 1, seconds, 0.0, chunks)
