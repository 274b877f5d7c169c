"""Reads the audit log as it grows: what a test's call left in it."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from nats.aio.client import Client
from support.nats_server import NatsServer

from aios_access.adapters.audit_stream import read_batches

Record = dict[str, Any]


class AuditReader:
    """Follows the logs of all tenants; each message is read once."""

    def __init__(self, nc: Client) -> None:
        self._js = nc.jetstream(timeout=10)
        self._next: dict[str, int] = {}
        self._records: dict[str, list[Record]] = {}

    @classmethod
    async def connect(cls, server: NatsServer) -> "AuditReader":
        return cls(await server.connect("access"))

    async def close(self) -> None:
        await self._js._nc.close()

    async def records(self, tenant: str) -> list[Record]:
        """All records so far."""
        known = self._records.setdefault(tenant, [])
        async for batch in read_batches(self._js, tenant, self._next.get(tenant, 1)):
            self._next[tenant] = batch.stream_seq + 1
            parsed = (json.loads(line) for line in batch.lines.splitlines())
            known += [line["record"] for line in parsed if "record" in line]
        return known

    async def find(self, tenant: str, wanted: Callable[[Record], bool], timeout_s: float = 10) -> Record:
        """The newest record that is wanted; records are written some milliseconds after what they are about."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    for record in reversed(await self.records(tenant)):
                        if wanted(record):
                            return record
                    await asyncio.sleep(0.02)
        except TimeoutError:
            last = (await self.records(tenant))[-5:]
            raise AssertionError(f"no such record in the audit log of {tenant}; the last ones are {last}") from None
