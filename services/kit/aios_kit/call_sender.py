"""How access sends calls on: a message is put together here and handed to the client's buffer as it goes on the wire.

The client's own `publish` checks, strips, translates and encodes header by header, and looks for spaces in a subject
that comes from a table: 5 to 7 us, a fifth of what a call may cost at the first hop. It is still used for everything
that is not plain: while the connection is away, and for messages larger than the server takes.
"""

import asyncio

from nats.aio.client import Client

# The next messages are not read before this many have been sent, so that a read's worth goes out in one write.
_SENT_PER_YIELD = 128


class CallSender:
    """Sends messages with many headers on one connection."""

    def __init__(self, nc: Client) -> None:
        self._nc = nc
        self._sent = 0

    async def send(self, subject: str, headers: str, body: bytes) -> None:
        """Sends one message; it is buffered while the connection is away.

        Args:
            subject: without spaces or line breaks, such as one of `aios_proto.subjects`.
            headers: `Name: value` by line, CRLF between them, none in a value.
            body: passed on as it is.

        Raises:
            nats.errors.Error: the connection is closed for good, or the buffer is full.
        """
        nc = self._nc
        block = f"NATS/1.0\r\n{headers}\r\n\r\n".encode()
        size = len(block) + len(body)
        if nc._status != Client.CONNECTED or size > nc._max_payload:
            await nc.publish(subject, body, headers=dict(line.split(": ", 1) for line in headers.split("\r\n")))
            return
        nc.stats["out_msgs"] += 1
        nc.stats["out_bytes"] += len(body)
        await nc._send_command(b"HPUB %b %d %d\r\n%b%b\r\n" % (subject.encode(), len(block), size, block, body))
        if nc._flush_queue is not None and nc._flush_queue.empty():
            await nc._flush_pending()
        self._sent += 1
        if self._sent % _SENT_PER_YIELD == 0:
            await asyncio.sleep(0)
