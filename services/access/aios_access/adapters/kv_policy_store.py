"""Policy documents in a JetStream KV bucket: one key a document, its last 64 versions kept, watched by all replicas."""

import asyncio
from contextlib import suppress

from nats.js import JetStreamContext
from nats.js.kv import KeyValue
from pydantic import BaseModel, ConfigDict, ValidationError

from aios_access.adapters.kv_table import Entry, KvTable
from aios_access.policies import Policies, PolicyDocument, compile_texts
from aios_kit.logs import Log
from aios_proto import subjects
from aios_proto.errors import ResourceConflict, ResourceNotFound


class StoredPolicy(BaseModel):
    """The value of one key."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: int
    text: str
    author: str
    at_ms: int


class KvPolicyStore:
    """The `PolicyStore` port on a KV bucket, and the watch that feeds `Policies`."""

    def __init__(self, js: JetStreamContext, bucket: KeyValue, policies: Policies, log: Log) -> None:
        self.policies = policies
        self._log = log
        self._compiling = asyncio.Lock()
        self._versions: dict[str, tuple[int, int]] = {}
        """Version and revision of each document, as far as this replica knows."""
        self.table = KvTable(js, bucket, subjects.POLICIES_BUCKET, self._taken, log, self._compile)

    async def put(self, document: PolicyDocument, expected: int | None) -> PolicyDocument:
        """See `PolicyStore.put`."""
        key = f"{document.tenant}.{document.name}"
        # What the watch has brought is mostly true, and the store says so where it is not.
        known = self._versions.get(key, (0, 0))
        if expected is None or expected == known[0]:
            with suppress(ResourceConflict):
                return await self._put(key, document, *known)
        before = await self.table.read(key)
        version = _version(before.value)
        if expected is not None and expected != version:
            raise ResourceConflict(f"version {version} is in force, not {expected}", field="expect_version")
        return await self._put(key, document, version, before.revision)

    async def _put(self, key: str, document: PolicyDocument, version: int, revision: int) -> PolicyDocument:
        """Stores a document behind that version, if it still stands under that revision."""
        stored = StoredPolicy(version=version + 1, text=document.text, author=document.author, at_ms=document.at_ms)
        await self.table.put(key, stored.model_dump_json().encode(), revision=revision)
        return _document(document.tenant, document.name, stored)

    async def version(self, tenant: str, name: str, version: int) -> PolicyDocument:
        """See `PolicyStore.version`."""
        for entry in reversed(await self.table.history(f"{tenant}.{name}")):
            stored = StoredPolicy.model_validate_json(entry.value or b"{}")
            if stored.version == version:
                return _document(tenant, name, stored)
        raise ResourceNotFound(f"version {version} of {name!r} is not kept", field="version")

    async def delete(self, tenant: str, name: str) -> None:
        """See `PolicyStore.delete`."""
        await self.table.delete(f"{tenant}.{name}")

    def _taken(self, entry: Entry) -> None:
        tenant, _, name = entry.key.partition(".")
        self._versions[entry.key] = (_version(entry.value), entry.revision)
        if entry.value is None:
            self.policies.remove(tenant, name)
            return
        try:
            self.policies.put(_document(tenant, name, StoredPolicy.model_validate_json(entry.value)))
        except ValidationError as error:
            self.policies.unusable(tenant, name, f"the stored document cannot be read: {error.error_count()} faults")

    async def _compile(self) -> None:
        async with self._compiling:
            while self.policies.stale:
                tenant = next(iter(self.policies.stale))
                texts = self.policies.texts(tenant)
                before, ready = self.policies.of_tenant(tenant), self.policies.compiled(tenant, texts)
                if ready is not None:
                    self.policies.install(tenant, ready)
                elif before.soon_changed_to(texts):
                    self.policies.install(tenant, compile_texts(texts, before))
                else:
                    self.policies.install(tenant, await asyncio.to_thread(compile_texts, texts, before))
                for name, fault in self.policies.faults(tenant).items():
                    self._log.error("only operators pass: a policy is unusable", tenant=tenant, name=name, error=fault)


def _version(value: bytes | None) -> int:
    try:
        return 0 if value is None else StoredPolicy.model_validate_json(value).version
    except ValidationError:
        return 0  # what cannot be read is to be replaced


def _document(tenant: str, name: str, stored: StoredPolicy) -> PolicyDocument:
    return PolicyDocument(tenant, name, stored.version, stored.text, stored.author, stored.at_ms)
