"""What the embedding worker needs from outside: something that turns texts into vectors."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class EmbedderInfo:
    """What an embedding server says of itself.

    Attributes:
        model: its name; vectors of models of different names must not be compared.
        max_texts: texts it takes in one request.
        max_input_tokens: of one text; what is longer is cut at its end.
    """

    model: str
    max_texts: int
    max_input_tokens: int


class Embedder(Protocol):
    """An embedding server. Its errors are those of the family `engine`."""

    async def info(self) -> EmbedderInfo:
        """What it serves.

        Raises:
            EngineUnavailable: it cannot be reached or is not ready.
            EngineFailed: what it says makes no sense.
        """

    async def embed(self, texts: list[str], traceparent: str | None) -> list[list[float]]:
        """One vector of length one per text; texts that are too long are cut at their end.

        Raises:
            EngineRefused: it does not take these texts.
            EngineOverloaded: it takes no more now.
            EngineUnavailable: it cannot be reached.
            EngineFailed: it began and failed.
        """

    async def close(self) -> None:
        """Lets go of its connections."""
