"""How a bucket is followed: all that is there first, then each change, with a mark between the two.

nats-py sets the mark by asking the server how many values are still to come. Where all are on their way to the client
by then, it says "none" before the first has been seen; who believes it takes a full bucket for an empty one. And where
some of them are purged or expire before they are sent, it waits for ever for the last one.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from nats.js.kv import KeyValue

_QUIET_S = 1.0
"""Where nothing comes for so long before the mark, the server is asked whether anything still will."""


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
    seen, marked = 0, False
    try:
        while True:
            try:
                async with asyncio.timeout(None if marked else _QUIET_S):
                    entry = await anext(watcher)
            except StopAsyncIteration:
                return
            except TimeoutError:
                if await _all_seen(watcher, seen):
                    marked = True
                    yield None
                continue
            if entry is not None:
                seen += 1
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


async def _all_seen(watcher: KeyValue.KeyWatcher, seen: int) -> bool:
    assert watcher._sub is not None
    info = await watcher._sub.consumer_info()
    return bool(info.num_pending == 0 and info.delivered.consumer_seq <= seen)


async def _holds_any(js: JetStreamContext, bucket: str, keys: str) -> bool:
    try:
        info = await js.stream_info(f"KV_{bucket}", subjects_filter=f"$KV.{bucket}.{keys}")
    except NotFoundError:
        return False
    return bool(info.state.subjects)
