"""Quotas in a JetStream KV bucket: one key a quota, watched by every replica."""

from typing import get_args

from nats.js import JetStreamContext
from nats.js.kv import KeyValue
from pydantic import ValidationError

from aios_access.adapters.kv_table import Entry, KvTable
from aios_access.quotas import QuotaKey, Quotas
from aios_kit.logs import Log
from aios_proto import subjects
from aios_proto.messages.access import QuotaLimits, QuotaScope

_SCOPES: tuple[QuotaScope, ...] = get_args(QuotaScope)


class KvQuotaStore:
    """The `QuotaStore` port on a KV bucket, and the watch that feeds `Quotas`."""

    def __init__(self, js: JetStreamContext, bucket: KeyValue, quotas: Quotas, log: Log) -> None:
        self.quotas = quotas
        self._log = log
        self.table = KvTable(js, bucket, subjects.QUOTAS_BUCKET, self._taken, log)

    async def put(self, key: QuotaKey, limits: QuotaLimits) -> None:
        """See `QuotaStore.put`."""
        await self.table.put(_text(key), limits.model_dump_json(exclude_none=True).encode())

    async def delete(self, key: QuotaKey) -> None:
        """See `QuotaStore.delete`."""
        await self.table.delete(_text(key))

    def _taken(self, entry: Entry) -> None:
        key = _key(entry.key)
        if key is None:
            return
        if entry.value is None:
            self.quotas.remove(key)
            return
        try:
            self.quotas.put(key, QuotaLimits.model_validate_json(entry.value))
        except ValidationError as error:
            # Without the limit a tenant could use more than it was meant to; with it shut nobody could mend it.
            self._log.error("a quota cannot be read; the one before it stays", key=entry.key, error=str(error))


def _text(key: QuotaKey) -> str:
    return ".".join(part for part in key if part)


def _key(text: str) -> QuotaKey | None:
    tenant, scope, name = (*text.split(".", 2), "", "")[:3]
    known = next((each for each in _SCOPES if each == scope), None)
    return None if known is None else (tenant, known, name)
