"""An embedding server that is a function: texts that share words have vectors that point the same way."""

import asyncio
import hashlib
import math

from aios_llm.embedding.ports import Embedder, EmbedderInfo
from aios_proto.errors import EngineUnavailable


class WordEmbedder(Embedder):
    """Hashes words into dimensions; deterministic, without a model.

    Attributes:
        model: its name; change it and it is another model.
        dimensions: of its vectors.
        available: whether it answers; `EngineUnavailable` else.
        texts: all texts it was given.
    """

    def __init__(self, model: str = "words", dimensions: int = 64) -> None:
        self.model = model
        self.dimensions = dimensions
        self.available = True
        self.texts: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def info(self) -> EmbedderInfo:
        return EmbedderInfo(self.model, 64, 256)

    async def embed(self, texts: list[str], traceparent: str | None) -> list[list[float]]:
        await self.gate.wait()
        if not self.available:
            raise EngineUnavailable("told to be away")
        self.texts += texts
        return [self.vector(text) for text in texts]

    def vector(self, text: str) -> list[float]:
        """The vector of a text, of length one."""
        numbers = [0.0] * self.dimensions
        for word in text.casefold().split() or [""]:
            digest = hashlib.sha256(f"{self.model} {word}".encode()).digest()
            for start in (0, 4, 8):
                numbers[int.from_bytes(digest[start : start + 2]) % self.dimensions] += (
                    1 if digest[start + 2] % 2 else -1
                )
        length = math.sqrt(sum(number * number for number in numbers)) or 1.0
        if length == 1.0 and not any(numbers):
            numbers[0] = 1.0
        return [number / length for number in numbers]

    async def close(self) -> None: ...
