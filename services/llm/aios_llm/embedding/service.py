"""The embedding worker on the bus: answers `llm.embed`, as one of a queue group, and watches its server."""

import asyncio

from aios_kit.service import Call, Service
from aios_kit.tasks import Tasks, end
from aios_llm.adapters.tei import TeiEmbedder
from aios_llm.embedding.gathering import Gathering
from aios_llm.embedding.ports import Embedder, EmbedderInfo
from aios_llm.embedding.settings import EmbedWorkerSettings
from aios_proto.errors import AiosError, EngineUnavailable, ModelUnknown, RequestTooLarge
from aios_proto.limits import BUS_MAX_PAYLOAD_BYTES
from aios_proto.messages.llm import EmbedRequest, EmbedResult

_DECIMALS = 6
# "-0.012345," for each number, and room for the frame around them.
_BYTES_A_NUMBER = 10
_FRAME_BYTES = 4096
_RETRY_AFTER_S = 1.0


class EmbedWorkerService:
    """Wires the gathering of texts to the bus."""

    def __init__(self, settings: EmbedWorkerSettings, embedder: Embedder | None = None) -> None:
        self.settings = settings
        self.service = Service("llm", settings)
        key = settings.embed_api_key
        self._embedder = embedder or TeiEmbedder(
            settings.embed_url, None if key is None else key.get_secret_value(), settings.embed_timeout_s
        )
        self._batches = Tasks(settings.embed_in_flight, self.service.log)
        self._gathering = Gathering(self._embedder, settings.embed_window_s, settings.embed_batch_texts, self._batches)
        self._info: EmbedderInfo | None = None
        self._background: list[asyncio.Task[None]] = []
        self.service.serve("llm", "embed", self._embed)
        self.service.on_start(self._start)
        self.service.on_stop(self._stop)
        self.service.ready_when(lambda: "the embedding server is not ready" if self._info is None else None)

    async def _start(self) -> None:
        self._background = [
            asyncio.create_task(self._gathering.run(), name="gather texts"),
            asyncio.create_task(self._watch_server(), name="watch the embedding server"),
        ]

    async def _stop(self) -> None:
        await end(*self._background)
        await self._batches.drain(1)
        await self._embedder.close()

    async def _embed(self, call: Call[EmbedRequest]) -> EmbedResult:
        info, request = self._info, call.body
        if info is None:
            raise EngineUnavailable("the embedding server is not ready", retry_after_s=_RETRY_AFTER_S)
        model = self.settings.embed_model_name or info.model
        if request.model is not None and request.model != model:
            raise ModelUnknown(f"embeddings are made by {model} here", field="model")
        vectors = await self._gathering.embed(request.texts, call.headers.traceparent)
        dimensions = len(vectors[0])
        if len(vectors) * dimensions * _BYTES_A_NUMBER + _FRAME_BYTES > BUS_MAX_PAYLOAD_BYTES:
            most = (BUS_MAX_PAYLOAD_BYTES - _FRAME_BYTES) // (dimensions * _BYTES_A_NUMBER)
            raise RequestTooLarge(f"at most {most} texts fit one answer of this model", field="texts")
        return EmbedResult(
            vectors=[[round(number, _DECIMALS) for number in vector] for vector in vectors],
            dimensions=dimensions,
            model=model,
        )

    async def _watch_server(self) -> None:
        """Asks the server how it is: HTTP has no way to be told."""
        while True:
            try:
                info = await self._embedder.info()
            except AiosError as error:
                if self._info is not None:
                    self.service.log.warning("embedding server lost", error=error.message)
                self._info = None
            else:
                if self._info != info:
                    self.service.log.info("embedding server ready", model=info.model)
                self._info = info
                self._gathering.batch_texts = min(self.settings.embed_batch_texts, info.max_texts)
            await asyncio.sleep(self.settings.embed_check_s)
