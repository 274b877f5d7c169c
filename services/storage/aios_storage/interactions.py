"""What is remembered of agents' calls: every fact `AIOS_EVENTS` tells of a call, sealed, for months, and searched.

A fact is copied once: it is published under the number it has among the events, and acknowledged only afterwards.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import NotFoundError
from pydantic import ValidationError

from aios_kit.envelope import Envelope
from aios_kit.key_ring import Tampered, TenantShredded
from aios_kit.logs import Log
from aios_kit.streams import ensure_stream
from aios_proto import subjects
from aios_proto.errors import BusUnavailable, InvalidRequest
from aios_proto.kernel import CallFact
from aios_proto.messages.storage import Interaction, InteractionsRequest, InteractionsResult

CONSUMER = "storage-interactions"
FACTS = "aios.evt.*.syscall.>"
SCANNED = 20_000
"""Facts that one call looks at; its cursor goes on behind them."""

_FETCH_S = 30.0
_RETRY_S = 0.5
_BATCH = 64
_ACK_WAIT_S = 30.0


def interactions_stream(replicas: int, days: float) -> StreamConfig:
    """`AIOS_INTERACTIONS`; the oldest go first, after so many days."""
    return StreamConfig(
        name=subjects.INTERACTIONS_STREAM,
        subjects=[subjects.ALL_INTERACTIONS],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        discard=DiscardPolicy.OLD,
        max_age=days * 24 * 3600,
        duplicate_window=600,
        num_replicas=replicas,
        allow_direct=True,
    )


class Interactions:
    """Records and finds them.

    Args:
        js: gives JetStream, once there is a connection.
        envelope: seals them.
        timeout_s: longest wait for one answer of JetStream.
        log: for facts that could not be read.
    """

    def __init__(self, js: Callable[[], JetStreamContext], envelope: Envelope, timeout_s: float, log: Log) -> None:
        self._js = js
        self._envelope = envelope
        self._timeout_s = timeout_s
        self._log = log

    async def open(self, replicas: int, days: float) -> None:
        """Makes the stream where there is none."""
        await ensure_stream(self._js(), interactions_stream(replicas, days))

    async def run(self) -> None:
        """Records for ever; cancel it to stop."""
        while True:
            try:
                await self._record()
            except (NatsError, TimeoutError, BusUnavailable) as error:
                self._log.info("calls are not recorded just now", error=str(error) or type(error).__name__)
            await asyncio.sleep(_RETRY_S)

    async def search(self, tenant: str, request: InteractionsRequest) -> InteractionsResult:
        """One page of a tenant's interactions.

        Raises:
            InvalidRequest: the cursor is none.
            BusUnavailable: JetStream cannot be reached.
        """
        start = _place(request.cursor)
        found: list[Interaction] = []
        looked = 0
        async for place, agent, sealed, left in self._from(tenant, request.agent, start, request.after_ms):
            looked += 1
            with suppress(Tampered):
                stored = await self._envelope.open(tenant, _name(agent), sealed)
                one = Interaction.model_validate_json(stored)
                if request.before_ms is not None and one.at_ms >= request.before_ms:
                    continue
                if _matches(one, request):
                    found.append(one)
            if left and (len(found) == request.limit or looked == SCANNED):
                return InteractionsResult(interactions=found, cursor=str(place + 1))
        return InteractionsResult(interactions=found)

    async def forget(self, tenant: str) -> None:
        """Removes all of a tenant."""
        with suppress(NotFoundError):
            await self._js().purge_stream(subjects.INTERACTIONS_STREAM, subject=f"aios.interactions.{tenant}.>")

    async def _record(self) -> None:
        js = self._js()
        config = ConsumerConfig(
            durable_name=CONSUMER,
            deliver_policy=DeliverPolicy.ALL,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=_ACK_WAIT_S,
            filter_subject=FACTS,
            max_ack_pending=4 * _BATCH,
        )
        pull = await js.pull_subscribe(FACTS, durable=CONSUMER, stream=subjects.EVENTS_STREAM, config=config)
        try:
            while True:
                try:
                    messages = await pull.fetch(1, timeout=_FETCH_S)
                    with suppress(TimeoutError):
                        messages += await pull.fetch(_BATCH, timeout=0.05)
                except TimeoutError:
                    continue
                for message in messages:
                    await self._keep(js, message)
        finally:
            with suppress(NatsError):
                await asyncio.shield(pull.unsubscribe())

    async def _keep(self, js: JetStreamContext, message: Msg) -> None:
        _, _, tenant, kind = message.subject.split(".", 3)
        try:
            fact = CallFact.model_validate_json(message.data)
            made = Interaction(
                kind=kind,
                tokens=None if fact.usage is None else fact.usage.prompt_tokens + fact.usage.completion_tokens,
                **fact.model_dump(exclude={"usage"}),
            )
            if tenant != subjects.KERNEL_TENANT:
                sealed = await self._envelope.seal(tenant, _name(made.agent), made.model_dump_json().encode())
                event = f"event-{message.metadata.sequence.stream}"
                subject = subjects.interaction(tenant, made.agent)
                await js.publish(subject, sealed, timeout=self._timeout_s, headers={"Nats-Msg-Id": event})
        except (ValidationError, ValueError) as error:
            self._log.warning("a fact about a call cannot be read", kind=kind, error=str(error))
        except TenantShredded:
            pass
        await message.ack()

    async def _from(
        self, tenant: str, agent: str | None, start: int, after_ms: int | None
    ) -> AsyncIterator[tuple[int, str, bytes, int]]:
        """Place, agent, sealed fact and how many are left behind it, from a place on."""
        subject = f"aios.interactions.{tenant}.{agent or '*'}"
        policy: dict[str, object] = {"deliver_policy": DeliverPolicy.ALL}
        if start:
            policy = {"deliver_policy": DeliverPolicy.BY_START_SEQUENCE, "opt_start_seq": start}
        elif after_ms is not None:
            since = datetime.fromtimestamp(after_ms / 1000, UTC)
            policy = {"deliver_policy": DeliverPolicy.BY_START_TIME, "opt_start_time": since}
        try:
            reader = await self._js().subscribe(
                subject,
                stream=subjects.INTERACTIONS_STREAM,
                ordered_consumer=True,
                config=ConsumerConfig(**policy),  # type: ignore[arg-type]
            )
        except (NatsError, TimeoutError) as error:
            raise BusUnavailable("the recorded calls cannot be read", retry_after_s=1) from error
        try:
            about = await reader.consumer_info()
            # By the server's count: what it has sent may not have come yet.
            left = (about.num_pending or 0) + (about.delivered.consumer_seq if about.delivered else 0)
            while left:
                message = await reader.next_msg(timeout=self._timeout_s)
                left = message.metadata.num_pending
                yield message.metadata.sequence.stream, message.subject.rsplit(".", 1)[1], message.data, left
        except (NatsError, TimeoutError) as error:
            raise BusUnavailable("the recorded calls cannot be read", retry_after_s=1) from error
        finally:
            with suppress(NatsError):
                await asyncio.shield(reader.unsubscribe())


def _name(agent: str) -> str:
    return f"interaction/{agent}"


def _place(cursor: str | None) -> int:
    if cursor is None:
        return 0
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 20):
        raise InvalidRequest("cursor: this is none of ours", field="cursor")
    return int(cursor)


def _matches(one: Interaction, request: InteractionsRequest) -> bool:
    if request.operation is not None:
        wanted = request.operation
        if one.operation != wanted and not (wanted.endswith(".*") and one.operation.startswith(wanted[:-1])):
            return False
    if request.kind is not None and one.kind != request.kind:
        return False
    if request.after_ms is not None and one.at_ms < request.after_ms:
        return False
    if request.text is None:
        return True
    fields = (one.kind, one.operation, one.program, one.code, one.worker, one.agent, one.id)
    return any(request.text.casefold() in field.casefold() for field in fields if field)
