"""How a bucket is followed: all that is there first, then each change, with a mark between the two.

nats-py sets the mark by asking the server how many values are still to come. Where all are on their way to the client
by then, it says "none" before the first has been seen; who believes it takes a full bucket for an empty one.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from nats.js.kv import KeyValue


async def watch_bucket(
    js: JetStreamContext, bucket: str, keys: str = ">", *, meta_only: bool = False
) -> AsyncGenerator[KeyValue.Entry | None, None]:
    """The last entry of each key, removals among them; then None once; then changes as they come, for ever.

    Close it (`contextlib.aclosing`) where it is left early.

    Args:
        js: JetStream.
        bucket: its name.
        keys: which keys, with wildcards.
        meta_only: whether entries come without their values.

    Raises:
        nats.errors.Error: the bus or JetStream is away; watch again.
    """
    watcher = await (await js.key_value(bucket)).watch(keys, meta_only=meta_only)
    seen = marked = False
    try:
        async for entry in watcher:
            if entry is not None:
                seen = True
                yield entry
                if not marked and entry.delta == 0:
                    marked = True
                    yield None
            elif not (seen or marked) and not await _holds_any(js, bucket, keys):
                marked = True
                yield None
    finally:
        with suppress(NatsError, TimeoutError):
            await asyncio.shield(watcher.stop())  # type: ignore[no-untyped-call]


async def _holds_any(js: JetStreamContext, bucket: str, keys: str) -> bool:
    try:
        info = await js.stream_info(f"KV_{bucket}", subjects_filter=f"$KV.{bucket}.{keys}")
    except NotFoundError:
        return False
    return bool(info.state.subjects)
