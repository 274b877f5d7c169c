"""Quotas on the bus: opens their pools, hears what model calls used, and answers `access.quota.*`."""

import time
from collections.abc import Callable

from nats.aio.msg import Msg
from pydantic import ValidationError

from aios_access.adapters.kv_allowances import KvAllowances
from aios_access.core import AccessCore, Admitted
from aios_access.ports import FindCaller
from aios_access.quota_guard import QuotaGuard
from aios_access.quota_management import QuotaManagement
from aios_access.quotas import Quotas
from aios_access.settings import AccessSettings
from aios_access.stores import Stores
from aios_kit.service import Service
from aios_proto import subjects
from aios_proto.kernel import CallEnded, DecisionFact

_ENDED = b'{"type":"ended"'
_CLOSE_S = 2.0


class QuotaService:
    """What the rest of access has of quotas.

    Attributes:
        quotas: what is limited.
        guard: takes calls' shares.
    """

    def __init__(
        self,
        service: Service,
        settings: AccessSettings,
        core: AccessCore,
        caller: FindCaller,
        stores: Callable[[], Stores],
    ) -> None:
        self._service = service
        self._instance = settings.instance
        self._core = core
        self.quotas = Quotas(settings.access_max_replicas)
        self.guard = QuotaGuard(self.quotas, settings.access_prices, settings.access_reserve_tokens, service.log)
        QuotaManagement(core, caller, self.guard, lambda: stores().quotas).serve_on(service)

    async def open(self, stores: Stores) -> None:
        """Begins to lease and to listen: to all ends, because any of them may be of a call this replica let pass."""
        self.guard.open(KvAllowances(stores.rates, stores.ledger, self._instance, self._is_alive))
        await self._service.lane.subscribe(subjects.ALL_WORKER_REPORTS, self._on_worker_report)
        await self._service.lane.subscribe(subjects.ALL_REFUSALS, self._on_refusal)

    async def close(self) -> None:
        """Returns what is leased and not used."""
        await self.guard.close(_CLOSE_S)

    def not_passed(self, admitted: Admitted) -> None:
        """A call was charged and did not go on after all. Of a copy nothing is given back: the call itself runs."""
        if not admitted.is_copy:
            self.guard.ended(admitted.headers.key, None)

    def _is_alive(self, instance: str) -> bool:
        return self._core.presence.is_alive("access", instance, time.monotonic())

    async def _on_worker_report(self, message: Msg) -> None:
        if not self.guard.has_open or not message.data.startswith(_ENDED):
            return
        try:
            report = CallEnded.model_validate_json(message.data)
        except ValidationError as error:
            self._service.log.warning("a worker's report could not be read", error=str(error))
            return
        self.guard.ended(report.key, report.usage)

    async def _on_refusal(self, message: Msg) -> None:
        if not self.guard.has_open:
            return
        try:
            fact = DecisionFact.model_validate_json(message.data)
        except ValidationError as error:
            self._service.log.warning("a scheduler's fact could not be read", error=str(error))
            return
        tenant = message.subject.split(".", 3)[2]
        self.guard.ended(f"{tenant}.{fact.agent}.{fact.id}", None)
