"""That of several instances of a service one works and the others wait: see `aios_kit.lease` for how.

    service = Service("memory", settings)
    sole = SoleInstance(service, settings.memory_lease_s)

For services that keep in memory what another instance would change behind their back. A lease that was not given back
is free when its holder has not renewed it for `lease_s`; or at once for the next process of the same instance, where
the bus says that nobody listens for the one before any more.
"""

import asyncio
import secrets

from nats.aio.msg import Msg

from aios_kit.lease import Holder, Lease
from aios_kit.service import Service
from aios_kit.streams import ensure_bucket, leases_bucket
from aios_proto import subjects
from aios_proto.errors import BusUnavailable

_NO_RESPONDERS = "503"
_ASK_S = 1.0
_RETRY_AFTER_S = 0.5


class SoleInstance:
    """Has its service stand by until it is the active one, and end when another has become that.

    Args:
        service: whose work this is; nothing of it may begin before.
        lease_s: without a sign of life of the active instance for so long another takes over.
    """

    def __init__(self, service: Service, lease_s: float) -> None:
        self._service = service
        self._lease_s = lease_s
        self._lease: Lease | None = None
        service.before_start(self._stand_by)
        service.on_reconnect(self._confirm)
        service.only_while(self.ensure_active)

    async def ensure_active(self) -> None:
        """Returns when this instance is the active one, as it nearly always is; to be awaited before each change.

        Raises:
            BusUnavailable: it is not, or the bus does not say; whoever does is sent the call when it comes again.
        """
        if self._lease is None or not await self._lease.still_held():
            role = self._service.role
            raise BusUnavailable(f"another {role} manager has taken over from this one", retry_after_s=_RETRY_AFTER_S)

    async def _confirm(self) -> None:
        """After an outage: renews the lease before the calls that waited meanwhile are worked on one by one."""
        if self._lease is not None and self._lease.token:
            await self._lease.still_held()

    async def release(self) -> None:
        """Gives the work up when all of it has ended, so that a standby takes over at once."""
        if self._lease is not None:
            await self._lease.release()

    async def _stand_by(self) -> None:
        service, settings = self._service, self._service.settings
        bucket = await ensure_bucket(service.js, leases_bucket(settings.jetstream_replicas))
        lease = Lease(
            bucket,
            settings.instance,
            self._lease_s,
            settings.request_timeout_s,
            waiting=service.stand_by,
            lost=service.stop,
            log=service.log,
            key=service.role,
            gone=self._is_gone,
        )
        await service.nc.subscribe(subjects.lease_holder(service.role, lease.process), cb=_listen)
        await lease.acquire()
        self._lease = lease
        lease.keep()

    async def _is_gone(self, holder: Holder) -> bool:
        """Whether nobody listens where that process would; one that is there and silent counts as alive."""
        nc, role = self._service.nc, self._service.role
        gone = asyncio.Event()

        async def on_status(message: Msg) -> None:
            if (message.headers or {}).get("Status") == _NO_RESPONDERS:
                gone.set()

        reply = f"{subjects.service_inbox_prefix(role)}.lease.{secrets.token_hex(6)}"
        heard = await nc.subscribe(reply, cb=on_status)
        try:
            await nc.publish(subjects.lease_holder(role, holder.process), b"", reply)
            async with asyncio.timeout(_ASK_S):
                await gone.wait()
        except TimeoutError:
            return False
        finally:
            await heard.unsubscribe()
        return True


async def _listen(message: Msg) -> None:
    """Being there is the answer."""
