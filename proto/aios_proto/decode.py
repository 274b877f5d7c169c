"""How a body becomes a request model, and how its faults are named."""

from typing import TypeVar

from pydantic import ValidationError

from aios_proto.errors import AiosError, InvalidRequest, MalformedRequest
from aios_proto.messages.base import Body

B = TypeVar("B", bound=Body)


def decode(model: type[B], body: bytes) -> B:
    """Parses and checks a call's body; an empty one counts as `{}`.

    Raises:
        MalformedRequest: it is not JSON, or not a JSON object.
        InvalidRequest: a field is missing, unknown or wrong; `field` names the first by its path, such as
            `messages.0.role`.
    """
    try:
        return model.model_validate_json(body or b"{}")
    except ValidationError as error:
        raise _as_aios_error(error) from error


def _as_aios_error(error: ValidationError) -> AiosError:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return MalformedRequest(f"the body is not JSON: {first['msg'].removeprefix('Invalid JSON: ')}", field="body")
    if not first["loc"]:
        if first["type"] == "model_type":
            return MalformedRequest("the body must be a JSON object", field="body")
        return InvalidRequest(first["msg"].removeprefix("Value error, "), field="body")
    path = ".".join(str(part) for part in first["loc"])
    others = error.error_count() - 1
    more = f", and {others} more" if others else ""
    return InvalidRequest(f"{path}: {first['msg'].removeprefix('Value error, ')}{more}", field=path)
