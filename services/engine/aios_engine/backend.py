"""What the HTTP front needs from whatever generates: a model on this machine, or later an emulated one."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from aios_engine.core.kv_image import KvWanted
from aios_engine.core.sampling import SamplingParameters
from aios_engine.core.stopping import FinishReason


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is served.

    Attributes:
        id: name the model was asked for by.
        description: architecture, size and quantisation.
        dtype: how its weights are stored.
        device: what it runs on.
        vocabulary: number of token ids.
        chat_template: Jinja source; None where the model has none.
        bos_token: text of the beginning-of-sequence token.
        eos_token: text of the end-of-sequence token.
        slots: sequences that run at once.
        slot_tokens: tokens of one sequence, prompt and answer.
        pool_tokens: tokens of KV that all sequences share; None where each slot has its own.
        fingerprint: the same for engines whose token ids and KV mean the same; empty where that is not known.
        resumes: whether a generation can go on behind tokens generated before, and KV be held, saved and restored.
        kv_pieces: whether KV can be read and put in pieces, also while the generation runs.
    """

    id: str
    description: str
    dtype: str
    device: str
    vocabulary: int
    chat_template: str | None
    bos_token: str | None
    eos_token: str | None
    slots: int
    slot_tokens: int
    pool_tokens: int | None = None
    fingerprint: str = ""
    resumes: bool = False
    kv_pieces: bool = False

    @property
    def kv_tokens(self) -> int:
        """Tokens of KV in all."""
        return self.slots * self.slot_tokens if self.pool_tokens is None else self.pool_tokens


@dataclass(frozen=True, slots=True)
class GrammarSource:
    """What the answer must look like: a JSON Schema as text, or a regular expression for the whole of it."""

    kind: Literal["json", "regex"]
    source: str


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One generation, validated; parameters are text-generation-inference's.

    Attributes:
        prompt: token ids, at least one.
        max_new_tokens: prompt and these fit `ModelFacts.slot_tokens`.
        sampling: how tokens are chosen.
        stop_sequences: texts that end it.
        top_n_tokens: alternatives to report with each token.
        prefill_details: whether log-probabilities of the prompt are wanted.
        grammar: what the answer must look like.
        generated: the tokens of the answer there are already; fewer than `max_new_tokens`, which counts them.
        cache_prompt: whether KV of earlier generations may be taken over.
        kv_key: under which its KV is held if it is closed before its end.
        kv_from: under which KV may be held that it can start from.
    """

    prompt: tuple[int, ...]
    max_new_tokens: int
    sampling: SamplingParameters = field(default_factory=SamplingParameters)
    stop_sequences: tuple[str, ...] = ()
    top_n_tokens: int = 0
    prefill_details: bool = False
    grammar: GrammarSource | None = None
    generated: tuple[int, ...] = ()
    cache_prompt: bool = True
    kv_key: str | None = None
    kv_from: str | None = None


@dataclass(frozen=True, slots=True)
class PromptToken:
    """A token of the prompt; the first has no log-probability."""

    id: int
    text: str
    logprob: float | None


@dataclass(frozen=True, slots=True)
class GeneratedToken:
    """A generated token, or an alternative to it.

    Attributes:
        text: what it adds; empty while it leaves a UTF-8 character unfinished.
        special: a control token, no part of the generated text.
        raw: its bytes, where they are not the UTF-8 of `text`.
    """

    id: int
    text: str
    logprob: float
    special: bool
    raw: bytes | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """How a generation ended: its text without control tokens, why, and how many tokens it has."""

    text: str
    reason: FinishReason
    generated_tokens: int


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One more token; the last has an ending."""

    token: GeneratedToken
    top_tokens: tuple[GeneratedToken, ...] = ()
    ending: Ending | None = None


