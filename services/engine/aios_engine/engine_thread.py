"""The one thread that runs the model: it admits, computes a step, samples, delivers, and obeys commands in between."""

import asyncio
import functools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from aios_engine.backend import Load, StepReport
from aios_engine.core.kv_image import KvWanted
from aios_engine.core.kv_shelf import ShelvedKv
from aios_engine.core.planner import Planner, PlannerLimits, Step
from aios_engine.core.sampling import Logits
from aios_engine.errors import EngineError, GenerationError, IncompleteGenerationError
from aios_engine.held_kv import HeldKv, Reading
from aios_engine.llama.model import Context, DecodeError, Token
from aios_engine.sequence import Sequence
from aios_engine.token_stream import News, TokenStream

_log = logging.getLogger(__name__)

T = TypeVar("T")

_STOP_TIMEOUT_S = 30
_ASK_TIMEOUT_S = 30


@dataclass(frozen=True, slots=True)
class _Submit:
    sequence: Sequence
    stream: TokenStream


@dataclass(frozen=True, slots=True)
class _Cancel:
    sequence: int


@dataclass(frozen=True, slots=True)
class _Call:
    work: Callable[[], None]


@dataclass(frozen=True, slots=True)
class _Stop:
    pass


_Command = _Submit | _Cancel | _Call | _Stop


