"""How a command asks the kernel: as the operator, at AIOS_URL with AIOS_TOKEN or at the folder's stack."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import JsonValue, ValidationError

from aios_proto.errors import InvalidRequest, ResourceNotFound
from aios_proto.messages.base import Body
from aios_stack.commands.options import running_state
from aios_stack.data_folder import DataFolder

_DEADLINE_S = 15.0

B = TypeVar("B", bound=Body)


def checked(model: type[B], **fields: object) -> B:
    """A request made of options.

    Raises:
        InvalidRequest: an option has an impossible value; `field` names it.
    """
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InvalidRequest(first["msg"], field=".".join(str(part) for part in first["loc"])) from error


def ask_access(
    data: Path | None, operation: str, request: Body | None, *, deadline_s: float = _DEADLINE_S
) -> Mapping[str, JsonValue]:
    """The result of one operation of access; see `ask`."""
    return ask(data, "access", operation, request, deadline_s=deadline_s)


def ask(
    data: Path | None, manager: str, operation: str, request: Body | None, *, deadline_s: float = _DEADLINE_S
) -> Mapping[str, JsonValue]:
    """The result of one operation of a manager, within `deadline_s` seconds.

    Raises:
        ResourceNotFound: there is no running stack, or it has no operator's token.
        AiosError: the manager refused, or could not be reached.
    """
    url, token = operator_of(data)
    return asyncio.run(_ask(url, token, manager, operation, request, deadline_s))


def operator_of(data: Path | None) -> tuple[str, str]:
    """Where the bus is, and the operator's token.

    Raises:
        ResourceNotFound: there is no running stack, or it has no operator's token.
    """
    url, token = os.environ.get("AIOS_URL"), os.environ.get("AIOS_TOKEN")
    if url and token:
        return url, token
    folder = DataFolder.find(data)
    url = running_state(folder).url
    try:
        return url, folder.operator_token.read_text().strip()
    except FileNotFoundError as error:
        raise ResourceNotFound(f"{folder.operator_token} is missing; `aios up` makes it") from error


async def _ask(
    url: str, token: str, manager: str, operation: str, request: Body | None, deadline_s: float
) -> Mapping[str, JsonValue]:
    from aios import Agent  # brings the SDK, for which `aios --help` need not wait

    async with Agent(token=token, url=url) as operator:
        return (await operator.syscall(manager, operation, request, deadline_s=deadline_s)).result
