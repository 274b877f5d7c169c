"""How an agent is connected: one connection, kept up, with one subscription for all its replies.

nats-py's own reconnecting is off: it would send calls long after their caller gave up, and it closes for good on some
errors. Here a lost connection is always replaced by a new one, and whoever has calls open is told.
"""

import asyncio
import logging
import random
import re
import secrets
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import NoServersError

from aios_proto import subjects
from aios_proto.errors import AccessDenied, AccessError, BusUnavailable, Unauthenticated
from aios_proto.tokens import AgentToken

PING_INTERVAL_S: Final = 2
ATTEMPT_TIMEOUT_S: Final = 5.0
SHORTEST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 2.0

REFUSAL_PATIENCE_S: Final = 5.0
"""For how long a connected agent is refused before its calls fail: when bus and access restart together, access is
back a little later than the bus."""

PENDING_FRAMES: Final = 1 << 18

_DENIED: Final = re.compile(r"permissions violation for (publish|subscription) to \"([^\"]+)\"", re.IGNORECASE)
_REFUSED: Final = re.compile("authorization|authentication|auth.* expired|revoked", re.IGNORECASE)

log: Final = logging.getLogger("aios")


class Listener(Protocol):
    """Who is told of what happens on the connection."""

    def on_message(self, token: str, data: bytes, status: str | None) -> None:
        """A message to the reply subject of that token; `status` where it comes from the bus itself, such as 503."""

    def on_connected(self) -> None:
        """A new connection is up, with its subscription in place."""

    def on_refused(self, error: AccessError) -> None:
        """The bus goes on refusing the agent."""

    def on_denied(self, subject: str | None) -> None:
        """The bus refused a message for `subject`, in lower case; None means replies cannot be received."""


