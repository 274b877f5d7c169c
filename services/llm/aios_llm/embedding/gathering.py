"""How calls meet in a batch: a text waits a moment for others, and while the server works the next batch fills up."""

import asyncio
import itertools
from dataclasses import dataclass, field

from aios_kit.tasks import Tasks
from aios_llm.embedding.batches import Batches, Place
from aios_llm.embedding.ports import Embedder
from aios_proto.errors import AiosError

Vector = list[float]


@dataclass(slots=True)
class _Open:
    future: "asyncio.Future[list[Vector]]"
    traceparent: str | None
    missing: int
    vectors: list[Vector] = field(default_factory=list)


class Gathering:
    """Embeds the texts of concurrent calls in common batches.

    Args:
        embedder: the server.
        window_s: how long a text waits for others when the server is idle.
        batch_texts: most texts of a batch.
        batches: where the batches run; its limit is how many are at the server at once.
    """

    def __init__(self, embedder: Embedder, window_s: float, batch_texts: int, batches: Tasks) -> None:
        self.batch_texts = batch_texts
        self._embedder = embedder
        self._window_s = window_s
        self._batches = batches
        self._waiting = Batches()
        self._open: dict[int, _Open] = {}
        self._numbers = itertools.count()
        self._news = asyncio.Event()

    async def embed(self, texts: list[str], traceparent: str | None) -> list[Vector]:
        """One vector per text, in their order.

        Raises:
            AiosError: what the server answered to a batch with one of them.
        """
        number = next(self._numbers)
        future: asyncio.Future[list[Vector]] = asyncio.get_running_loop().create_future()
        self._open[number] = _Open(future, traceparent, len(texts), [[]] * len(texts))
        self._waiting.add(number, texts)
        self._news.set()
        try:
            return await future
        finally:
            del self._open[number]
            self._waiting.remove(number)

    async def run(self) -> None:
        """Sends batches for ever; cancel it to stop."""
        while True:
            await self._news.wait()
            self._news.clear()
            while len(self._waiting):
                if len(self._waiting) < self.batch_texts:
                    await asyncio.sleep(self._window_s)
                # Waits while as many batches as allowed are at the server: what comes meanwhile goes with the next.
                await self._batches.start(self._send(), "embed a batch")
                await asyncio.sleep(0)

    async def _send(self) -> None:
        batch = self._waiting.take(self.batch_texts)
        if not batch:
            return
        first = self._open.get(batch[0][0].call)
        try:
            vectors = await self._embedder.embed([text for _, text in batch], first.traceparent if first else None)
        except AiosError as error:
            for call in {place.call for place, _ in batch}:
                self._fail(call, error)
            return
        for (place, _), vector in zip(batch, vectors, strict=True):
            self._put(place, vector)

    def _put(self, place: Place, vector: Vector) -> None:
        call = self._open.get(place.call)
        if call is None:
            return  # it was given up
        call.vectors[place.index] = vector
        call.missing -= 1
        if call.missing == 0 and not call.future.done():
            call.future.set_result(call.vectors)

    def _fail(self, number: int, error: AiosError) -> None:
        call = self._open.get(number)
        if call is not None and not call.future.done():
            self._waiting.remove(number)
            call.future.set_exception(error)
