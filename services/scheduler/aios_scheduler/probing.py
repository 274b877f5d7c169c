"""How the death of a worker's process is noticed at once: its subscription is gone, and the bus says so.

A worker that misses a heartbeat is sent a message that asks for nothing. Where nobody listens any more, the bus
answers the scheduler in its place ("no responders"), as soon as it has seen the dead process' connection close. A
worker that is only slow still listens, and is given the full `WORKER_TIMEOUT_S`.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError

from aios_proto import subjects
from aios_proto.kernel import WORKER_INTERVAL_S, WORKER_TIMEOUT_S

WorkerId = tuple[str, str]

_PATIENCE_S = 1.1 * WORKER_INTERVAL_S
_ANSWER_S = 0.25


@dataclass(slots=True)
class _Watched:
    incarnation: str
    heard_at: float
    timer: asyncio.TimerHandle


class Probing:
    """Watches the heartbeats of all workers.

    Args:
        nc: connection to the bus.
        gone: told a worker and its incarnation when nobody listens for it any more.
    """

    def __init__(self, nc: Client, gone: Callable[[WorkerId, str], None]) -> None:
        self._nc = nc
        self._gone = gone
        self._watched: dict[WorkerId, _Watched] = {}
        self._probes: set[asyncio.Task[None]] = set()

    def heard(self, worker: WorkerId, incarnation: str) -> None:
        """A heartbeat came."""
        self.left(worker)
        loop = asyncio.get_running_loop()
        timer = loop.call_later(_PATIENCE_S, self._silent, worker)
        self._watched[worker] = _Watched(incarnation, loop.time(), timer)

    def left(self, worker: WorkerId) -> None:
        """It said goodbye, or was given up."""
        if (known := self._watched.pop(worker, None)) is not None:
            known.timer.cancel()

    async def close(self) -> None:
        """Asks nothing more."""
        for worker in list(self._watched):
            self.left(worker)
        for probe in self._probes:
            probe.cancel()
        await asyncio.gather(*self._probes, return_exceptions=True)

    def _silent(self, worker: WorkerId) -> None:
        probe = asyncio.create_task(self._probe(worker, self._watched[worker]), name="probe worker")
        self._probes.add(probe)
        probe.add_done_callback(self._probes.discard)

    async def _probe(self, worker: WorkerId, watched: _Watched) -> None:
        try:
            await self._nc.request(subjects.worker(*worker, "probe"), b"", timeout=_ANSWER_S)
        except NoRespondersError:
            if self._watched.get(worker) is watched:
                self.left(worker)
                self._gone(worker, watched.incarnation)
        except (NatsError, TimeoutError):
            # It listens, or the bus is away: its heartbeats decide, and it may still die before the next.
            loop = asyncio.get_running_loop()
            if self._watched.get(worker) is watched and loop.time() - watched.heard_at < WORKER_TIMEOUT_S:
                watched.timer = loop.call_later(_ANSWER_S, self._silent, worker)
