"""The routes for KV, beyond TGI: `GET`, `PUT`, `DELETE /aios/kv/{key}` and `POST /aios/kv`; announced in `/info`."""

import re
from typing import Annotated, Final

import orjson
import pydantic
from aiohttp import hdrs, web
from pydantic import Field

from aios_engine.backend import KvHolder
from aios_engine.core.kv_image import KvWanted
from aios_engine.errors import KvUnknownError, MalformedBodyError, ValidationError
from aios_engine.http.body import read_body
from aios_engine.http.front import front_of
from aios_engine.wire import Wire

FIRST_HEADER: Final = "Aios-Kv-First"
END_HEADER: Final = "Aios-Kv-End"
DIGEST_HEADER: Final = "Aios-Kv-Digest"

READ_PATH: Final = "/aios/kv"

_KEY: Final = re.compile(r"[A-Za-z0-9_.-]{1,250}")
_MOST_READS: Final = 256


class _Read(Wire):
    key: Annotated[str, Field(pattern=f"^{_KEY.pattern}$")]
    after: Annotated[int, Field(ge=0)] = 0
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None = None
    max_bytes: Annotated[int, Field(ge=1)] | None = None

    @property
    def wanted(self) -> KvWanted:
        return KvWanted(self.after, self.digest, self.max_bytes)


class _Reads(Wire):
    reads: Annotated[list[_Read], Field(max_length=_MOST_READS)]


async def get(request: web.Request) -> web.Response:
    """`GET /aios/kv/{key}`: KV under a key, as bytes that `PUT` takes, here or in a like engine.

    It is that of the running generation that has this `kv_key`, as far as it is computed, else that of the paused one.
    Of the tokens `after` the first so many, if those have the `digest`, else of all; `max_bytes` of it at most, or one
    token. 204 if there are no more tokens than `after`. `HEAD` says whether any is held of a paused generation.
    """
    holder, key = _holder(request), _key(request)
    if request.method == hdrs.METH_HEAD:
        return web.Response(status=200 if await holder.holds(key) else KvUnknownError.status)
    given = await holder.give(key, _read(request, key).wanted)
    if given is None:
        return web.Response(status=204)
    headers = {FIRST_HEADER: str(given.first), END_HEADER: str(given.end), DIGEST_HEADER: given.digest}
    return web.Response(body=given.image, content_type="application/octet-stream", headers=headers)


async def read(request: web.Request) -> web.Response:
    """`POST /aios/kv`: what `GET` gives for several keys, in one answer and between the same two steps of the model.

    For each key of which something new is there, a line of JSON with `key`, `first`, `end`, `digest` and the number of
    `bytes` that follow it.
    """
    holder = _holder(request)
    asked = await read_body(request, _Reads)
    given = await holder.give_all({one.key: one.wanted for one in asked.reads})
    parts = []
    for key, part in given.items():
        head = {"key": key, "first": part.first, "end": part.end, "digest": part.digest, "bytes": len(part.image)}
        parts += [orjson.dumps(head), b"\n", part.image]
    return web.Response(body=b"".join(parts), content_type="application/octet-stream")


async def put(request: web.Request) -> web.Response:
    """`PUT /aios/kv/{key}`: holds KV under a key; a generation with this `kv_from` starts from it.

    The body is what `GET` gave, once or several times in this order. What does not go with what is before it is left
    out. The answer does not wait for the step that the model is at; a request that is sent after it finds the KV.
    """
    holder, key = _holder(request), _key(request)
    limit = front_of(request).settings.kv_hold_bytes
    chunks, size = [], 0
    # Not `request.read()`: the limit of other bodies is far below what KV has.
    async for chunk in request.content.iter_any():
        size += len(chunk)
        if size > limit:
            raise MalformedBodyError(f"the KV is larger than the {limit} bytes this engine holds", 413)
        chunks.append(chunk)
    await holder.hold(key, b"".join(chunks))
    return web.Response(status=204)


async def delete(request: web.Request) -> web.Response:
    """`DELETE /aios/kv/{key}`: holds it no longer."""
    await _holder(request).release(_key(request))
    return web.Response(status=204)


def _holder(request: web.Request) -> KvHolder:
    backend = front_of(request).inference.backend
    if not isinstance(backend, KvHolder):
        raise KvUnknownError
    return backend


def _key(request: web.Request) -> str:
    key = request.match_info["key"]
    if not _KEY.fullmatch(key):
        raise ValidationError("`key` must be 1 to 250 letters, digits, `_`, `.` or `-`")
    return key


def _read(request: web.Request, key: str) -> _Read:
    try:
        return _Read.model_validate({**request.query, "key": key}, strict=False)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise ValidationError(f"`{first['loc'][0]}`: {first['msg']}") from error
