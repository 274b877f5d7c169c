"""One model call at work: its text so far, who listens, and how it ends."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from aios_kit import replies
from aios_llm.checkpoint import Checkpoint, digest
from aios_llm.coalescing import Coalescer
from aios_llm.generated import Generated
from aios_llm.logprobs import Scored, Scores
from aios_llm.ports import Continuation, Piece
from aios_llm.stop_sequences import StopFilter
from aios_proto.frames import Timings, Usage
from aios_proto.headers import CallHeaders

PREEMPTED = "preempted"
PAUSED = "paused"

Send = Callable[[str, bytes], Awaitable[None]]


@dataclass(slots=True)
class Transcript:
    """What a call has produced.

    Attributes:
        text: passed on to the caller, or about to be.
        tokens: tokens the engine made.
        sent_text: code points of `text` already sent.
        sent_tokens: tokens already accounted for in frames.
        given_text: code points of `text` that the bus has taken.
        given_tokens: tokens in those.
    """

    text: str = ""
    tokens: int = 0
    sent_text: int = 0
    sent_tokens: int = 0
    given_text: int = 0
    given_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a generation is made: what a checkpoint must say beside what was made.

    Attributes:
        prompt: it follows on.
        keep_prompt: whether that must be stored, because it cannot be made again from the request.
        engine: which one makes it; empty where it does not tell.
    """

    model: str
    fingerprint: str
    prompt: str
    keep_prompt: bool
    engine: str = ""


