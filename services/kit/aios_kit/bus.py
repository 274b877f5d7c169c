"""How a service is connected to the bus, and what happens when the connection goes away.

The defaults of nats-py give up after sixty attempts, wait two seconds between them and notice a hung server after
minutes; a kernel service does none of that.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog
from faststream.nats import NatsBroker, NatsNKey
from faststream.nats.security import NatsSecurity
from nats.aio.client import Client, Server
from nats.errors import Error as NatsError

from aios_kit.settings import ServiceSettings
from aios_proto import subjects
from aios_proto.errors import BusUnavailable
from aios_proto.tls import client_context

RECONNECT_WAIT_S = (0.05, 0.25)
"""Seconds between attempts to reconnect, drawn anew each time so that services do not come back in step."""

_FIRST_CONNECT_WAIT_S = 0.1

_PING_INTERVAL_S = 2
_MISSED_PINGS = 2
# Frames made while the bus restarts are kept, up to this many bytes.
_PENDING_BYTES = 8 << 20


class _PatientBroker(NatsBroker):
    """A broker that reports every error and goes on.

    FastStream raises some of them out of the error callback ("authorization violation", "stale connection"), which
    ends the client's reconnecting task for good: a server that restarts slowly would leave a service deaf for ever.
    """

    def _log_connection_broken(
        self, error_cb: Callable[[Exception], Awaitable[None]] | None = None
    ) -> Callable[[Exception], Awaitable[None]]:
        assert error_cb is not None
        return error_cb


def make_broker(
    role: str,
    settings: ServiceSettings,
    on_reconnect: Callable[[], None],
    on_close: Callable[[], None],
) -> NatsBroker:
    """A FastStream broker for one service, not yet connected.

    Args:
        role: names the connection and its inbox prefix.
        settings: where the bus is and with which nkey to enter.
        on_reconnect: called after each regained connection.
        on_close: called when the connection is closed for good, by us or by the server.
    """
    log = structlog.stdlib.get_logger("bus")
    servers = [url.strip() for url in settings.nats_url.split(",")]
    turn = 0
    last_error = ""

    def choose(pool: list[Server], _: dict[str, object]) -> tuple[Server | None, float]:
        nonlocal turn
        turn += 1
        return (pool[turn % len(pool)] if pool else None), random.uniform(*RECONNECT_WAIT_S)  # noqa: S311 (jitter)

    async def disconnected() -> None:
        # The client also says so after `close`, when nothing was lost.
        if not broker.connection.is_closed:
            log.warning("bus connection lost")

    async def reconnected() -> None:
        nonlocal last_error
        last_error = ""
        log.info("bus connection regained")
        on_reconnect()

    async def closed() -> None:
        on_close()

    async def error(cause: Exception) -> None:
        nonlocal last_error
        text = str(cause) or type(cause).__name__
        if text != last_error:  # each attempt to reconnect fails alike, several times a second
            last_error = text
            log.warning("bus error", error=text)

    broker = _PatientBroker(
        servers,
        name=f"aios-{role}-{settings.instance}",
        security=_security(settings),
        inbox_prefix=subjects.service_inbox_prefix(role),
        max_reconnect_attempts=-1,
        reconnect_time_wait=_FIRST_CONNECT_WAIT_S,  # type: ignore[arg-type]  # only the annotation says int
        reconnect_to_server_handler=choose,
        ping_interval=_PING_INTERVAL_S,
        max_outstanding_pings=_MISSED_PINGS,
        pending_size=_PENDING_BYTES,
        drain_timeout=int(settings.drain_timeout_s) or 1,
        disconnected_cb=disconnected,
        reconnected_cb=reconnected,
        closed_cb=closed,
        error_cb=error,
        apply_types=False,
        logger=None,
        graceful_timeout=settings.drain_timeout_s,
    )
    return broker


def _security(settings: ServiceSettings) -> NatsSecurity | None:
    """By what a service proves who it is, and whom it trusts."""
    tls = None if settings.tls_ca is None else client_context(settings.tls_ca, settings.tls_cert, settings.tls_key)
    if settings.nats_nkey_file is not None:
        return NatsNKey.from_file(str(settings.nats_nkey_file), ssl_context=tls)
    return None if tls is None else NatsSecurity(ssl_context=tls)


async def flush(nc: Client, timeout_s: float) -> None:
    """Waits until the server has seen everything sent so far, subscriptions included.

    Raises:
        BusUnavailable: the server did not answer in time, or the connection is closed.
    """
    try:
        async with asyncio.timeout(timeout_s):
            # The client writes a flush's PING before what is pending, so the first one may overtake a subscription.
            await nc.flush()
            await nc.flush()
    except (TimeoutError, OSError, NatsError) as error:
        raise BusUnavailable("the bus did not answer a ping in time") from error


async def close(nc: Client) -> None:
    """Closes a connection in whatever state it is; what could not be sent is lost."""
    if nc.is_closed:
        return
    # The client writes what is pending even where the connection is away: uvloop raises RuntimeError, asyncio OSError.
    with suppress(NatsError, OSError, RuntimeError):
        await nc.close()
