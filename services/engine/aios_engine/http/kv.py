"""The routes for held KV, beyond TGI: `GET`, `PUT` and `DELETE /aios/kv/{key}`; announced in `/info`."""

import re
from typing import Final

from aiohttp import hdrs, web

from aios_engine.backend import KvHolder
from aios_engine.errors import KvUnknownError, MalformedBodyError, ValidationError
from aios_engine.http.front import front_of

_KEY: Final = re.compile(r"[A-Za-z0-9_.-]{1,250}")


async def get(request: web.Request) -> web.Response:
    """`GET /aios/kv/{key}`: the KV held under a key, as bytes that `PUT` takes, here or in a like engine.

    `HEAD` says whether there is any.
    """
    if request.method == hdrs.METH_HEAD:
        return web.Response(status=200 if await _holder(request).holds(_key(request)) else KvUnknownError.status)
    return web.Response(body=await _holder(request).held(_key(request)), content_type="application/octet-stream")


async def put(request: web.Request) -> web.Response:
    """`PUT /aios/kv/{key}`: holds KV under a key; a generation with this `kv_from` starts from it."""
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
