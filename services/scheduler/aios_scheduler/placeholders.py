"""`{{result:<id>}}` in a call's body: the text of an earlier call's result, put in when the call is dispatched.

Placeholders stand inside strings of the JSON body. A chain of calls can so be submitted at once, and flows without a
round trip to the agent. Only calls named in `Aios-After` can be referred to, because only those have ended by then.
"""

import json
import re
from collections.abc import Iterable, Mapping

from pydantic import ValidationError

from aios_proto.errors import InvalidRequest
from aios_proto.frames import FRAME, Done

_PLACEHOLDER = re.compile(rb"\{\{result:([A-Za-z0-9_-]{1,64})\}\}")


def references(body: bytes) -> list[str]:
    """Ids of the calls whose results a body refers to, each once."""
    return list(dict.fromkeys(match.decode() for match in _PLACEHOLDER.findall(body)))


def check_placeholders(body: bytes, after: Iterable[str]) -> None:
    """Whether all that is referred to is waited for.

    Raises:
        InvalidRequest: a placeholder names a call that is not in `Aios-After`.
    """
    if b"{{result:" not in body:
        return
    known = set(after)
    for call_id in references(body):
        if call_id not in known:
            raise InvalidRequest(f"{{{{result:{call_id}}}}} names a call that is not in Aios-After", field="Aios-After")


def fill(body: bytes, texts: Mapping[str, str]) -> bytes:
    """The body with the texts in the place of their placeholders."""
    return _PLACEHOLDER.sub(lambda match: json.dumps(texts[match.group(1).decode()])[1:-1].encode(), body)


def succeeded(frame: bytes) -> bool:
    """Whether a last frame holds a result."""
    return _done(frame) is not None


def text_of(frame: bytes) -> str | None:
    """The text of the result in a last frame: a chat's turn, or what was completed; None if it holds no result."""
    done = _done(frame)
    if done is None:
        return None
    message, text = done.result.get("message"), done.result.get("text")
    if isinstance(message, dict):
        content = message.get("content")
        return content if isinstance(content, str) else ""
    return text if isinstance(text, str) else json.dumps(done.result)


def _done(frame: bytes) -> Done | None:
    try:
        read = FRAME.validate_json(frame)
    except ValidationError:
        return None
    return read if isinstance(read, Done) else None
