"""What access remembers on the bus beside identities, and who keeps up with it: policies, quotas, tenants."""

import asyncio
from typing import TypedDict, Unpack

from nats.js import JetStreamContext
from nats.js.api import KeyValueConfig, StorageType
from nats.js.kv import KeyValue

from aios_access.adapters.kv_policy_store import KvPolicyStore
from aios_access.adapters.kv_quota_store import KvQuotaStore
from aios_access.adapters.kv_table import Entry, KvTable
from aios_access.policies import Policies
from aios_access.quotas import Quotas
from aios_kit.logs import Log
from aios_kit.streams import ensure_bucket
from aios_proto import subjects

_POLICY_VERSIONS = 64
_RATES_TTL_S = 60
# Longer than the longest window of a budget.
_LEDGER_TTL_S = 370 * 86_400


class _Options(TypedDict, total=False):
    history: int
    storage: StorageType
    ttl: float


def _ignore(_: Entry) -> None: ...


class Stores:
    """The buckets, opened and watched.

    Attributes:
        policies: where policy documents are kept.
        quotas: where quotas are kept.
        rates: a bucket in memory; not watched.
        ledger: a bucket on disk; not watched.
    """

    def __init__(self, policies: KvPolicyStore, quotas: KvQuotaStore, rates: KvTable, ledger: KvTable) -> None:
        self.policies = policies
        self.quotas = quotas
        self.rates = rates
        self.ledger = ledger
        self._tables = [policies.table, quotas.table]
        self._policies = policies.policies
        self._quotas = quotas.quotas

    @classmethod
    async def open(cls, js: JetStreamContext, replicas: int, policies: Policies, quotas: Quotas, log: Log) -> "Stores":
        """Opens the buckets, creating those that do not exist.

        Raises:
            BusUnavailable: JetStream cannot provide them.
        """

        async def bucket(name: str, **options: Unpack[_Options]) -> KeyValue:
            return await ensure_bucket(js, KeyValueConfig(bucket=name, replicas=replicas, direct=True, **options))

        def unwatched(name: str, opened: KeyValue) -> KvTable:
            return KvTable(js, opened, name, _ignore, log)

        # At once: a start waits for the disk of the bus for each.
        documents, limits, rates, ledger = await asyncio.gather(
            bucket(subjects.POLICIES_BUCKET, history=_POLICY_VERSIONS),
            bucket(subjects.QUOTAS_BUCKET),
            bucket(subjects.RATES_BUCKET, storage=StorageType.MEMORY, ttl=_RATES_TTL_S),
            bucket(subjects.ALLOWANCES_BUCKET, ttl=_LEDGER_TTL_S),
        )
        return cls(
            KvPolicyStore(js, documents, policies, log),
            KvQuotaStore(js, limits, quotas, log),
            unwatched(subjects.RATES_BUCKET, rates),
            unwatched(subjects.ALLOWANCES_BUCKET, ledger),
        )

    async def start(self, timeout_s: float) -> None:
        """Watches all; returns when everything present was taken.

        Raises:
            TimeoutError: that took longer than `timeout_s` for one of them.
        """
        await asyncio.gather(*(table.start(timeout_s) for table in self._tables))

    async def restart(self) -> None:
        """Watches all anew, as after a lost connection."""
        for table in self._tables:
            await table.restart()

    async def forget(self, tenant: str) -> None:
        """Removes a tenant's policies and quotas.

        Raises:
            BusUnavailable: JetStream cannot be reached.
        """
        for name in self._policies.own_documents(tenant):
            await self.policies.delete(tenant, name)
        for key, _ in self._quotas.of_tenant(tenant):
            await self.quotas.delete(key)

    async def stop(self) -> None:
        """Watches nothing more."""
        for table in self._tables:
            await table.stop()
