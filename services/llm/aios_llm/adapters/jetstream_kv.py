"""The KV of running and paused calls in a JetStream stream, a subject a call, as messages the bus carries.

In memory, and on one server: it only saves work, and the disk has better to do. It is what the object store is made of,
chunks in a stream, without an object's name and digest for each piece: a piece of three tokens is one message.
"""

import asyncio

import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, StorageType, StreamConfig
from nats.js.errors import APIError

from aios_kit.logs import Log
from aios_llm.adapters.jetstream_checkpoints import KEPT_S
from aios_llm.ports import KvMark, KvPiece
from aios_proto import subjects
from aios_proto.ids import new_syscall_id

_STORE_BYTES = 256 << 20
_CHUNK_BYTES = 512 << 10
# Several are read at a time, and the server cuts off a client for which too much waits.
_BATCH_BYTES = 4 << 20
_MESSAGES_A_BATCH = 1024
_FAILURES = (NatsError, APIError, TimeoutError)

_PIECE = "Aios-Kv-Piece"
_PART = "Aios-Kv-Part"
_END = "Aios-Kv-End"
_DIGEST = "Aios-Kv-Digest"


def pieces_stream() -> StreamConfig:
    """`AIOS_KV_PIECES`: what a call has there goes when it ends. Where there is no room the oldest pieces go.

    Most of those are of calls that ended where nobody knew of them. A call whose first piece is gone is computed anew.
    """
    return StreamConfig(
        name=subjects.KV_PIECES_STREAM,
        subjects=[subjects.ALL_KV_PIECES],
        storage=StorageType.MEMORY,
        discard=DiscardPolicy.OLD,
        max_bytes=_STORE_BYTES,
        max_age=KEPT_S,
        allow_direct=True,
        num_replicas=1,
    )


class JetStreamKv:
    """`KvStore` in a stream.

    Args:
        nc: the connection.
        js: JetStream on it.
        timeout_s: longest wait for one answer.
        log: where it is told what could not be done.
    """

    def __init__(self, nc: Client, js: JetStreamContext, timeout_s: float, log: Log) -> None:
        self._nc = nc
        self._js = js
        self._timeout_s = timeout_s
        self._log = log

    async def append(self, key: str, piece: KvPiece) -> bool:
        """See `KvStore.append`."""
        subject, name = subjects.kv_pieces(key), new_syscall_id()
        parts = range(0, len(piece.data), _CHUNK_BYTES)
        try:
            async with asyncio.timeout(self._timeout_s):
                for number, at in enumerate(parts, 1):
                    headers = {
                        _PIECE: name,
                        _PART: f"{number}/{len(parts)}",
                        _END: str(piece.end.tokens),
                        _DIGEST: piece.end.digest,
                    }
                    await self._js.publish(subject, piece.data[at : at + _CHUNK_BYTES], headers=headers)
        except _FAILURES as error:
            self._log.info("KV of a call is not kept", key=key, error=str(error))
            return False
        return True

    async def read(self, key: str) -> list[KvPiece]:
        """See `KvStore.read`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return _whole(await self._messages(subjects.kv_pieces(key)))
        except (*_FAILURES, KeyError, ValueError) as error:
            self._log.info("KV of a call cannot be read; its tokens are computed again", key=key, error=str(error))
            return []

    async def remove(self, key: str) -> None:
        """See `KvStore.remove`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._js.purge_stream(subjects.KV_PIECES_STREAM, subject=subjects.kv_pieces(key))
        except _FAILURES as error:
            self._log.info("KV of a call could not be removed; it will be in time", key=key, error=str(error))

    async def _messages(self, subject: str) -> list[Msg]:
        """All messages of a subject, by batches (ADR-31 of NATS, server 2.11 or newer)."""
        messages: list[Msg] = []
        inbox = self._nc.new_inbox()
        subscription = await self._nc.subscribe(inbox)
        try:
            after = 0
            while True:
                batch = {
                    "seq": after + 1,
                    "next_by_subj": subject,
                    "batch": _MESSAGES_A_BATCH,
                    "max_bytes": _BATCH_BYTES,
                }
                await self._nc.publish(
                    f"$JS.API.DIRECT.GET.{subjects.KV_PIECES_STREAM}", orjson.dumps(batch), reply=inbox
                )
                while (message := await subscription.next_msg(self._timeout_s)) is not None:
                    headers = message.headers or {}
                    if (status := headers.get("Status")) is not None:
                        break
                    messages.append(message)
                    after = int(headers["Nats-Sequence"])
                if status != "204" or int(headers.get("Nats-Num-Pending", 0)) == 0:
                    return messages
        finally:
            await subscription.unsubscribe()


def _whole(messages: list[Msg]) -> list[KvPiece]:
    """The pieces of which every part is there; two workers may have written at a time.

    Raises:
        KeyError, ValueError: the messages are none of ours.
    """
    parts: dict[str, list[bytes]] = {}
    pieces = []
    for message in messages:
        headers = message.headers or {}
        number, _, count = headers[_PART].partition("/")
        so_far = parts.setdefault(headers[_PIECE], [])
        if len(so_far) + 1 != int(number):
            continue
        so_far.append(message.data)
        if number == count:
            pieces.append(KvPiece(b"".join(so_far), KvMark(int(headers[_END]), headers[_DIGEST])))
    return pieces
