"""Which sequences run in the next step of the model, and what is reused for them.

Iteration-level scheduling (Yu et al., Orca, OSDI 2022) with chunked prefill (Agrawal et al., Sarathi-Serve, OSDI 2024):
a step decodes one token of every running sequence and adds at most one chunk of a prompt, so a long prompt never stalls
the others and cancelling takes one step. Prompts with no more than two chunks left share two chunks of a step: paused
sequences that go on have one token to compute each, those that come from a dead engine a few, and many of them shall go
on at once. If more of them wait than share a step, decoding waits until all have begun, at most `prompt_steps` steps in
a row: what text-generation-inference does at its waiting-served ratio, within a bound. Admission is that engine's as
well: one FIFO with head-of-line blocking, and tokens for prompt + `max_new_tokens` reserved before a sequence starts.

Each sequence has a slot of its own in the KV cache. Slots do not share cells: when they do, a sequence's cells can
wrap around in the pool, sums are taken in another order, and the same prompt no longer gives the same bits (measured).
A slot keeps its tokens after its sequence has ended, so that a prompt with the same beginning starts there.
llama.cpp computes slots together only where their numbers follow each other (a third faster for four), so steps are
in the order of slots, and a sequence starts beside a running one unless another slot holds much more of its prompt.

A paused sequence's KV is held under a key: its slot is the last to be given away, and its KV is put on a shelf first.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PlannerLimits:
    """What may run at once.

    Attributes:
        slots: sequences.
        slot_tokens: tokens of one sequence, prompt and answer.
        prefill_chunk_tokens: tokens of a long prompt added to one step; short prompts share twice as many.
        copy_threshold_tokens: shared tokens from which copying another slot's KV beats computing them again; a copy
            costs about as much as six tokens of prefill.
        prompt_steps: steps in a row that may go without decoding, so that a burst of short prompts begins sooner.
        restore_threshold_tokens: shared tokens from which restoring KV from the shelf beats computing them: a restore
            costs 4 to 7 us for each token held, computing one near 5 ms, so two pay for a thousand restored.
    """

    slots: int
    slot_tokens: int
    prefill_chunk_tokens: int = 32
    copy_threshold_tokens: int = 16
    prompt_steps: int = 6
    restore_threshold_tokens: int = 2

    @property
    def total_tokens(self) -> int:
        """All tokens of KV."""
        return self.slots * self.slot_tokens


@dataclass(frozen=True, slots=True)
class Admission:
    """A sequence that starts now.

    Attributes:
        sequence: its id.
        slot: where its KV goes.
        reused: leading prompt tokens whose KV is taken over.
        source: the slot to copy them from; None where `slot` itself holds them.
        shelved: key of held KV that must leave `slot` for the shelf before anything else.
        restored: key of the KV on the shelf to put into `slot`.
    """

    sequence: int
    slot: int
    reused: int
    source: int | None
    shelved: str | None = None
    restored: str | None = None


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """The part of a prompt to compute in this step: tokens `start` to `stop`, and whether the prompt ends there."""

    sequence: int
    start: int
    stop: int
    last: bool


@dataclass(frozen=True, slots=True)
class Step:
    """One run of the model: a token of each sequence in `decode`, in order of slots, and chunks of prompts."""

    decode: tuple[int, ...]
    prefills: tuple[PrefillChunk, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to run."""
        return not self.decode and not self.prefills


@dataclass(slots=True)
class _Slot:
    index: int
    tokens: list[int] = field(default_factory=list)
    """Tokens whose KV is valid, from position 0."""
    sequence: int | None = None
    used_at: int = 0
    held: str | None = None
    """Key under which its tokens are held."""


@dataclass(slots=True)
class _Sequence:
    id: int
    prompt: Sequence[int]
    reserved: int
    reuse: bool
    kv_from: str | None = None
    slot: _Slot | None = None
    prefilled: int = 0


