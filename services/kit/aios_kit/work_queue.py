"""How the one reader of a JetStream work queue gets its messages: at once, in order, at its start all open ones again.

nats-py's `fetch` waits for a whole batch; here a pull request stays open and each message is handled as it comes. The
consumer is made anew at every start and after every loss of the connection: the stream gives all messages that were
never acknowledged again at once, not after an acknowledgement timeout, those that were lost on a dying connection among
them; and a reader that was replaced is told so by the server.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from aios_kit.logs import Log
from aios_kit.tasks import end

_BATCH = 1000
_REFILL_BELOW = 500
# Of bodies up to 1 MiB a whole batch would overrun what the client buffers; what it drops comes late or never.
_BATCH_BYTES = 16 << 20
_BUFFER_BYTES = 4 * _BATCH_BYTES
_RETRY_S = 0.1
_EXPIRES_S = 30.0
_HEARTBEAT_S = 5.0
_STATUS = "Status"
_DESCRIPTION = "Description"


class WorkQueue:
    """Reads one work-queue stream for as long as it runs.

    Args:
        nc: the connection; its inbox prefix is used for delivery.
        js: JetStream on the same connection.
        stream: name of the stream.
        consumer: name of the durable consumer; one reader at a time.
        max_open: messages delivered and not acknowledged, at the most.
        ack_wait_s: after this long an unacknowledged message comes again, to the same reader.
        handler: called for each message, one after another; acknowledge with `message.ack()`. After the connection was
            lost it sees messages again that it has not acknowledged yet: the newest is the one to acknowledge.
        replaced: called when another reader has taken the queue over.
    """

    def __init__(
        self,
        nc: Client,
        js: JetStreamContext,
        stream: str,
        consumer: str,
        *,
        max_open: int,
        ack_wait_s: float,
        handler: Callable[[Msg], Awaitable[None]],
        replaced: Callable[[], None],
        log: Log,
    ) -> None:
        self._nc = nc
        self._js = js
        self._stream = stream
        self._consumer = consumer
        self._config = ConsumerConfig(
            durable_name=consumer,
            deliver_policy=DeliverPolicy.ALL,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=ack_wait_s,
            max_ack_pending=max_open,
            max_deliver=-1,
        )
        self._handler = handler
        self._replaced = replaced
        self._log = log
        self._subscription: Subscription | None = None
        self._wanted = 0
        self._generation = 0
        self._heard = asyncio.Event()
        self._watchdog: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Takes the queue over; returns the sequence number of the last message that was in it before."""
        last = await self._take_over()
        self._subscription = await self._nc.subscribe(
            f"{self._nc.new_inbox()}.*", cb=self._on_message, pending_bytes_limit=_BUFFER_BYTES
        )
        await self._pull()
        self._watchdog = asyncio.create_task(self._watch(), name=f"watch {self._stream}")
        return last

    async def resume(self) -> int:
        """Takes the queue over again after the connection was lost; returns what `start` does.

        Raises:
            nats.errors.Error: JetStream is not back yet; try again.
        """
        self._generation += 1  # whatever the server still has to say to the old request is of no interest
        last = await self._take_over()
        await self._pull()
        return last

    async def stop(self) -> None:
        """Takes no more messages. What was not acknowledged stays in the queue."""
        if self._watchdog is not None:
            await end(self._watchdog)
        if self._subscription is not None:
            subscription, self._subscription = self._subscription, None
            with suppress(NatsError):  # the connection is gone, and the subscription with it
                await subscription.drain()  # type: ignore[no-untyped-call]

    async def _take_over(self) -> int:
        with suppress(NotFoundError):
            await self._js.delete_consumer(self._stream, self._consumer)
        await self._js.add_consumer(self._stream, self._config)
        return int((await self._js.stream_info(self._stream)).state.last_seq)

    async def _pull(self) -> None:
        if self._subscription is None:
            return
        self._generation += 1
        self._wanted = _BATCH
        request = {
            "batch": _BATCH,
            "max_bytes": _BATCH_BYTES,
            "expires": int(_EXPIRES_S * 1e9),
            "idle_heartbeat": int(_HEARTBEAT_S * 1e9),
        }
        reply = f"{self._subscription.subject[:-1]}{self._generation}"
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"
        await self._nc.publish(subject, orjson.dumps(request), reply=reply)

    async def _on_message(self, message: Msg) -> None:
        self._heard.set()
        status = (message.headers or {}).get(_STATUS)
        if status is not None and not message.reply:
            await self._on_status(message, status)
            return
        self._wanted -= 1
        try:
            await self._handler(message)
        except Exception:
            self._log.exception("a queued message could not be handled", subject=message.subject)
        if self._wanted <= _REFILL_BELOW:
            await self._pull()

    async def _on_status(self, message: Msg, status: str) -> None:
        if status == "100" or not message.subject.endswith(f".{self._generation}"):
            return  # a heartbeat, or the end of a request that was replaced
        description = (message.headers or {}).get(_DESCRIPTION, "")
        if "Consumer Deleted" in description:
            self._log.error("another reader has taken the queue over", stream=self._stream)
            self._replaced()
            return
        if status == "503":
            await asyncio.sleep(_RETRY_S)  # nobody listens: JetStream is on its way back
        await self._pull()

    async def _watch(self) -> None:
        while True:
            self._heard.clear()
            try:
                # Not `wait_for`: before Python 3.12 it swallows a cancellation that meets the event.
                async with asyncio.timeout(_HEARTBEAT_S * 2):
                    await self._heard.wait()
            except TimeoutError:
                if self._nc.is_connected:
                    self._log.warning("the queue went silent; asking again", stream=self._stream)
                    await self._pull()
