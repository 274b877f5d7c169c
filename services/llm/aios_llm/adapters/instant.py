"""An engine that answers at once, in process: what remains is the cost of the road to it. For measurements only."""

from collections.abc import AsyncGenerator, Mapping, Sequence

from aios_llm.generated import Snapshot
from aios_llm.logprobs import Likelihood, scored
from aios_llm.ports import Continuation, EngineInfo, Finish, GenerateRequest, KvPiece, KvWanted, Piece
from aios_proto.messages.llm import ChatMessage

_TOKEN = "word "


class InstantEngine:
    """Produces `max_new_tokens` times the same word."""

    async def info(self) -> EngineInfo:
        """See `Engine.info`."""
        return EngineInfo("instant", "instant", 1 << 20, 1 << 21, concurrency=4096, resumes="text")

    async def healthy(self) -> bool:
        """Always."""
        return True

    async def render(self, messages: list[ChatMessage]) -> str:
        """The contents, a line each."""
        return "\n".join(message.content or "" for message in messages)

    async def generate(self, request: GenerateRequest, traceparent: str | None) -> AsyncGenerator[Piece | Finish, None]:
        """See `Engine.generate`."""
        made = 0 if request.begun is None else request.begun.tokens
        piece = Piece(_TOKEN, 1)
        if request.top_logprobs is not None:
            certain = Likelihood(_TOKEN, 0.0)
            piece = Piece(_TOKEN, 1, scored=scored(certain, [certain], request.top_logprobs))
        for _ in range(made, request.max_new_tokens):
            yield piece
        yield Finish("length", len(request.prompt.split()), request.max_new_tokens)

    async def count_tokens(self, texts: list[str]) -> list[int]:
        """A word is a token."""
        return [len(text.split()) for text in texts]

    async def resume_point(self, prompt: str, made: Snapshot) -> Continuation:
        """All of it."""
        return made.whole

    async def holds(self, key: str) -> bool:
        """Never: it has no KV."""
        return False

    async def take_kv(self, wanted: Mapping[str, KvWanted]) -> dict[str, KvPiece]:
        """None: it has no KV."""
        return {}

    async def give_kv(self, key: str, pieces: Sequence[KvPiece]) -> bool:
        """Never: it has no use for KV."""
        return False

    async def release_kv(self, key: str) -> None:
        """Nothing to release."""

    async def close(self) -> None:
        """Nothing to let go of."""