class EngineThread:
    """Runs sequences on a context, in a thread of its own."""

    def __init__(
        self,
        context: Context,
        limits: PlannerLimits,
        loop: asyncio.AbstractEventLoop,
        observe: Callable[[StepReport], None],
        shelf_bytes: int,
    ) -> None:
        """Starts the thread.

        Args:
            context: used by this thread alone from now on.
            limits: what may run at once.
            loop: where tokens are delivered.
            observe: told of every step, in this thread.
            shelf_bytes: memory for held KV that has lost its slot.
        """
        self._context = context
        self._planner = Planner(limits)
        self._kv = HeldKv(context, self._planner, shelf_bytes)
        self._loop = loop
        self._observe = observe
        self._sequences: dict[int, tuple[Sequence, TokenStream]] = {}
        self._commands: deque[_Command] = deque()
        self._wake = threading.Condition()
        self._outbox: list[tuple[TokenStream, News]] = []
        self._load = Load(0, 0, 0)
        self.healthy = True
        # A daemon, so that a step that never returns cannot keep the process from ending.
        self._thread = threading.Thread(target=self._main, name="engine", daemon=True)
        self._thread.start()

    @property
    def load(self) -> Load:
        """How busy the thread was after its last step."""
        return self._load

    def submit(self, sequence: Sequence) -> TokenStream:
        """Puts a sequence into the queue.

        Raises:
            IncompleteGenerationError: the thread has stopped.
        """
        stream = TokenStream(sequence.progress, lambda: self._send(_Cancel(sequence.id)))
        if not self._send(_Submit(sequence, stream)):
            raise IncompleteGenerationError
        return stream

    async def holds(self, key: str) -> bool:
        """Whether KV is held under a key.

        Raises:
            IncompleteGenerationError: the thread has stopped.
        """
        return await self._ask(lambda: self._kv.holds(key))

    async def read(self, key: str, wanted: KvWanted) -> Reading | None:
        """KV of the sequence that runs under a key, or is paused under it; None if the key is not known.

        Raises:
            IncompleteGenerationError: the thread has stopped.
            DecodeError: it cannot be read.
        """
        return await self._ask(lambda: self._kv.read(key, self._under(key), wanted))

    async def read_all(self, wanted: Mapping[str, KvWanted]) -> dict[str, Reading]:
        """The same for several keys, between the same two steps; those not known or not to be read are left out.

        Raises:
            IncompleteGenerationError: the thread has stopped.
        """
        return await self._ask(lambda: self._kv.read_all({key: (self._under(key), wanted[key]) for key in wanted}))

    def hold(self, key: str, kv: ShelvedKv) -> None:
        """Holds KV from outside under a key, before anything that is asked for later; does not wait for a step.

        Args:
            key: under which it is held.
            kv: no larger than the shelf.

        Raises:
            IncompleteGenerationError: the thread has stopped.
        """
        if not self._send(_Call(lambda: self._kv.put(key, kv))):
            raise IncompleteGenerationError

    async def release(self, key: str) -> bool:
        """Holds a key no longer; whether it was held.

        Raises:
            IncompleteGenerationError: the thread has stopped.
        """
        return await self._ask(lambda: self._kv.release(key))

    async def _ask(self, work: Callable[[], T]) -> T:
        """Does something in the engine thread, between two steps."""
        answer: asyncio.Future[T] = self._loop.create_future()

        def settle(conclude: Callable[[], None]) -> None:
            if not answer.done():
                conclude()

        def run() -> None:
            conclude: Callable[[], None]
            try:
                conclude = functools.partial(answer.set_result, work())
            except DecodeError as error:
                conclude = functools.partial(answer.set_exception, error)
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(settle, conclude)

        if not self._send(_Call(run)):
            raise IncompleteGenerationError
        return await asyncio.wait_for(answer, _ASK_TIMEOUT_S)

    def _under(self, key: str) -> int | None:
        """The last sequence that runs or waits under a key."""
        found = (identity for identity, (other, _) in self._sequences.items() if other.request.kv_key == key)
        return max(found, default=None)

    async def stop(self) -> bool:
        """Ends what runs with `IncompleteGenerationError`, and the thread after its current step.

        Returns:
            Whether the thread has ended; if not, its context must not be freed.
        """
        self._send(_Stop())
        await asyncio.to_thread(self._thread.join, _STOP_TIMEOUT_S)
        return not self._thread.is_alive()

    def _send(self, command: _Command) -> bool:
        with self._wake:
            if not self.healthy:
                return False
            self._commands.append(command)
            self._wake.notify()
            return True

    def _main(self) -> None:
        try:
            while self._obey():
                self._run_step()
                self._deliver()
        except Exception:
            # The boundary of the thread: whatever it is, those who wait must hear of it and /health must tell.
            _log.exception("the engine thread failed")
            self._end_all(lambda: GenerationError("the engine failed, see its log"))
        else:
            self._end_all(IncompleteGenerationError)
        self._deliver()

    def _obey(self) -> bool:
        """Carries out commands, waiting for one if there is nothing to run; False to stop."""
        with self._wake:
            while not self._commands and not self._sequences:
                self._wake.wait()
            commands = list(self._commands)
            self._commands.clear()
        for command in commands:
            match command:
                case _Submit(sequence, stream):
                    request = sequence.request
                    self._planner.enqueue(
                        sequence.id,
                        sequence.context,
                        request.max_new_tokens - len(request.generated),
                        reuse=request.cache_prompt and not request.prefill_details,
                        kv_from=request.kv_from,
                    )
                    self._sequences[sequence.id] = (sequence, stream)
                case _Cancel(identity):
                    self._end(identity, hold=True)
                case _Call(work):
                    work()
                case _Stop():
                    return False
        return True

    def _run_step(self) -> None:
        began = time.perf_counter()
        admitted = self._admit()
        step = self._planner.next_step()
        if step.empty:
            self._note_load()
            return
        tokens, decoding = self._tokens(step)
        try:
            logits = self._context.decode(tokens)
        except DecodeError as error:
            _log.exception("a step of the model failed")
            self._fail(step, error)
            return
        model_s = time.perf_counter() - began
        self._take(step, decoding, logits)
        self._note_load()
        self._observe(
            StepReport(
                method="prefill" if step.prefills else "decode",
                admitted=admitted,
                sequences=len(decoding) + len(step.prefills),
                model_s=model_s,
                total_s=time.perf_counter() - began,
            )
        )

    def _admit(self) -> int:
        admissions = self._planner.admit()
        restoring = any(admission.restored is not None for admission in admissions)
        empty: set[int] = set()
        for admission in admissions:
            if admission.shelved is not None:
                self._kv.make_room(admission.shelved, admission.slot)
            sequence, reused = self._sequences[admission.sequence][0], admission.reused
            there = True
            if admission.restored is not None:
                there = self._kv.restore(admission.restored, admission.slot)
            elif admission.source is not None:
                # At once where a slot that is copied from may be restored: llama.cpp would copy what is restored.
                there = admission.source not in empty and self._context.copy(
                    admission.source, admission.slot, at_once=restoring
                )
            if not there:
                self._planner.not_restored(sequence.id)
                empty.add(admission.slot)
                reused = 0
            self._context.truncate(admission.slot, reused)
            sequence.start(admission.slot, reused)
            self._kv.started(sequence.request.kv_key, sequence.request.kv_from)
        return len(admissions)

    def _tokens(self, step: Step) -> tuple[list[Token], list[Sequence]]:
        decoding = [self._sequences[identity][0] for identity in step.decode]
        tokens = [sequence.decode_token() for sequence in decoding]
        for chunk in step.prefills:
            tokens += self._sequences[chunk.sequence][0].prefill_tokens(chunk)
        return tokens, decoding

    def _take(self, step: Step, decoding: list[Sequence], logits: dict[int, Logits]) -> None:
        for index, sequence in enumerate(decoding):
            self._planner.decoded(sequence.id, sequence.last)
            self._advance(sequence.id, logits[index])
        offset = len(decoding)
        for chunk in step.prefills:
            sequence = self._sequences[chunk.sequence][0]
            self._planner.prefilled(chunk)
            sequence.note_prefill(chunk, logits, offset=offset)
            offset += chunk.stop - chunk.start
            if chunk.last:
                self._advance(sequence.id, logits[offset - 1])

    def _advance(self, identity: int, logits: Logits) -> None:
        sequence, stream = self._sequences[identity]
        try:
            event = sequence.choose(logits)
        except ValueError as error:
            self._outbox.append((stream, GenerationError(str(error))))
            self._end(identity)
            return
        self._outbox.append((stream, event))
        if event.ending is not None:
            self._end(identity)

    def _fail(self, step: Step, error: DecodeError) -> None:
        for identity in (*step.decode, *(chunk.sequence for chunk in step.prefills)):
            sequence, stream = self._sequences[identity]
            self._outbox.append((stream, GenerationError(str(error))))
            self._end(identity)
            self._planner.forget(sequence.slot)

    def _end(self, identity: int, *, hold: bool = False) -> None:
        found = self._sequences.pop(identity, None)
        if found is None:
            return
        key = found[0].request.kv_key if hold else None
        self._planner.finish(identity, key)
        if key is not None:
            self._kv.paused(key)
        progress = found[0].progress
        if progress.ended_ns is None:
            progress.ended_ns = time.time_ns()

    def _end_all(self, error: Callable[[], EngineError]) -> None:
        # Under the lock, so that a command is either refused or ended here.
        with self._wake:
            self.healthy = False
            for command in self._commands:
                if isinstance(command, _Submit):
                    self._sequences[command.sequence.id] = (command.sequence, command.stream)
        for identity, (_, stream) in list(self._sequences.items()):
            self._outbox.append((stream, error()))
            self._end(identity)
        self._note_load()

    def _note_load(self) -> None:
        planner = self._planner
        self._load = Load(planner.waiting, planner.running, planner.reserved_tokens)

    def _deliver(self) -> None:
        if not self._outbox:
            return
        batch, self._outbox = self._outbox, []
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(_hand_over, batch)


def _hand_over(batch: list[tuple[TokenStream, News]]) -> None:
    for stream, news in batch:
        stream.put(news)
