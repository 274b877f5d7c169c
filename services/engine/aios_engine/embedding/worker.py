"""The thread the encoder lives in: requests wait for it in order, and only so many of them."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from aios_engine.embedding.encoder import Encoder, Tokens, Vectors
from aios_engine.embedding.errors import EmbeddingFailedError
from aios_engine.errors import OverloadedError

_log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vectors of one request.

    Attributes:
        vectors: one a text, `(texts, dimensions)`.
        tokens: of all texts together.
    """

    vectors: Vectors
    tokens: int


class EncoderThread:
    """Runs an encoder in a thread of its own.

    Args:
        encoder: the model.
        max_requests: how many may wait or run.
    """

    def __init__(self, encoder: Encoder, max_requests: int) -> None:
        self.encoder = encoder
        self._max_requests = max_requests
        self._requests = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encoder")

    @property
    def requests(self) -> int:
        """How many wait or run."""
        return self._requests

    async def tokenize(self, texts: list[str]) -> list[Tokens]:
        """The tokens of each text.

        Raises:
            OverloadedError: too many requests wait.
        """
        return await self._run(lambda: [self.encoder.tokenize(text) for text in texts])

    async def embed(self, texts: list[Tokens], *, normalize: bool) -> Embedded:
        """The vectors of tokenised texts.

        Raises:
            OverloadedError: too many requests wait.
            EmbeddingFailedError: the model failed.
        """

        def encode() -> Vectors:
            try:
                return self.encoder.encode(texts, normalize=normalize)
            except Exception as error:  # ONNX Runtime's errors have no common class
                _log.exception("the embedding model failed")
                raise EmbeddingFailedError("the embedding model failed, see the server's log") from error

        return Embedded(await self._run(encode), sum(len(text.ids) for text in texts))

    async def close(self) -> None:
        """Lets the running request end; those that wait fail."""
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._requests >= self._max_requests:
            raise OverloadedError
        self._requests += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._requests -= 1
