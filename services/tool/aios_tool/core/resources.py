"""Which resources one call of a tool touches: the tool's declarations with the call's arguments filled in."""

import re
from collections.abc import Mapping

import orjson
from pydantic import JsonValue

from aios_proto.messages.tool import ToolRecord
from aios_tool.core.gate import Claim

_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


def claim_of(key: str, record: ToolRecord, caller_tenant: str, arguments: Mapping[str, JsonValue]) -> Claim:
    """What a call needs to start.

    Resources are told apart by tenant: those of an agent's tool and of the built-in ones by the caller's, those of a
    mounted server are the same for all, since there is one server.
    """
    tool = record.tool
    space = record.tenant if record.source == "mcp" else caller_tenant
    return Claim(
        key,
        f"{record.tenant}.{tool.name}",
        tool.concurrency,
        frozenset(f"{space}/{_filled(resource, arguments)}" for resource in tool.reads),
        frozenset(f"{space}/{_filled(resource, arguments)}" for resource in tool.writes),
    )


def _filled(resource: str, arguments: Mapping[str, JsonValue]) -> str:
    """Fills `{argument}` in; an argument that is not given counts as null."""

    def value(found: re.Match[str]) -> str:
        given = arguments.get(found[1])
        return given if isinstance(given, str) else orjson.dumps(given, option=orjson.OPT_SORT_KEYS).decode()

    return _PLACEHOLDER.sub(value, resource)
