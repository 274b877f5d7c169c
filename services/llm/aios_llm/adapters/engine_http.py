"""How engines are spoken to over HTTP, whichever their API: connecting, streaming, and what their errors mean for us.

A thin client on aiohttp and orjson: the official ones cost seven times the CPU per token and cannot cancel a stream
without leaking it (measured). Only connecting is tried again, never a request that may have begun: that goes back to
the scheduler.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from aios_llm.adapters.sse import EventSplitter
from aios_llm.breaker import Breaker
from aios_proto.errors import AiosError, EngineFailed, EngineOverloaded, EngineRefused, EngineUnavailable
from aios_proto.headers import TRACEPARENT

SHORT_TIMEOUT_S = 5.0
_KV_TIMEOUT_S = 30.0
_RETRY_AFTER_S = 0.5
_CONNECT_AGAIN_S = (0.05, 0.15)
_FAILURES = 8
_PAUSE_S = 2.0
_TOO_LONG = re.compile(r"must be <= (?P<limit>\d+)\. Given: (?P<inputs>\d+) `inputs` tokens")
_DONE = b"[DONE]"
_PARAMS = {
    "input_tokens": "messages",
    "prompt": "messages",
    "messages": "messages",
    "response_format": "response_format",
    "structured_outputs": "response_format",
    "max_tokens": "max_tokens",
    "stop": "stop",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "seed": "seed",
    "repetition_penalty": "repetition_penalty",
    "frequency_penalty": "frequency_penalty",
}
"""What vLLM says a refusal is about, and which field of our own request that is."""


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """An answer that is no JSON."""

    status: int
    data: bytes


class EngineHttp:
    """One engine's HTTP side.

    Args:
        url: base URL of the server.
        api_key: bearer key, if it wants one.
        connect_timeout_s: longest wait for a connection.
        silence_s: longest wait for the next bytes of a stream.
        keep_s: how long a connection may lie unused before the next request takes it; None opens one for each. A
            request that is written to one which the server closes just then must not be repeated, so this is for
            servers that keep theirs for longer.
    """

    def __init__(
        self, url: str, api_key: str | None, connect_timeout_s: float, silence_s: float, keep_s: float | None = None
    ) -> None:
        self._url = url.rstrip("/")
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._stream_timeout = aiohttp.ClientTimeout(sock_connect=connect_timeout_s, sock_read=silence_s)
        self._session: aiohttp.ClientSession | None = None
        self._keep_s = keep_s
        self._breaker = Breaker(_FAILURES, _PAUSE_S)

    async def status(self, path: str) -> int:
        """The status of a GET; 0 where the server cannot be reached."""
        try:
            async with self._http().get(self._url + path, timeout=_total(SHORT_TIMEOUT_S)) as response:
                return response.status
        except (aiohttp.ClientError, TimeoutError):
            return 0

    async def get(self, path: str) -> dict[str, Any]:
        """The JSON object a GET answers.

        Raises:
            EngineUnavailable: the server cannot be reached.
            EngineFailed: it is none.
        """
        value = await self._answer("GET", path, None)
        if not isinstance(value, dict):
            raise EngineFailed("the engine answered something that is not a JSON object")
        return value

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON a POST answers.

        Raises:
            EngineUnavailable: the server cannot be reached.
            EngineRefused: it does not take the request.
            EngineFailed: it answers no JSON.
        """
        return await self._answer("POST", path, body)

    async def raw(
        self,
        method: str,
        path: str,
        data: AsyncIterable[bytes] | None = None,
        json: Mapping[str, Any] | None = None,
    ) -> RawAnswer:
        """What the server says to a request for bytes, or with bytes; status 0 where it cannot be reached."""
        try:
            async with self._http().request(
                method, self._url + path, data=data, json=json, timeout=_total(_KV_TIMEOUT_S)
            ) as response:
                return RawAnswer(response.status, await response.read())
        except (aiohttp.ClientError, TimeoutError):
            return RawAnswer(0, b"")

    async def events(
        self, path: str, body: dict[str, Any], traceparent: str | None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The events of a stream, up to its end or `[DONE]`. Closing it closes the connection.

        Raises:
            EngineRefused: the request is invalid.
            EngineOverloaded: the server takes no more now.
            EngineUnavailable: it cannot be reached, or has failed too often; nothing was generated.
            EngineFailed: it began and failed.
        """
        response = await self._open(path, orjson.dumps(body), traceparent)
        try:
            if response.status != 200:
                raise error_of(response.status, await response.read())
            splitter = EventSplitter()
            async for chunk in response.content.iter_any():
                for data in splitter.feed(chunk):
                    if data == _DONE:
                        return
                    event = orjson.loads(data)
                    if event.get("error") is not None:
                        raise _event_error(event)
                    self._breaker.succeeded()
                    yield event
        except (aiohttp.ClientError, TimeoutError, orjson.JSONDecodeError, AttributeError) as error:
            self._failed()
            raise EngineFailed(f"the engine's stream broke: {reason_of(error)}") from error
        except EngineFailed:
            self._failed()
            raise
        finally:
            response.close()  # not `release`: an abandoned stream must end at the engine too

    def forgive(self) -> None:
        """Forgets earlier failures: the server has come back."""
        self._breaker.succeeded()

    async def close(self) -> None:
        """Closes all connections."""
        if self._session is not None:
            await self._session.close()

    async def _open(self, path: str, data: bytes, traceparent: str | None) -> aiohttp.ClientResponse:
        if (left := self._breaker.left_s(asyncio.get_running_loop().time())) > 0:
            raise EngineUnavailable("the engine failed too often and is left alone for a while", retry_after_s=left)
        headers = {"Content-Type": "application/json"}
        if traceparent is not None:
            headers[TRACEPARENT] = traceparent
        for pause_s in (*_CONNECT_AGAIN_S, None):
            try:
                return await self._http().post(
                    self._url + path, data=data, headers=headers, timeout=self._stream_timeout
                )
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
                if pause_s is None:
                    self._failed()
                    raise EngineUnavailable(f"the engine cannot be reached: {reason_of(error)}") from error
                await asyncio.sleep(pause_s)
            except (aiohttp.ClientError, TimeoutError) as error:
                self._failed()
                # It had the request: this may be what broke it, so it must not be repeated without end.
                raise EngineFailed(f"the engine did not answer: {reason_of(error)}") from error
        raise AssertionError("unreachable")

    def _failed(self) -> None:
        self._breaker.failed(asyncio.get_running_loop().time())

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            if self._keep_s is None:
                connector = aiohttp.TCPConnector(limit=0, force_close=True)
            else:
                connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=self._keep_s)
            self._session = aiohttp.ClientSession(connector=connector, headers=self._headers)
        return self._session

    async def _answer(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        try:
            async with self._http().request(
                method, self._url + path, json=body, timeout=_total(SHORT_TIMEOUT_S)
            ) as response:
                data = await response.read()
                if response.status != 200:
                    raise error_of(response.status, data)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise EngineUnavailable(f"the engine cannot be reached: {reason_of(error)}") from error
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise EngineFailed("the engine answered something that is not JSON") from error


def _total(seconds: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=seconds)


def reason_of(error: BaseException) -> str:
    """What an exception says, or at least what it is."""
    return str(error) or type(error).__name__


def error_of(status: int, body: bytes) -> AiosError:
    """What an answer that is no success means."""
    text, kind, param = body[:200].decode(errors="replace"), "", ""
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        said = None
    if isinstance(said, dict):
        text, kind, param = _said(said)
    return _typed(text or f"HTTP status {status}", kind, status, param)


def _event_error(event: dict[str, Any]) -> AiosError:
    text, kind, param = _said(event)
    inner = event["error"]
    status = (inner.get("http_status_code") or inner.get("code")) if isinstance(inner, dict) else None
    return _typed(text, kind, status if isinstance(status, int) else None, param)


def _said(body: dict[str, Any]) -> tuple[str, str, str]:
    """Message, kind and what it is about: TGI puts them side by side, OpenAI's API into an object."""
    error = body.get("error", body)
    if isinstance(error, dict):
        return str(error.get("message") or ""), str(error.get("type") or ""), str(error.get("param") or "")
    return str(error or ""), str(body.get("error_type") or ""), ""


def _typed(text: str, kind: str, status: int | None, param: str) -> AiosError:
    if kind == "overloaded" or status == 429:
        return EngineOverloaded(text, retry_after_s=_RETRY_AFTER_S)
    if kind in ("validation", "invalid_request_error", "BadRequestError") or status in (400, 404, 413, 422):
        return EngineRefused(text, field=_field(text, param))
    if status in (401, 403):
        return EngineUnavailable("the engine does not accept this worker's key")
    if status in (502, 503, 504):
        return EngineUnavailable(text, retry_after_s=_RETRY_AFTER_S)
    return EngineFailed(text)


def _field(text: str, param: str) -> str | None:
    """The field of our own request that a refusal is about."""
    if (named := _PARAMS.get(param.removeprefix("body.").partition(".")[0])) is not None:
        return named
    too_long = _TOO_LONG.search(text)
    if too_long is not None and int(too_long["inputs"]) >= int(too_long["limit"]):
        return "messages"  # the sum is too large, but no shorter answer would help
    names = {
        "top_n_tokens": "top_logprobs",
        "top_logprobs": "top_logprobs",
        "sample logprobs": "top_logprobs",
        "logprobs": "logprobs",
        "grammar": "response_format",
        "json schema": "response_format",
        "response_format": "response_format",
        "max_new_tokens": "max_tokens",
        "max_tokens": "max_tokens",
        "context length": "messages",
        "context size": "messages",
        "inputs": "messages",
        "stop": "stop",
        "temperature": "temperature",
        "top_p": "top_p",
        "top_k": "top_k",
        "seed": "seed",
    }
    return next((ours for theirs, ours in names.items() if theirs in text.lower()), None)
