"""Where the bytes of versions go: parts of 512 KiB, each sealed and written once, read from any place on."""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from aios_kit.key_ring import Tampered
from aios_proto.errors import BusUnavailable, InvalidRequest, ResourceConflict, ResourceNotFound
from aios_proto.messages.storage import PART_BYTES
from aios_storage.core.records import Content
from aios_storage.ports import Change, Outdated
from aios_storage.sealed_store import SealedStore, part_key

CLAIM_TTL_S = 24 * 3600
"""Seconds for which it is remembered who took an upload's parts; by then a version names them, or they are gone."""

# Well below the age at which the sweep looks at parts that no version names.
_UPLOAD_KNOWN_S = 1800.0
_UPLOADS_KNOWN = 256
_RECENT_BYTES = 8 << 20


class Parts:
    """Parts to be stored ahead of the head that names them; under a name of their own, so nobody else's."""

    def __init__(self, store: SealedStore, changes: Sequence[Change]) -> None:
        self._store = store
        self._changes = changes

    async def lay(self) -> None:
        """See `Ahead.lay`."""
        await asyncio.gather(*(self._store.store.commit([change]) for change in self._changes))

    async def take_back(self) -> None:
        """See `Ahead.take_back`. The sweep removes them."""


class Claim:
    """An upload's parts, taken for one call, so that neither another call nor the sweep takes them.

    Args:
        store: where it is remembered.
        tenant: whose upload it is.
        blob: the upload.
        call: names the call that takes it.
    """

    def __init__(self, store: SealedStore, tenant: str, blob: str, call: str) -> None:
        self._store = store
        self._tenant = tenant
        self._key = f"u.{blob}"
        self._mine = f"file {call}".encode()
        self._revision = 0

    async def lay(self) -> None:
        """See `Ahead.lay`."""
        try:
            await self._put(0)
        except Outdated:
            found = await self._store.get(self._tenant, self._key)
            if found.value not in (None, self._mine):
                raise ResourceConflict("this upload was used, or was left too long, already", field="upload") from None
            await self._put(found.revision)

    async def take_back(self) -> None:
        """See `Ahead.take_back`."""
        with suppress(Outdated, BusUnavailable):
            await self._store.store.commit([Change(f"{self._tenant}.{self._key}", None, self._revision)])

    async def _put(self, revision: int) -> None:
        change = await self._store.change(self._tenant, self._key, self._mine, revision, CLAIM_TTL_S)
        self._revision = await self._store.store.commit([change])


@dataclass(slots=True)
class _Upload:
    """The parts of an upload that this process has stored.

    Attributes:
        begun_s: monotonic time of the first.
        sizes: in bytes, by number.
    """

    begun_s: float
    sizes: dict[int, int] = field(default_factory=dict)


