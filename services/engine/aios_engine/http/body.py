"""How a request's body is read, and the errors it gets where it is not what its route takes.

Statuses as axum's `Json` extractor gives them in text-generation-inference: 415 for another content type, 413 above
2 MB, 400 for what is no JSON, 422 for JSON of another shape. The texts are TGI's; unlike there, they come as JSON.
"""

from typing import Final, TypeVar

import pydantic
from aiohttp import web

from aios_engine.errors import MalformedBodyError
from aios_engine.wire import Wire

MAX_BODY_BYTES: Final = 2 * 1024 * 1024

W = TypeVar("W", bound=Wire)


async def read_body(request: web.Request, shape: type[W]) -> W:
    """The body of a request.

    Raises:
        MalformedBodyError: it is not what the route takes; the message names the field.
    """
    kind = request.content_type
    if kind != "application/json" and not kind.endswith("+json"):
        raise MalformedBodyError("Expected request with `Content-Type: application/json`", 415)
    try:
        body = await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise MalformedBodyError("Failed to buffer the request body: length limit exceeded", 413) from error
    try:
        return shape.model_validate_json(body)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise MalformedBodyError(f"Failed to parse the request body as JSON: {first['msg']}", 400) from error
        where = ".".join(str(part) for part in first["loc"])
        raise MalformedBodyError(
            f"Failed to deserialize the JSON body into the target type: {where}: {first['msg']}", 422
        ) from error
