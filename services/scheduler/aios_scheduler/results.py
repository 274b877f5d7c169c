"""Whether a durable call has ended, by the results its workers stored."""

import asyncio
import time

from nats.errors import Error as NatsError
from nats.js.errors import KeyDeletedError, KeyNotFoundError
from nats.js.kv import KeyValue

from aios_kit.logs import Log
from aios_proto.errors import BusUnavailable

_RETRY_S = 0.2


class Results:
    """Reads the bucket of results.

    Args:
        bucket: last frames of calls by their keys.
        timeout_s: longest wait for one answer.
        patience_s: how long `find_patiently` tries.
    """

    def __init__(self, bucket: KeyValue, timeout_s: float, patience_s: float, log: Log) -> None:
        self._bucket = bucket
        self._timeout_s = timeout_s
        self._patience_s = patience_s
        self._log = log

    async def find(self, key: str) -> bytes | None:
        """The last frame of a call; None if it has not ended, or too long ago.

        Raises:
            BusUnavailable: JetStream did not answer.
        """
        try:
            return (await asyncio.wait_for(self._bucket.get(key), self._timeout_s)).value
        except (KeyNotFoundError, KeyDeletedError):
            return None
        except (NatsError, TimeoutError) as error:
            raise BusUnavailable("the stored results cannot be read now", retry_after_s=1) from error

    async def find_patiently(self, key: str) -> bytes | None:
        """As `find`, asking again while the bus is away; after `patience_s` the call counts as not ended.

        To run a call a second time is better than never to end it.
        """
        give_up = time.monotonic() + self._patience_s
        while True:
            try:
                return await self.find(key)
            except BusUnavailable as error:
                if time.monotonic() >= give_up:
                    self._log.warning("a result could not be looked up; the call runs again", key=key, error=str(error))
                    return None
            await asyncio.sleep(_RETRY_S)