class Bodies:
    """The parts of all contents."""

    def __init__(self, store: SealedStore) -> None:
        self._store = store
        self._uploads: OrderedDict[tuple[str, str], _Upload] = OrderedDict()
        self._recent = _Recent(_RECENT_BYTES)

    async def small(self, tenant: str, blob: str, data: bytes) -> tuple[Content, Parts]:
        """The content of one call, and what stores its parts; `blob` is used for nothing else."""
        pieces = [data[begin : begin + PART_BYTES] for begin in range(0, len(data), PART_BYTES)]
        content = Content(
            blob, len(data), hashlib.sha256(data).hexdigest(), short_tail=not pieces or len(pieces[-1]) < PART_BYTES
        )
        changes = []
        for part, piece in enumerate(pieces):
            key = part_key(blob, part, len(piece))
            changes.append(await self._store.change(tenant, key, piece, 0))
            self._recent.put((tenant, key), self._store.ring.stamp(tenant), piece)
        return content, Parts(self._store, changes)

    async def put_part(self, tenant: str, blob: str, part: int, data: bytes, *, last: bool) -> None:
        """Stores one part of an upload; the same part once more is as good as once.

        Raises:
            InvalidRequest: its size is not that of such a part.
            ResourceConflict: there is another part of that number already.
        """
        if len(data) > PART_BYTES or (len(data) < PART_BYTES and not last):
            raise InvalidRequest(
                f"a part has {PART_BYTES} bytes and only the last may be shorter; this has {len(data)}", field="base64"
            )
        key = part_key(blob, part, len(data))
        try:
            await self._store.store.commit([await self._store.change(tenant, key, data, 0)])
        except Outdated:
            if await self._store.fetch(tenant, key) != data:
                raise ResourceConflict("another part of that number was sent already", field="part") from None
        upload = self._uploads.setdefault((tenant, blob), _Upload(time.monotonic()))
        upload.sizes[part] = len(data)
        if len(self._uploads) > _UPLOADS_KNOWN:
            self._uploads.popitem(last=False)
        self._recent.put((tenant, key), self._store.ring.stamp(tenant), data)

    async def uploaded(self, tenant: str, blob: str, parts: int, sha256: str) -> Content:
        """The content that the parts of an upload make.

        Raises:
            ResourceNotFound: a part is missing; `field` is `upload`.
            ResourceConflict: there are others.
        """
        upload = self._uploads.pop((tenant, blob), None)
        if upload is not None and time.monotonic() - upload.begun_s < _UPLOAD_KNOWN_S:
            sizes = upload.sizes
            if sizes.keys() == set(range(parts)) and all(sizes[part] == PART_BYTES for part in range(parts - 1)):
                return Content(blob, sum(sizes.values()), sha256, short_tail=sizes[parts - 1] < PART_BYTES)
        prefix = f"{tenant}.b.{blob}."
        there = {key.removeprefix(prefix) for key in await self._store.store.keys(f"{prefix}*")}
        tail = f"{parts - 1}e" if f"{parts - 1}e" in there else str(parts - 1)
        wanted = {str(part) for part in range(parts - 1)} | {tail}
        if missing := wanted - there:
            raise ResourceNotFound(
                f"{len(missing)} of {parts} parts of the upload are missing, such as {min(missing)}", field="upload"
            )
        if there - wanted:
            raise ResourceConflict(f"the upload has more than {parts} parts", field="parts")
        short = await self._store.fetch(tenant, f"b.{blob}.{tail}") if tail.endswith("e") else None
        tail_bytes = PART_BYTES if short is None else len(short)
        return Content(blob, (parts - 1) * PART_BYTES + tail_bytes, sha256, short_tail=short is not None)

    def claim(self, tenant: str, blob: str, call: str) -> Claim:
        """Takes an upload's parts for a call, so that the sweep leaves them."""
        return Claim(self._store, tenant, blob, call)

    def forget(self, tenant: str) -> None:
        """Drops what is known of a tenant."""
        self._recent.forget(tenant)
        self._uploads = OrderedDict((place, known) for place, known in self._uploads.items() if place[0] != tenant)

    async def read(self, tenant: str, content: Content, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` on, or as many as there are.

        Raises:
            Tampered: a part is missing or has another size than it was stored with.
        """
        end = min(offset + length, content.size_bytes)
        pieces = []
        while offset < end:
            part = offset // PART_BYTES
            data = await self._part(tenant, content, part)
            begin = offset - part * PART_BYTES
            pieces.append(data[begin : begin + end - offset])
            offset += len(pieces[-1])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _part(self, tenant: str, content: Content, part: int) -> bytes:
        size = min(PART_BYTES, content.size_bytes - part * PART_BYTES)
        key = part_key(content.blob, part, size)
        stamp = self._store.ring.stamp(tenant)
        data = self._recent.get((tenant, key), stamp)
        if data is None:
            data = await self._store.fetch(tenant, key)
            if data is None or len(data) != size:
                raise Tampered(f"part {part} of a file of tenant {tenant} is missing or damaged")
            self._recent.put((tenant, key), stamp, data)
        return data


class _Recent:
    """The parts used last, in clear, as long as the tenant's keys are those they were opened with.

    What was just written is read again at once, to make it searchable.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._parts: OrderedDict[tuple[str, str], tuple[Hashable, bytes]] = OrderedDict()

    def get(self, place: tuple[str, str], stamp: Hashable) -> bytes | None:
        found = self._parts.get(place)
        if found is None or found[0] != stamp:
            return None
        self._parts.move_to_end(place)
        return found[1]

    def put(self, place: tuple[str, str], stamp: Hashable, data: bytes) -> None:
        self._drop(place)
        self._parts[place] = (stamp, data)
        self._bytes += len(data)
        while self._bytes > self._most_bytes:
            self._drop(next(iter(self._parts)))

    def forget(self, tenant: str) -> None:
        for place in [place for place in self._parts if place[0] == tenant]:
            self._drop(place)

    def _drop(self, place: tuple[str, str]) -> None:
        if (known := self._parts.pop(place, None)) is not None:
            self._bytes -= len(known[1])
