"""Who holds the tenants' keys: the key-ring port, shaped like a key management service, and its default on local files.

A ring never hands a tenant's key out. It makes *data keys* and wraps them under the tenant's key; what is encrypted
under a data key can be read only while the ring can unwrap that one. So destroying a tenant's key destroys everything
ever written for the tenant, wherever the bytes lie: crypto-shredding.
"""

import asyncio
import base64
import fcntl
import json
import os
import secrets
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aios_proto.errors import InternalError, InvalidRequest, ManagerUnavailable, ResourceConflict, ResourceNotFound
from aios_proto.names import is_name

KEY_BYTES = 32
NONCE_BYTES = 12
WRAPPED_BYTES = NONCE_BYTES + KEY_BYTES + 16
SCHEMA = 1


class TenantShredded(ResourceNotFound):
    """The tenant's keys were destroyed: nothing written for it can be read, and nothing can be written."""


class Tampered(InternalError):
    """Bytes do not open: they were changed, or belong to another tenant, name or key."""


@dataclass(frozen=True, slots=True)
class DataKey:
    """A fresh data key.

    Attributes:
        plain: 32 bytes for AES-256-GCM; never stored.
        wrapped: the same under the tenant's key; 60 bytes, to be stored beside what it encrypts.
        version: of the tenant's key it is wrapped under, from 1.
    """

    plain: bytes
    wrapped: bytes
    version: int

    def __repr__(self) -> str:
        return f"DataKey(version={self.version})"


@dataclass(frozen=True, slots=True)
class TenantKeys:
    """What may be known of a tenant's keys.

    Attributes:
        current: the version new data keys are wrapped under; 0 where the tenant has no key yet.
        versions: those that can still unwrap.
        destroyed: whether the tenant was shredded.
    """

    current: int
    versions: tuple[int, ...]
    destroyed: bool


class KeyRing(Protocol):
    """Makes, wraps and unwraps data keys. All methods raise `ManagerUnavailable` where the ring cannot be reached."""

    async def data_key(self, tenant: str) -> DataKey:
        """A fresh data key under the tenant's current key, which is made where there is none.

        Raises:
            TenantShredded: the tenant's keys were destroyed.
        """

    async def unwrap(self, tenant: str, version: int, wrapped: bytes) -> bytes:
        """The data key inside `wrapped`.

        Raises:
            TenantShredded: the tenant's keys were destroyed.
            Tampered: the wrapped key is not one of this tenant and version.
        """

    async def rewrap(self, tenant: str, version: int, wrapped: bytes) -> DataKey:
        """The same data key under the tenant's current key.

        Raises:
            TenantShredded: the tenant's keys were destroyed.
            Tampered: the wrapped key is not one of this tenant and version.
        """

    async def rotate(self, tenant: str) -> int:
        """Makes a new current key and returns its version; older versions go on unwrapping.

        Raises:
            TenantShredded: the tenant's keys were destroyed.
        """

    async def retire(self, tenant: str, below: int) -> None:
        """Destroys the versions below a number: for good, so only once nothing is wrapped under them any more.

        Raises:
            InvalidRequest: that would take the current key.
            TenantShredded: the tenant's keys were destroyed.
        """

    async def destroy(self, tenant: str) -> None:
        """Destroys all keys of the tenant and keeps it from getting new ones. Cannot be undone."""

    async def describe(self, tenant: str) -> TenantKeys:
        """What versions there are."""

    def stamp(self, tenant: str) -> Hashable:
        """Something that changes whenever the tenant's keys do, cheap enough to be asked at every use."""


@dataclass(frozen=True, slots=True)
class _Record:
    current: int
    keys: dict[int, bytes]
    destroyed: bool = False

    def __repr__(self) -> str:
        return f"_Record(current={self.current}, versions={sorted(self.keys)}, destroyed={self.destroyed})"


