"""Hugging Face's Text Embeddings Inference (1.x) and whatever speaks its API, over HTTP.

Every request asks for vectors of length one and for texts that are too long to be cut at their end (`truncate`).
"""

import aiohttp
import orjson

from aios_llm.embedding.ports import EmbedderInfo
from aios_proto.errors import AiosError, EngineFailed, EngineOverloaded, EngineRefused, EngineUnavailable
from aios_proto.headers import TRACEPARENT

_INFO_TIMEOUT_S = 5.0
_CONNECT_TIMEOUT_S = 2.0
_RETRY_AFTER_S = 0.2
_DEFAULT_BATCH = 32


class TeiEmbedder:
    """The `Embedder` port on TEI's API.

    Args:
        url: base URL of the server.
        api_key: bearer key, if it wants one.
        timeout_s: longest wait for one batch.
    """

    def __init__(self, url: str, api_key: str | None, timeout_s: float) -> None:
        self._url = url.rstrip("/")
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=_CONNECT_TIMEOUT_S)
        self._session: aiohttp.ClientSession | None = None

    async def info(self) -> EmbedderInfo:
        """See `Embedder.info`."""
        said = await self._exchange("GET", "/info", None, None, aiohttp.ClientTimeout(total=_INFO_TIMEOUT_S))
        if not isinstance(said, dict):
            raise EngineFailed("the embedding server's /info is no JSON object")
        model = said.get("model_id")
        if not isinstance(model, str) or not model:
            raise EngineFailed("the embedding server's /info names no model")
        texts, tokens = said.get("max_client_batch_size"), said.get("max_input_length")
        return EmbedderInfo(
            model,
            texts if isinstance(texts, int) and texts > 0 else _DEFAULT_BATCH,
            tokens if isinstance(tokens, int) and tokens > 0 else 0,
        )

    async def embed(self, texts: list[str], traceparent: str | None) -> list[list[float]]:
        """See `Embedder.embed`."""
        body = orjson.dumps({"inputs": texts, "normalize": True, "truncate": True})
        said = await self._exchange("POST", "/embed", body, traceparent, self._timeout)
        if not _are_vectors(said, len(texts)):
            raise EngineFailed(f"the embedding server did not answer {len(texts)} texts with as many vectors")
        vectors: list[list[float]] = said  # type: ignore[assignment]
        return vectors

    async def close(self) -> None:
        """See `Embedder.close`."""
        if self._session is not None:
            await self._session.close()

    async def _exchange(
        self, method: str, path: str, body: bytes | None, traceparent: str | None, timeout: aiohttp.ClientTimeout
    ) -> object:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30), headers=self._headers
            )
        headers = {} if traceparent is None else {TRACEPARENT: traceparent}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            async with self._session.request(
                method, self._url + path, data=body, headers=headers, timeout=timeout
            ) as response:
                answer = await response.read()
                if response.status != 200:
                    raise _error(response.status, answer)
        except (aiohttp.ClientError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
            raise EngineUnavailable(
                f"the embedding server cannot be reached: {reason}", retry_after_s=_RETRY_AFTER_S
            ) from error
        try:
            value: object = orjson.loads(answer)
        except orjson.JSONDecodeError as error:
            raise EngineFailed("the embedding server answered something that is not JSON") from error
        return value


def _are_vectors(value: object, count: int) -> bool:
    """Whether these are `count` lists of one length; that they hold numbers is checked where the result is made."""
    if not isinstance(value, list) or len(value) != count:
        return False
    lengths = {len(row) if isinstance(row, list) else 0 for row in value}
    return len(lengths) == 1 and 0 not in lengths


def _error(status: int, body: bytes) -> AiosError:
    text = f"HTTP status {status}"
    try:
        said = orjson.loads(body)
        if isinstance(said, dict) and isinstance(said.get("error"), str):
            text = said["error"]
    except orjson.JSONDecodeError:
        text = body[:200].decode(errors="replace") or text
    if status == 429:
        return EngineOverloaded(text, retry_after_s=_RETRY_AFTER_S)
    if status in (401, 403):
        return EngineUnavailable("the embedding server does not accept this worker's key")
    if status in (502, 503, 504):
        return EngineUnavailable(text, retry_after_s=_RETRY_AFTER_S)
    if 400 <= status < 424:
        return EngineRefused(text, field="texts")
    return EngineFailed(text)
