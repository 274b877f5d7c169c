"""What the worker needs of an inference engine, whichever it is."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from pydantic import JsonValue

from aios_llm.logprobs import Scored
from aios_proto.messages.llm import ChatMessage

if TYPE_CHECKING:
    from aios_llm.generated import Snapshot

StopReason = Literal["length", "end", "stop_sequence"]
Resumes = Literal["ids", "text", "no"]
"""How an engine goes on with an answer begun before: from its token ids, from its text, or not at all."""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine says of itself.

    Attributes:
        model: name of the model it serves.
        version: kind and version, for humans.
        max_input_tokens: longest prompt.
        max_total_tokens: longest prompt and answer together.
        concurrency: requests it runs together.
        kv_tokens: tokens that fit its KV cache, where it tells.
        resumes: how it goes on with an answer begun before.
        fingerprint: the same for engines whose token ids mean the same; empty where that is not known.
        holds_kv: it holds the KV of a paused generation under a key, gives it away and takes it back.
        kv_pieces: it gives away the KV of a running one too, and only what is new of it.
        id: which engine it is, the same after its restart; empty where it does not tell.
    """

    model: str
    version: str
    max_input_tokens: int
    max_total_tokens: int
    concurrency: int
    kv_tokens: int | None = None
    resumes: Resumes = "no"
    fingerprint: str = ""
    holds_kv: bool = False
    kv_pieces: bool = False
    id: str = ""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. `temperature` None is greedy."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Grammar:
    """What the text must look like: a JSON Schema, or a regular expression."""

    kind: Literal["json", "regex"]
    value: JsonValue


@dataclass(frozen=True, slots=True)
class Continuation:
    """The beginning of an answer, made before.

    Attributes:
        ids: its tokens; empty where they are not known.
        text: its text.
        tokens: how many tokens it is.
    """

    ids: tuple[int, ...]
    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One generation. Stop sequences end it; they may or may not be part of the text that comes back.

    Attributes:
        prompt: with the chat template applied; empty where the engine applies it to `messages` itself.
        max_new_tokens: of the whole answer, with what was made before.
        begun: what was made before; only what follows comes back.
        kv_key: names the generation to an engine that holds the KV of one that is closed before its end.
        kv_from: whose held KV it may start from, if not its own.
        messages: the conversation, of a chat.
        top_logprobs: how many of the likeliest tokens are told with each token; None where nobody wants to know how
            likely any was.
    """

    prompt: str
    max_new_tokens: int
    sampling: Sampling
    stop: tuple[str, ...] = ()
    grammar: Grammar | None = None
    begun: Continuation | None = None
    kv_key: str | None = None
    kv_from: str | None = None
    messages: tuple[ChatMessage, ...] = ()
    top_logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """Some tokens as they came.

    Attributes:
        text: whole characters; empty while one is incomplete.
        tokens: how many tokens it covers.
        ids: their ids, where the engine tells them.
        scored: how likely it was, where that is asked for; the piece is this one token then, unless the engine keeps
            others to itself, and text without a token covers none.
    """

    text: str
    tokens: int
    ids: tuple[int, ...] = ()
    scored: Scored | None = None


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of a generation, by the engine's own counts, which are of the whole answer.

    Attributes:
        cached_tokens: whose KV was taken over, of the prompt and of what was made before.
        last: the piece that came with it, if one did: from then on it is too late to stop.
    """

    reason: StopReason
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    last: Piece | None = None


@dataclass(frozen=True, slots=True)
class KvMark:
    """How far the KV reaches that was read of a generation.

    Attributes:
        tokens: of prompt and answer, from the first on.
        digest: tells whether two sequences have the same ones, in the engine's words.
    """

    tokens: int
    digest: str


@dataclass(frozen=True, slots=True)
class KvPiece:
    """The KV of some tokens of a generation that follow each other, in the engine's form.

    Attributes:
        data: opaque.
        end: where it ends.
    """

    data: bytes
    end: KvMark


@dataclass(frozen=True, slots=True)
class KvWanted:
    """Which KV of a generation is asked for.

    Attributes:
        after: what comes after this mark; from the first token on, where that is None or of other tokens.
        max_bytes: about so much of it.
    """

    after: KvMark | None
    max_bytes: int


class KvStore(Protocol):
    """Where the KV of calls is kept outside engines, in pieces. Nothing of it raises: it only saves work."""

    async def append(self, key: str, piece: KvPiece) -> bool:
        """Keeps a piece behind those that are there of a call; whether there was room."""

    async def read(self, key: str) -> list[KvPiece]:
        """The pieces of a call, in the order in which they came; none where there are none, or none can be had."""

    async def remove(self, key: str) -> None:
        """Forgets a call."""


class Engine(Protocol):
    """An inference engine. Its errors are those of the family `engine`."""

    async def info(self) -> EngineInfo:
        """What it serves.

        Raises:
            EngineUnavailable: it cannot be reached or is not ready.
            EngineFailed: what it says makes no sense.
        """

    async def healthy(self) -> bool:
        """Whether it can take a request now. Never raises."""

    async def render(self, messages: list[ChatMessage]) -> str:
        """The prompt text of a conversation, by the model's own chat template, ready for the assistant's turn.

        Raises:
            EngineRefused: the template does not take these messages.
            EngineUnavailable: it cannot be reached.
        """

    def generate(self, request: GenerateRequest, traceparent: str | None) -> AsyncGenerator[Piece | Finish, None]:
        """Generates; the last item, and only it, is a `Finish`. Closing the generator ends the generation.

        Raises:
            EngineRefused: the request is invalid.
            EngineOverloaded: it takes no more now.
            EngineUnavailable: it cannot be reached; nothing was generated.
            EngineFailed: it began and failed.
        """

    async def count_tokens(self, texts: list[str]) -> list[int]:
        """How many tokens each text has, special tokens that the engine adds to a text included.

        Raises:
            EngineUnavailable: it cannot be reached.
            EngineFailed: what it says makes no sense.
        """

    async def resume_point(self, prompt: str, made: "Snapshot") -> Continuation:
        """How much of an answer made before it can go on from so that the whole is as if it had never stopped.

        Raises:
            EngineUnavailable: it cannot be reached.
            EngineFailed: what it says makes no sense.
        """

    async def holds(self, key: str) -> bool:
        """Whether it holds KV under a key. Never raises."""

    async def take_kv(self, wanted: Mapping[str, KvWanted]) -> dict[str, KvPiece]:
        """KV of generations, held or running, by key; only of those of which there is something new. Never raises."""

    async def give_kv(self, key: str, pieces: Sequence[KvPiece]) -> bool:
        """Has it hold under a key what was read of it, piece after piece; whether it does. Never raises."""

    async def release_kv(self, key: str) -> None:
        """Has it hold a key no longer. Never raises."""

    async def close(self) -> None:
        """Lets go of its connections."""