@dataclass(slots=True)
class Progress:
    """How far a generation has come; times are Unix nanoseconds, None until then.

    Attributes:
        queued_ns: put into the queue.
        started_ns: given a slot.
        prefilled_ns: prompt computed, first token chosen.
        ended_ns: last token chosen, or cancelled, or failed.
        cached_tokens: tokens whose KV was taken over, of the prompt and of what had been generated before.
        generated_tokens: tokens so far, with those generated before.
        prefill: the prompt with log-probabilities, if asked for.
    """

    queued_ns: int
    started_ns: int | None = None
    prefilled_ns: int | None = None
    ended_ns: int | None = None
    cached_tokens: int = 0
    generated_tokens: int = 0
    prefill: tuple[PromptToken, ...] = field(default=())


class Generation(Protocol):
    """A running generation: iterate over its tokens; close it in any case."""

    @property
    def progress(self) -> Progress:
        """How far it has come."""
        ...

    def __aiter__(self) -> AsyncIterator[TokenEvent]:
        """Tokens as they come; ends after the one with an ending.

        Raises:
            EngineError: the generation failed.
        """
        ...

    def close(self) -> None:
        """Stops it within one step if it has not ended; may be called twice."""
        ...


@dataclass(frozen=True, slots=True)
class Load:
    """How busy a backend is: sequences waiting and running, and tokens of KV promised to the running ones."""

    waiting: int
    running: int
    reserved_tokens: int


@dataclass(frozen=True, slots=True)
class StepReport:
    """One run of the model, for metrics.

    Attributes:
        method: `prefill` if a prompt was part of it.
        admitted: sequences that started in it.
        sequences: sequences in it.
        model_s: seconds in the model.
        total_s: seconds with sampling and delivery.
    """

    method: Literal["prefill", "decode"]
    admitted: int
    sequences: int
    model_s: float
    total_s: float


class Backend(Protocol):
    """Generates tokens."""

    @property
    def facts(self) -> ModelFacts:
        """What is served."""
        ...

    @property
    def load(self) -> Load:
        """How busy it is now."""
        ...

    @property
    def healthy(self) -> bool:
        """Whether generations can be expected to work."""
        ...

    def tokenize(self, text: str, *, add_special: bool = True) -> list[int]:
        """Token ids of a text; pure computation, from any thread."""
        ...

    def piece(self, token: int) -> bytes:
        """The bytes of a token."""
        ...

    async def start(self, request: GenerationRequest) -> Generation:
        """Puts a generation into the queue.

        Raises:
            ValidationError: the grammar does not compile.
            IncompleteGenerationError: the backend is closed.
        """
        ...

    async def close(self) -> None:
        """Stops everything and frees the memory."""
        ...


@dataclass(frozen=True, slots=True)
class KvGiven:
    """A part of the KV under a key.

    Attributes:
        image: as `core.kv_image` forms it.
        first: position of its first token.
        end: of the first token behind it.
        digest: of all tokens before `end`.
    """

    image: bytes
    first: int
    end: int
    digest: str


@runtime_checkable
class KvHolder(Protocol):
    """A backend that gives KV away and takes it in (`ModelFacts.resumes`)."""

    async def holds(self, key: str) -> bool:
        """Whether KV of a paused generation is held under a key."""
        ...

    async def give(self, key: str, wanted: KvWanted) -> KvGiven | None:
        """KV of the generation that runs under a key, else of the one that is held under it; None if nothing is new.

        Raises:
            KvUnknownError: there is none.
            EngineError: it cannot be read.
        """
        ...

    async def give_all(self, wanted: Mapping[str, KvWanted]) -> dict[str, KvGiven]:
        """The same for several keys at once; those that are not known, have nothing new or cannot be read are left out.

        Raises:
            EngineError: nothing can be read.
        """
        ...

    async def hold(self, key: str, data: bytes) -> None:
        """Holds what `give` gave under a key: one image, or several in their order.

        Raises:
            EngineError: it cannot be used here.
        """
        ...

    async def release(self, key: str) -> None:
        """Holds a key no longer.

        Raises:
            KvUnknownError: it was not held.
        """
        ...
