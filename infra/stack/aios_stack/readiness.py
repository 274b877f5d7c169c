"""How a starting process is asked whether it is ready, and what its answer says about its progress."""

import asyncio
import json
from collections.abc import Callable

import aiohttp

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 0.5
_PROBE_TIMEOUT_S = 5.0


async def wait_ready(session: aiohttp.ClientSession, url: str, on_detail: Callable[[str], None]) -> None:
    """Returns once the URL answers 200; until then hands on what the process says it is doing.

    A process gives no event before its port is open, so it is asked again and again, at growing intervals. The caller
    sets the limit by cancelling.
    """
    pause_s, detail = _FIRST_PAUSE_S, ""
    while True:
        said = ""
        try:
            async with session.get(url, timeout=aiohttp.ClientTimeout(total=_PROBE_TIMEOUT_S)) as response:
                body = await response.text()
            if response.status == 200:
                return
            said = read_detail(body)
        except (aiohttp.ClientError, TimeoutError):
            said = ""
        if said and said != detail:
            detail = said
            on_detail(said)
        await asyncio.sleep(pause_s)
        pause_s = min(_LONGEST_PAUSE_S, pause_s * 1.3)


def read_detail(body: str) -> str:
    """What a probe's body says: the reason a service gives, or the engine's stage and percentage."""
    try:
        document = json.loads(body)
    except ValueError:
        return body.strip()[:120]
    if not isinstance(document, dict):
        return ""
    words = [
        str(document[key]) for key in ("stage", "reason", "error", "message") if isinstance(document.get(key), str)
    ]
    percent = document.get("percent")
    if isinstance(percent, int | float):
        words.append(f"{percent:.0f} %")
    return " ".join(words[:1] + words[1:][-1:])[:120]
