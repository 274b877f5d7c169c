"""The auth callout on the bus: a client connects, the server asks, one replica of access answers."""

from collections.abc import Awaitable, Callable

from nats.aio.msg import Msg

from aios_access.audit_service import AuditService
from aios_access.callout import SERVER_XKEY_HEADER, AuthCallout, AuthRequest
from aios_access.nats_jwt import NotAJwt
from aios_kit.service import Service
from aios_kit.tasks import Tasks
from aios_proto import subjects

_QUEUE = "access-callout"
_LOOKUPS_AT_ONCE = 64


class CalloutService:
    """Answers the servers.

    Args:
        service: the chassis.
        callout: what is answered.
        audit: gets who was refused.
        look_up: asks the store for an agent that is not known, by its key.
    """

    def __init__(
        self,
        service: Service,
        callout: AuthCallout,
        audit: AuditService,
        look_up: Callable[[str], Awaitable[None]],
    ) -> None:
        self._service = service
        self._callout = callout
        self._audit = audit
        self._look_up = look_up
        self._lookups = Tasks(_LOOKUPS_AT_ONCE, service.log)

    async def open(self) -> None:
        """Begins to answer."""
        await self._service.lane.subscribe(subjects.AUTH_CALLOUT, self._on_request, queue=_QUEUE)

    async def drain(self, timeout_s: float) -> None:
        """Waits for the answers under way."""
        await self._lookups.drain(timeout_s)

    async def _on_request(self, message: Msg) -> None:
        try:
            request = self._callout.read(message.data, (message.headers or {}).get(SERVER_XKEY_HEADER))
        except NotAJwt as error:
            self._service.log.warning("an auth request could not be read", error=str(error))
            return
        unknown = self._callout.unknown_agent(request)
        if unknown is None:
            await self._answer(request, message.reply)
        else:
            await self._lookups.start(self._look_up_first(request, message.reply, unknown), "callout")

    async def _look_up_first(self, request: AuthRequest, reply: str, key: str) -> None:
        await self._look_up(key)
        await self._answer(request, reply)

    async def _answer(self, request: AuthRequest, reply: str) -> None:
        answer, refusal = self._callout.answer(request)
        if refusal is not None:
            self._service.log.info("a client was refused", reason=refusal)
            self._audit.trail.connection_refused(refusal)
        await self._service.lane.reply(reply, answer)
