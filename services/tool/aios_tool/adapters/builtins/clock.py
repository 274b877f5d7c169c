"""The time, in any zone."""

import datetime
import zoneinfo

from pydantic import JsonValue

from aios_proto.errors import InvalidRequest
from aios_proto.messages.tool import ToolSpec
from aios_tool.core.builtin import Builtin
from aios_tool.ports import Attempt


async def _time(attempt: Attempt) -> JsonValue:
    name = str(attempt.arguments.get("zone", "UTC"))
    try:
        zone = zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidRequest(f"zone: there is no time zone {name[:64]!r}", field="arguments.zone") from error
    now = datetime.datetime.now(zone)
    return {"time": now.isoformat(timespec="seconds"), "weekday": now.strftime("%A"), "unix_s": int(now.timestamp())}


TIME = Builtin(
    ToolSpec(
        name="time",
        description="Tells date, time and weekday.",
        input_schema={
            "type": "object",
            "properties": {"zone": {"type": "string", "description": "such as Europe/Berlin; UTC by default"}},
            "additionalProperties": False,
        },
        effects=["read_only"],
        timeout_s=5,
        concurrency=64,
    ),
    _time,
)