@dataclass(slots=True, eq=False)
class Run:
    """One call on this worker.

    Attributes:
        headers: as the scheduler sent them.
        streaming: whether the caller wants `delta` frames.
        listeners: inboxes that get its frames.
        task: the task that runs it.
        began: whether the task has; one that has not must not be cancelled, for then it would never report.
        ending: whether its last frame is being made; too late to cancel it.
        cancel_reason: why it is being cancelled.
        made: what the engine has made.
        scores: how likely its tokens were; None where nobody wants to know.
        inherited: how many tokens of its answer another call has made.
        kept: whether other calls may go on from it after its end.
        resumable: whether its engine could go on with it; None before that is known.
        origin: what its checkpoints say of where it was made; None before anything can be gone on from.
    """

    headers: CallHeaders
    streaming: bool
    send: Send
    coalescer: Coalescer
    stop_filter: StopFilter
    listeners: list[str]
    transcript: Transcript = field(default_factory=Transcript)
    task: asyncio.Task[None] | None = None
    began: bool = False
    ending: bool = False
    cancel_reason: str | None = None
    first_token_us: int | None = None
    made: Generated = field(default_factory=Generated)
    scores: Scores | None = None
    inherited: int = 0
    kept: bool = False
    resumable: bool | None = None
    origin: Origin | None = None
    preempted_ns: int | None = None
    _sending: asyncio.Lock = field(default_factory=asyncio.Lock)
    _flush_timer: asyncio.TimerHandle | None = None
    _flushing: asyncio.Task[None] | None = None
    _last_frame: bytes | None = None

    def cancel(self, reason: str) -> None:
        """Ends it, for the first reason given; one whose end is being sent goes on to it."""
        if self.ending or self.cancel_reason is not None:
            return
        self.cancel_reason = reason
        if self.began and self.task is not None:
            self.task.cancel()

    def preempt(self) -> None:
        """Stops it so that it can go on later; one that could not, or whose end is being sent, goes on to it."""
        if self.resumable is not False and not self.ending and self.cancel_reason is None:
            self.preempted_ns = time.time_ns()
            self.cancel(PREEMPTED)

    @property
    def key(self) -> str:
        """The call's key."""
        return self.headers.key

    @property
    def attempt(self) -> int:
        """How often the call was given to a worker."""
        return self.headers.attempt

    @property
    def tokens(self) -> int:
        """How many tokens the engine has made."""
        return self.made.tokens

    def checkpoint(self) -> Checkpoint | None:
        """What is needed to go on with it elsewhere."""
        origin = self.origin
        if origin is None or self.tokens == 0:
            return None
        stopped = self.cancel_reason is not None  # the process lives, and what it gave to the bus will arrive
        made, scores = self.made.snapshot(), self.scores
        if scores is not None:
            made = replace(made, scored=tuple(scores.made))
        return Checkpoint(
            made,
            origin.model,
            origin.fingerprint,
            digest(origin.prompt),
            sent_text=self.transcript.given_text if stopped else 0,
            sent_tokens=self.transcript.given_tokens if stopped else 0,
            first_token_us=self.first_token_us,
            prompt=origin.prompt if origin.keep_prompt else None,
            inherited=self.inherited,
            sent_scores=scores.given if stopped and scores is not None else 0,
            engine=origin.engine,
        )

    async def go_on_from(self, checkpoint: Checkpoint, begun: Continuation) -> None:
        """Stands where an earlier run was, and tells listeners what they may have missed."""
        transcript = self.transcript
        async with self._sending:
            self.made.restart(begun, checkpoint.made.ends)
            self.inherited = min(checkpoint.inherited, begun.tokens)
            transcript.text = self.stop_filter.feed(begun.text)
            transcript.tokens = begun.tokens
            self.first_token_us = checkpoint.first_token_us
            transcript.sent_text = transcript.given_text = checkpoint.sent_text
            transcript.sent_tokens = transcript.given_tokens = checkpoint.sent_tokens
            if self.scores is not None:
                self.scores.restart(checkpoint.made.scored[: begun.tokens], checkpoint.sent_scores)
            if not self.streaming:
                return
            for inbox in self.listeners[1:]:  # they came when nothing was known yet
                await self.send(inbox, self.missed(0))
        await self.flush()

    async def add(self, text: str, tokens: int, ids: tuple[int, ...] = (), scored: Scored | None = None) -> None:
        """Takes in what the engine made, and sends it on when it is time.

        Raises:
            InvalidRequest: it has more log probabilities than the bus carries.
        """
        self.made.add(Piece(text, tokens, ids))
        if self.scores is not None:
            if tokens != (scored is not None):  # the engine keeps some to itself: whose entry is whose is not known
                self.resumable, self.origin = False, None
            if scored is not None:
                self.scores.add(scored)
        if self.first_token_us is None:
            self.first_token_us = time.time_ns() // 1000
        transcript = self.transcript
        transcript.text += self.stop_filter.feed(text)
        transcript.tokens += tokens
        if not self.streaming:
            return
        loop = asyncio.get_running_loop()
        due = self.coalescer.add(tokens, loop.time())
        if due is None:
            await self.flush()
        elif self._flush_timer is None:
            self._flush_timer = loop.call_at(due, self._flush_later)

    async def flush(self) -> None:
        """Sends everything that has not been sent."""
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        transcript = self.transcript
        # Below zero while a few tokens are made again that were sent before the call was stopped.
        tokens = max(0, transcript.tokens - transcript.sent_tokens)
        text = transcript.text[transcript.sent_text :]
        likelihoods = None if self.scores is None else self.scores.news()
        if not tokens and not text and likelihoods is None:
            return
        frame = replies.delta(self.headers.id, transcript.sent_tokens, tokens, transcript.sent_text, text, likelihoods)
        transcript.sent_tokens = max(transcript.tokens, transcript.sent_tokens)
        transcript.sent_text = max(len(transcript.text), transcript.sent_text)
        frame_end, token_end = transcript.sent_text, transcript.sent_tokens
        self.coalescer.sent(asyncio.get_running_loop().time())
        async with self._sending:  # frames of one call keep their order
            for inbox in self.listeners:
                await self.send(inbox, frame)
            # Only now: a stop may come between, and the frame is lost with it.
            transcript.given_text = max(transcript.given_text, frame_end)
            transcript.given_tokens = max(transcript.given_tokens, token_end)
            if self.scores is not None and likelihoods is not None:
                self.scores.given = max(self.scores.given, likelihoods[0] + len(likelihoods[1]))

    async def attach(self, inbox: str, text_offset: int) -> None:
        """Adds a listener, and sends it what it has missed since `text_offset`."""
        async with self._sending:
            if self.streaming:
                await self.send(inbox, self.missed(text_offset))
            if self._last_frame is not None:
                await self.send(inbox, self._last_frame)
            elif inbox not in self.listeners:
                self.listeners.append(inbox)

    async def send_last(self, frame: bytes) -> None:
        """Sends everyone the frame that ends the call."""
        async with self._sending:
            self._last_frame = frame
            for inbox in self.listeners:
                await self.send(inbox, frame)

    def missed(self, text_offset: int) -> bytes:
        """One frame with all text from `text_offset` on, and all log probabilities, that were sent already."""
        transcript = self.transcript
        start = min(text_offset, transcript.sent_text)
        return replies.delta(
            self.headers.id,
            0,
            transcript.sent_tokens,
            start,
            transcript.text[start : transcript.sent_text],
            None if self.scores is None else (0, self.scores.entries(self.scores.sent)),
        )

    async def finish_text(self) -> str:
        """Sends the rest and returns the whole answer."""
        self.transcript.text += self.stop_filter.finish()
        if self.scores is not None:
            self.scores.finish()
        if self.streaming:
            await self.flush()
        return self.transcript.text

    def close(self) -> None:
        """Sends nothing more."""
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        if self._flushing is not None:
            self._flushing.cancel()

    def usage_so_far(self) -> Usage:
        """For a call that was ended before the engine could say what it used."""
        made = max(0, self.transcript.tokens - self.inherited)
        return Usage(prompt_tokens=0, completion_tokens=made, cached_tokens=0)

    def timings(self) -> Timings:
        """Where its time went, by the clocks of access, scheduler and this worker."""
        now_us = time.time_ns() // 1000
        received, queued, scheduled = (*self.headers.times_us, now_us, now_us, now_us)[:3]
        first = self.first_token_us
        return Timings(
            queued_ms=_ms(queued - received),
            scheduled_ms=_ms(scheduled - received),
            first_token_ms=None if first is None else _ms(first - received),
            total_ms=_ms(now_us - received),
        )

    def _flush_later(self) -> None:
        self._flush_timer = None
        self._flushing = asyncio.ensure_future(self.flush())


def _ms(microseconds: int) -> float:
    return max(0, microseconds) / 1000