class FileKeyRing:
    """The `KeyRing` port on a folder of this machine: one file a tenant, readable by its owner only (0600).

    Several processes may share the folder: changes are made under a lock and appear at once in all of them. Whoever
    can read the folder can read the tenants' data, so it must not lie beside the data's backups.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, tuple[Hashable, _Record]] = {}

    async def data_key(self, tenant: str) -> DataKey:
        """See `KeyRing.data_key`."""
        record = self._fresh(tenant)
        if record is None:
            record = await asyncio.to_thread(self._change, tenant, _with_first_key)
        return _wrap(tenant, record, secrets.token_bytes(KEY_BYTES))

    async def unwrap(self, tenant: str, version: int, wrapped: bytes) -> bytes:
        """See `KeyRing.unwrap`."""
        record = self._fresh(tenant)
        key = None if record is None else _live(tenant, record).keys.get(version)
        if key is None:
            raise Tampered(f"tenant {tenant} has no key of version {version}")
        try:
            context = _wrapping_context(tenant, version)
            return AESGCM(key).decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], context)
        except (InvalidTag, ValueError) as error:
            raise Tampered(f"a data key of tenant {tenant} does not open") from error

    async def rewrap(self, tenant: str, version: int, wrapped: bytes) -> DataKey:
        """See `KeyRing.rewrap`."""
        plain = await self.unwrap(tenant, version, wrapped)
        record = self._fresh(tenant)
        if record is None:
            raise Tampered(f"tenant {tenant} has no key")
        return _wrap(tenant, record, plain)

    async def rotate(self, tenant: str) -> int:
        """See `KeyRing.rotate`."""
        return (await asyncio.to_thread(self._change, tenant, _with_next_key)).current

    async def retire(self, tenant: str, below: int) -> None:
        """See `KeyRing.retire`."""

        def without_old(tenant: str, record: _Record | None) -> _Record:
            kept = _live(tenant, record or _Record(0, {}))
            if below > kept.current:
                raise InvalidRequest("the current key cannot be retired", field="below")
            return replace(kept, keys={version: key for version, key in kept.keys.items() if version >= below})

        await asyncio.to_thread(self._change, tenant, without_old)

    async def destroy(self, tenant: str) -> None:
        """See `KeyRing.destroy`. The old bytes are overwritten in place first, for what that is worth on an SSD."""

        def gone(_: str, record: _Record | None) -> _Record:
            return _Record(record.current if record else 0, {}, destroyed=True)

        await asyncio.to_thread(self._change, tenant, gone)

    async def describe(self, tenant: str) -> TenantKeys:
        """See `KeyRing.describe`."""
        record = self._fresh(tenant) or _Record(0, {})
        return TenantKeys(record.current, tuple(sorted(record.keys)), record.destroyed)

    def stamp(self, tenant: str) -> Hashable:
        """See `KeyRing.stamp`. One `stat` of a local file, some microseconds."""
        try:
            found = self._path(tenant).stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ManagerUnavailable("the key ring cannot be read") from error
        return found.st_ino, found.st_mtime_ns, found.st_ctime_ns

    def export(self, tenant: str) -> bytes | None:
        """The tenant's keys in clear, for a backup that encrypts them itself; None where there are none. Blocks.

        Raises:
            TenantShredded: they were destroyed.
            ManagerUnavailable: the ring cannot be read.
        """
        record = self._read(tenant)
        return None if record is None else _encoded(tenant, _live(tenant, record))

    def restore(self, tenant: str, exported: bytes) -> None:
        """Puts exported keys back where there are none. Blocks.

        Raises:
            ResourceConflict: the tenant has other keys here.
            TenantShredded: its keys were destroyed here.
            InternalError: this is no export of that tenant.
        """

        def back(_: str, record: _Record | None) -> _Record:
            if record is not None and _live(tenant, record) != restored:
                raise ResourceConflict(f"tenant {tenant} has other keys here", field="tenant")
            return restored

        restored = _live(tenant, _decoded(tenant, exported))
        self._change(tenant, back)

    # Below, blocking: a few hundred bytes of a local file.

    def _path(self, tenant: str) -> Path:
        if not is_name(tenant):
            raise InvalidRequest(f"{tenant!r} is not a legal tenant", field="tenant")
        return self._folder / f"{tenant}.json"

    def _fresh(self, tenant: str) -> _Record | None:
        stamp = self.stamp(tenant)
        if stamp is None:
            self._known.pop(tenant, None)
            return None
        known = self._known.get(tenant)
        if known is None or known[0] != stamp:
            record = self._read(tenant)
            if record is None:
                return None
            self._known[tenant] = known = (stamp, record)
        return known[1]

    def _read(self, tenant: str) -> _Record | None:
        try:
            return _decoded(tenant, self._path(tenant).read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ManagerUnavailable("the key ring cannot be read") from error

    def _change(self, tenant: str, change: "_Change") -> _Record:
        path = self._path(tenant)
        try:
            with self._locked():
                record = change(tenant, self._read(tenant))
                if record.destroyed:
                    _overwrite(path)
                self._write(path, tenant, record)
        except OSError as error:
            raise ManagerUnavailable("the key ring cannot be written") from error
        return record

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self._folder / ".lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _write(self, path: Path, tenant: str, record: _Record) -> None:
        partial = path.with_name(f".{path.name}.partial")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(_encoded(tenant, record))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(self._folder)


class _Change(Protocol):
    def __call__(self, tenant: str, record: _Record | None, /) -> _Record: ...


def _encoded(tenant: str, record: _Record) -> bytes:
    keys = {str(version): base64.b64encode(key).decode() for version, key in record.keys.items()}
    head = {"schema": SCHEMA, "tenant": tenant, "current": record.current, "destroyed": record.destroyed}
    return json.dumps({**head, "keys": keys}).encode()


def _decoded(tenant: str, data: bytes) -> _Record:
    try:
        stored = json.loads(data)
        if stored["schema"] != SCHEMA or stored["tenant"] != tenant:
            raise InternalError(f"these keys are of another version, or not of tenant {tenant}")
        keys = {int(version): base64.b64decode(key) for version, key in stored["keys"].items()}
        return _Record(stored["current"], keys, stored["destroyed"])
    except (ValueError, KeyError, TypeError) as error:
        raise InternalError(f"the keys of tenant {tenant} are damaged") from error


def _with_first_key(tenant: str, record: _Record | None) -> _Record:
    # Another process may have made it since we looked.
    return _live(tenant, record) if record is not None else _Record(1, {1: secrets.token_bytes(KEY_BYTES)})


def _with_next_key(tenant: str, record: _Record | None) -> _Record:
    kept = _live(tenant, record or _Record(0, {}))
    version = kept.current + 1
    return replace(kept, current=version, keys={**kept.keys, version: secrets.token_bytes(KEY_BYTES)})


def _live(tenant: str, record: _Record) -> _Record:
    if record.destroyed:
        raise TenantShredded(f"the keys of tenant {tenant} were destroyed")
    return record


def _wrap(tenant: str, record: _Record, plain: bytes) -> DataKey:
    key, nonce = _live(tenant, record).keys[record.current], secrets.token_bytes(NONCE_BYTES)
    wrapped = nonce + AESGCM(key).encrypt(nonce, plain, _wrapping_context(tenant, record.current))
    return DataKey(plain, wrapped, record.current)


def _wrapping_context(tenant: str, version: int) -> bytes:
    return f"aios data key\0{tenant}\0{version}".encode()


def _overwrite(path: Path) -> None:
    try:
        size = path.stat().st_size
        with path.open("r+b") as file:
            file.write(bytes(size))
            file.flush()
            os.fsync(file.fileno())
    except FileNotFoundError:
        pass


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
