"""The backend that runs a model on this machine's CPU."""

import asyncio
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path

from aios_engine.backend import Generation, GenerationRequest, KvGiven, Load, ModelFacts, StepReport
from aios_engine.core.kv_image import KvWanted
from aios_engine.core.planner import PlannerLimits
from aios_engine.engine_thread import EngineThread
from aios_engine.errors import GenerationError, KvUnknownError, MalformedBodyError, ValidationError
from aios_engine.grammar import GrammarCompiler
from aios_engine.kv_transfer import KvTransfer
from aios_engine.llama.abi import PINNED
from aios_engine.llama.model import Context, ContextSize, DecodeError, Model
from aios_engine.sequence import Sequence
from aios_engine.settings import EngineSettings


class LlamaBackend:
    """`backend.Backend` on llama.cpp."""

    def __init__(
        self,
        model: Model,
        context: Context,
        settings: EngineSettings,
        observe: Callable[[StepReport], None],
    ) -> None:
        """Starts the engine thread; call it on the event loop.

        Args:
            model: loaded.
            context: of that model; the backend closes both.
            settings: what may run at once.
            observe: told of every step, in the engine thread.
        """
        self._model = model
        self._context = context
        self._vocabulary = model.vocabulary
        slot_tokens = min(settings.n_ctx, model.trained_tokens, context.slot_tokens)
        self._facts = _facts(model, context, settings, slot_tokens)
        self._thread = EngineThread(
            context,
            PlannerLimits(settings.max_sequences, slot_tokens, settings.prefill_chunk_tokens),
            asyncio.get_running_loop(),
            observe,
            settings.kv_hold_bytes,
        )
        self._shelf_bytes = settings.kv_hold_bytes
        self._transfer = KvTransfer(context.form, self._facts.fingerprint)
        self._ids = itertools.count()
        self._grammars: GrammarCompiler | None = None
        self._grammars_lock = asyncio.Lock()

    @property
    def facts(self) -> ModelFacts:
        """What is served."""
        return self._facts

    @property
    def load(self) -> Load:
        """How busy it is now."""
        return self._thread.load

    @property
    def healthy(self) -> bool:
        """Whether the engine thread runs."""
        return self._thread.healthy

    def tokenize(self, text: str, *, add_special: bool = True) -> list[int]:
        """Token ids of a text."""
        return self._vocabulary.tokenize(text, add_special=add_special)

    def piece(self, token: int) -> bytes:
        """The bytes of a token."""
        return self._vocabulary.pieces[token]

    async def start(self, request: GenerationRequest) -> Generation:
        """Puts a generation into the queue.

        Raises:
            ValidationError: the grammar does not compile.
            IncompleteGenerationError: the backend is closed.
        """
        grammar = None
        if request.grammar is not None:
            compiler = await self._compiler()
            grammar = await asyncio.to_thread(compiler.compile, request.grammar)
        return self._thread.submit(Sequence(next(self._ids), request, self._vocabulary, grammar))

    async def _compiler(self) -> GrammarCompiler:
        async with self._grammars_lock:
            if self._grammars is None:
                self._grammars = await asyncio.to_thread(GrammarCompiler, self._vocabulary)
            return self._grammars

    async def holds(self, key: str) -> bool:
        """Whether KV of a paused generation is held under a key.

        Raises:
            IncompleteGenerationError: the backend is closed.
        """
        return await self._thread.holds(key)

    async def give(self, key: str, wanted: KvWanted) -> KvGiven | None:
        """KV of the generation that runs under a key, else of the one that is held under it; None if nothing is new.

        Raises:
            KvUnknownError: there is none.
            GenerationError: it cannot be read.
            IncompleteGenerationError: the backend is closed.
        """
        try:
            reading = await self._thread.read(key, wanted)
            if reading is None:
                raise KvUnknownError
            if reading.first == reading.end:
                return None
            return await asyncio.to_thread(self._transfer.given, reading)
        except (DecodeError, ValueError) as error:
            raise GenerationError(str(error)) from error

    async def give_all(self, wanted: Mapping[str, KvWanted]) -> dict[str, KvGiven]:
        """The same for several keys at once; those that are not known, have nothing new or cannot be read are left out.

        Raises:
            IncompleteGenerationError: the backend is closed.
        """
        return await asyncio.to_thread(self._transfer.all_given, await self._thread.read_all(wanted))

    async def hold(self, key: str, data: bytes) -> None:
        """Holds KV that `give` gave, here or in another engine of the same model, under a key.

        Raises:
            ValidationError: it is none, of another model, or of more tokens than fit.
            MalformedBodyError: it is larger than all memory for such.
            IncompleteGenerationError: the backend is closed.
        """
        try:
            kv = await asyncio.to_thread(self._transfer.taken, data)
        except ValueError as error:
            raise ValidationError(f"the KV cannot be used: {error}") from error
        if len(kv.tokens) > self._facts.slot_tokens:
            raise ValidationError(f"the KV cannot be used: it has more than {self._facts.slot_tokens} tokens")
        if len(kv.state) > self._shelf_bytes:
            raise MalformedBodyError(f"the KV is larger than the {self._shelf_bytes} bytes this engine holds", 413)
        self._thread.hold(key, kv)

    async def release(self, key: str) -> None:
        """Holds a key no longer.

        Raises:
            KvUnknownError: it was not held.
            IncompleteGenerationError: the backend is closed.
        """
        if not await self._thread.release(key):
            raise KvUnknownError

    async def close(self) -> None:
        """Stops everything and frees the memory."""
        if await self._thread.stop():
            self._context.close()
            self._model.close()


def open_model(path: Path, settings: EngineSettings, on_progress: Callable[[float], None]) -> tuple[Model, Context]:
    """Loads a model and reserves its KV; blocks, so call it in a thread.

    Args:
        path: of the .gguf file.
        settings: how much it must hold.
        on_progress: told the loaded share, 0 to 1.

    Raises:
        SetupError: the file or the library cannot be used, or there is not enough memory.
    """
    model = Model(path, on_progress)
    slot_tokens = min(settings.n_ctx, model.trained_tokens)
    context = Context(
        model,
        ContextSize(
            slots=settings.max_sequences,
            slot_tokens=slot_tokens,
            micro_batch_tokens=settings.prefill_chunk_tokens,
            threads=settings.threads,
        ),
    )
    context.learn_form(model.vocabulary.bos or 0)
    # Read once here, in this thread, rather than at the first request.
    _ = model.vocabulary.pieces, model.vocabulary.special, model.vocabulary.end_of_generation
    return model, context


def _facts(model: Model, context: Context, settings: EngineSettings, slot_tokens: int) -> ModelFacts:
    vocabulary = model.vocabulary

    def text(token: int | None) -> str | None:
        return None if token is None else vocabulary.pieces[token].decode("utf-8", errors="replace")

    same = (
        settings.model,
        model.description,
        model.digest,
        model.rotates_for(context.slot_tokens),
        f"llama.cpp {PINNED}",
    )
    return ModelFacts(
        id=settings.model,
        description=model.description,
        dtype=model.description.rsplit(" ", 1)[-1].lower(),
        device="cpu",
        vocabulary=vocabulary.size,
        chat_template=model.chat_template,
        bos_token=text(vocabulary.bos),
        eos_token=text(vocabulary.eos),
        slots=settings.max_sequences,
        slot_tokens=slot_tokens,
        fingerprint=" ".join(part for part in same if part),
        resumes=True,
        kv_pieces=context.form is not None,
    )