class Planner:
    """Plans steps; told what happened, it says what happens next."""

    def __init__(self, limits: PlannerLimits) -> None:
        self.limits = limits
        self._slots = [_Slot(index) for index in range(limits.slots)]
        self._waiting: deque[_Sequence] = deque()
        self._running: dict[int, _Sequence] = {}
        self._shelf: dict[str, Sequence[int]] = {}
        self._tick = 0
        self._without_decoding = 0

    @property
    def waiting(self) -> int:
        """Sequences in the queue."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Sequences with a slot."""
        return len(self._running)

    @property
    def reserved_tokens(self) -> int:
        """Tokens of KV promised to running sequences."""
        return sum(sequence.reserved for sequence in self._running.values())

    def enqueue(
        self,
        sequence: int,
        prompt: Sequence[int],
        max_new_tokens: int,
        *,
        reuse: bool = True,
        kv_from: str | None = None,
    ) -> None:
        """Puts a sequence at the end of the queue.

        Args:
            sequence: an id that is not in use.
            prompt: its token ids, at least one.
            max_new_tokens: how many it may generate.
            reuse: whether KV of earlier sequences may be taken over (not where logits of the whole prompt are wanted).
            kv_from: key under which KV may be held that it can start from.

        Raises:
            ValueError: the prompt is empty, or prompt and answer cannot fit a slot.
        """
        reserved = len(prompt) + max_new_tokens
        if not prompt or reserved > self.limits.slot_tokens:
            raise ValueError(f"a sequence of {len(prompt)} + {max_new_tokens} tokens does not fit a slot")
        self._waiting.append(_Sequence(sequence, prompt, reserved, reuse, kv_from))

    def admit(self) -> list[Admission]:
        """Gives slots to as many sequences from the front of the queue as fit."""
        admitted = []
        while self._waiting:
            free = [slot for slot in self._slots if slot.sequence is None]
            if not free or self.reserved_tokens + self._waiting[0].reserved > self.limits.total_tokens:
                break
            admitted.append(self._start(self._waiting.popleft(), free))
        return admitted

    def _start(self, sequence: _Sequence, free: list[_Slot]) -> Admission:
        threshold = self.limits.copy_threshold_tokens
        free = [slot for slot in free if slot.held is None or slot.held == sequence.kv_from] or free
        apart = {slot.index: 0 if self._beside_running(slot) else threshold for slot in free}
        shared = dict.fromkeys(range(self.limits.slots), 0)
        if sequence.reuse:
            # The last prompt token is always computed: its logits give the first new token.
            shared = {slot.index: _shared(slot.tokens, sequence.prompt[:-1]) for slot in self._slots}
        chosen = max(free, key=lambda slot: (shared[slot.index] - apart[slot.index], -slot.used_at))
        reused, source = shared[chosen.index], None
        other = max(self._slots, key=lambda slot: shared[slot.index])
        if shared[other.index] - reused >= threshold and len(free) > (other in free):
            chosen = min(
                (slot for slot in free if slot is not other), key=lambda slot: (apart[slot.index], slot.used_at)
            )
            reused, source = shared[other.index], other.index
        restored = None
        on_shelf = self._shelf.get(sequence.kv_from or "") if sequence.reuse else None
        shared_there = 0 if on_shelf is None else _shared(on_shelf, sequence.prompt[:-1])
        if shared_there - reused >= self.limits.restore_threshold_tokens:
            reused, source, restored = shared_there, None, sequence.kv_from
        shelved, chosen.held = chosen.held if chosen.held != sequence.kv_from else None, None
        if shelved is not None:
            self._shelf[shelved] = chosen.tokens
        chosen.tokens = list(sequence.prompt[:reused])
        chosen.sequence = sequence.id
        self._touch(chosen)
        sequence.slot = chosen
        sequence.prefilled = reused
        self._running[sequence.id] = sequence
        return Admission(sequence.id, chosen.index, reused, source, shelved, restored)

    def _beside_running(self, slot: _Slot) -> bool:
        taken = [other.index for other in self._slots if other.sequence is not None]
        return not taken or any(abs(slot.index - index) == 1 for index in taken)

    def next_step(self) -> Step:
        """The next run of the model, planned once: sequences past their prompt, and the oldest prompts' next tokens."""
        decode = [sequence for sequence in self._running.values() if sequence.prefilled == len(sequence.prompt)]
        prompts = [sequence for sequence in self._running.values() if sequence.prefilled < len(sequence.prompt)]
        prefills: list[PrefillChunk] = []
        chunk = self.limits.prefill_chunk_tokens
        in_burst = self._without_decoding > 0
        room = 2 * chunk if len(prompts) > 1 or in_burst else chunk
        left_over = False
        for sequence in prompts:
            start, length = sequence.prefilled, len(sequence.prompt)
            if length - start > 2 * chunk:
                if not prefills:
                    prefills.append(PrefillChunk(sequence.id, start, start + chunk, last=False))
                    room = 0
                continue
            stop = min(length, start + room)
            left_over = left_over or stop < length
            if room:
                prefills.append(PrefillChunk(sequence.id, start, stop, last=stop == length))
                room -= stop - start
        in_burst = in_burst or (left_over and len(prompts) > 1)
        if in_burst and prefills and prefills[0].last and self._without_decoding < self.limits.prompt_steps:
            self._without_decoding += 1
            return Step((), tuple(prefills))
        self._without_decoding = 0
        decode.sort(key=lambda sequence: -1 if sequence.slot is None else sequence.slot.index)
        return Step(tuple(sequence.id for sequence in decode), tuple(prefills))

    def prefilled(self, chunk: PrefillChunk) -> None:
        """Notes that a chunk of a prompt has been computed."""
        sequence, slot = self._of(chunk.sequence)
        sequence.prefilled = chunk.stop
        slot.tokens.extend(sequence.prompt[chunk.start : chunk.stop])

    def decoded(self, sequence: int, token: int) -> None:
        """Notes that a generated token has been given to the model, so that its KV is there."""
        slot = self._of(sequence)[1]
        slot.tokens.append(token)
        self._touch(slot)

    def finish(self, sequence: int, hold: str | None = None) -> int | None:
        """Ends a sequence, running or waiting; its slot is free and keeps its tokens for reuse.

        Args:
            sequence: its id.
            hold: key under which they are held.

        Returns:
            The slot it had; None if it was waiting or is not known.
        """
        running = self._running.pop(sequence, None)
        if running is None or running.slot is None:
            self._waiting = deque(waiting for waiting in self._waiting if waiting.id != sequence)
            return None
        running.slot.sequence = None
        if hold is not None and running.slot.tokens:
            self.release(hold)
            running.slot.held = hold
        return running.slot.index

    def place(self, sequence: int) -> tuple[int, tuple[int, ...]] | None:
        """The slot of a running sequence, with the tokens whose KV is computed; None while it waits."""
        running = self._running.get(sequence)
        if running is None or running.slot is None:
            return None
        return running.slot.index, tuple(running.slot.tokens)

    def holding(self, key: str) -> tuple[int, tuple[int, ...]] | None:
        """The slot that holds a key, with its tokens; None where none does."""
        return next(((slot.index, tuple(slot.tokens)) for slot in self._slots if slot.held == key), None)

    def on_shelf(self, key: str) -> tuple[int, ...]:
        """The tokens of a key on the shelf; none where it is not there."""
        return tuple(self._shelf.get(key, ()))

    def shelve(self, key: str, tokens: Sequence[int]) -> None:
        """Notes that KV has come to the shelf from outside."""
        self.release(key)
        self._shelf[key] = tokens

    def release(self, key: str) -> None:
        """Notes that a key is not held any more, in a slot or on the shelf."""
        self._shelf.pop(key, None)
        for slot in self._slots:
            if slot.held == key:
                slot.held = None

    def not_restored(self, sequence: int) -> None:
        """Notes that the KV it was to take over is not there: the sequence starts from its first token."""
        running, slot = self._of(sequence)
        running.prefilled = 0
        slot.tokens.clear()

    def forget(self, slot: int) -> None:
        """Notes that a slot's KV is no longer valid."""
        self._slots[slot].tokens.clear()
        self._slots[slot].held = None

    def _of(self, sequence: int) -> tuple[_Sequence, _Slot]:
        running = self._running[sequence]
        if running.slot is None:
            raise KeyError(sequence)
        return running, running.slot

    def _touch(self, slot: _Slot) -> None:
        self._tick += 1
        slot.used_at = self._tick


def _shared(held: Sequence[int], wanted: Sequence[int]) -> int:
    count = 0
    for have, want in zip(held, wanted, strict=False):
        if have != want:
            break
        count += 1
    return count