class Link:
    """One agent's connection.

    Args:
        urls: servers of the bus, tried in turn.
        token: the credential.
        listener: told of messages and changes, from the loop that opened the link.
        tls: for `tls://` servers; None means the system's trust.
        name: shown in the bus's monitoring.

    Attributes:
        replica: the token of this process below the agent's inbox.
    """

    def __init__(
        self, urls: Sequence[str], token: AgentToken, listener: Listener, *, tls: ssl.SSLContext | None, name: str
    ) -> None:
        self._urls = list(urls)
        self._token = token
        self._listener = listener
        self._tls = tls
        self._name = name
        # Several processes may run under one identity; each hears only its own replies.
        self.replica = secrets.token_hex(6)
        self._inbox = f"{subjects.inbox_prefix(token.tenant, token.agent)}.{self.replica}."
        self._client: Client | None = None
        self._lost = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._closing = False
        self.refusal: AccessError | None = None

    @property
    def connected(self) -> bool:
        """Whether a message published now leaves at once."""
        return self._client is not None and self._client.is_connected

    @property
    def max_payload_bytes(self) -> int | None:
        """What the connected server takes, body and headers; None while there is none."""
        return self._client.max_payload if self._client is not None else None

    def reply_subject(self, token: str) -> str:
        """Where the answers to the call of that token go."""
        return self._inbox + token

    async def open(self, timeout_s: float) -> None:
        """Connects, and keeps connected from then on.

        Raises:
            Unauthenticated: the bus does not accept the token.
            AccessDenied: the bus does not let the agent hear its replies.
            BusUnavailable: no server answered in time.
        """
        self._closing = False
        give_up = time.monotonic() + timeout_s
        pause_s = SHORTEST_PAUSE_S
        while True:
            try:
                await self._connect(min(ATTEMPT_TIMEOUT_S, max(0.1, give_up - time.monotonic())))
                break
            except BusUnavailable as error:
                if time.monotonic() + pause_s >= give_up:
                    raise BusUnavailable(f"no connection within {timeout_s:g} s: {error.message}") from error
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
        self._keeper = asyncio.create_task(self._keep_connected(), name="aios-link")

    async def publish(self, subject: str, reply: str, headers: Mapping[str, str], body: bytes) -> None:
        """Hands one message to the connection.

        Raises:
            BusUnavailable: there is no connection now.
        """
        client = self._client
        if client is None or not client.is_connected:
            raise BusUnavailable("the bus is not connected")
        try:
            await client.publish(subject, body, reply, dict(headers))
        except (NatsError, OSError) as error:
            raise BusUnavailable(f"the bus did not take the call: {error}") from error

    async def close(self) -> None:
        """Sends what is pending and disconnects."""
        # Where an attempt to connect ends in this very step, `asyncio.wait_for` of Python 3.11 loses the cancellation.
        self._closing = True
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None
        client, self._client = self._client, None
        if client is not None:
            await _shut(client)

    async def _keep_connected(self) -> None:
        while not self._closing:
            await self._lost.wait()
            if await self._reconnect():
                self._listener.on_connected()

    async def _reconnect(self) -> bool:
        """Tries until it is connected; False if it was closed meanwhile."""
        refused_since: float | None = None
        pause_s = SHORTEST_PAUSE_S
        while not self._closing:
            # Spread, so that a restarted bus is not met by all agents at once.
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            try:
                await self._connect(ATTEMPT_TIMEOUT_S)
            except BusUnavailable as error:
                log.debug("still no connection: %s", error)
            except AccessError as error:
                now = time.monotonic()
                refused_since = now if refused_since is None else refused_since
                if now - refused_since >= REFUSAL_PATIENCE_S and self.refusal is None:
                    self.refusal = error
                    self._listener.on_refused(error)
            else:
                self.refusal = None
                return not self._closing
        return False

    async def _connect(self, timeout_s: float) -> None:
        client = Client()
        last: list[Exception] = []
        self._lost.clear()
        try:
            async with asyncio.timeout(timeout_s):
                await client.connect(
                    self._urls,
                    name=self._name,
                    token=str(self._token),
                    tls=self._tls,
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=SHORTEST_PAUSE_S,  # type: ignore[arg-type]
                    connect_timeout=timeout_s,  # type: ignore[arg-type]  # seconds; annotated as int, used as float
                    ping_interval=PING_INTERVAL_S,
                    error_cb=self._error_callback(client, last),
                    closed_cb=self._closed_callback(client),
                )
                if not client.is_connected:
                    raise NatsError("the server closed the connection: perhaps no access service runs")
                await client.subscribe(
                    self._inbox + "*", cb=self._deliver, pending_msgs_limit=PENDING_FRAMES, pending_bytes_limit=0
                )
                # nats-py writes a flush's PING before what is pending: only the second answer comes after the refusal.
                await client.flush()
                await client.flush()
                if last and _DENIED.search(str(last[-1])):
                    raise AccessDenied(f"the bus does not let this agent hear {self._inbox}*")
        except (AccessDenied, asyncio.CancelledError):
            await _shut(client)
            raise
        except (NatsError, OSError, TimeoutError) as error:
            await _shut(client)
            cause = last[-1] if isinstance(error, NoServersError) and last else error
            if isinstance(cause, NatsError) and _REFUSED.search(str(cause)):
                raise Unauthenticated(
                    f"the bus did not accept the token of {self._token.tenant}.{self._token.agent}", field="token"
                ) from error
            raise BusUnavailable(f"{', '.join(self._urls)}: {str(cause) or type(cause).__name__}") from error
        self._client = client
        if client.is_closed:  # between the flush and here
            self._client = None
            self._lost.set()

    def _error_callback(self, client: Client, last: list[Exception]) -> Callable[[Exception], Awaitable[None]]:
        async def on_error(error: Exception) -> None:
            last[:] = [error]
            if client is not self._client:
                return
            denied = _DENIED.search(str(error))
            if denied is None:
                log.debug("bus: %r", error)
                return
            kind, subject = denied.groups()
            self._listener.on_denied(subject.lower() if kind.lower() == "publish" else None)

        return on_error

    def _closed_callback(self, client: Client) -> Callable[[], Awaitable[None]]:
        async def on_closed() -> None:
            if client is self._client:
                log.info("the connection to the bus was lost")
                self._client = None
                self._lost.set()

        return on_closed

    async def _deliver(self, message: Msg) -> None:
        headers = message.headers
        status = headers.get("Status") if headers else None
        self._listener.on_message(message.subject[len(self._inbox) :], message.data, status)


async def _shut(client: Client) -> None:
    try:
        async with asyncio.timeout(ATTEMPT_TIMEOUT_S):
            await client.close()
    except (NatsError, OSError, TimeoutError) as error:
        log.debug("the connection did not close cleanly: %r", error)
