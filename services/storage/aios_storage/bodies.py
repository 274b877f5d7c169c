"""Where the bytes of versions go: parts of 512 KiB, each sealed and written once, read from any place on."""

import hashlib

from aios_kit.key_ring import Tampered
from aios_proto.errors import InvalidRequest, ResourceConflict, ResourceNotFound
from aios_proto.messages.storage import PART_BYTES
from aios_storage.core.records import Content
from aios_storage.ports import Change, Outdated
from aios_storage.sealed_store import SealedStore, part_key

CLAIM_TTL_S = 24 * 3600
"""Seconds for which it is remembered who took an upload's parts; by then a version names them, or they are gone."""


class Bodies:
    """The parts of all contents."""

    def __init__(self, store: SealedStore) -> None:
        self._store = store

    async def small(self, tenant: str, blob: str, data: bytes) -> tuple[Content, list[Change]]:
        """The content of one call, and the change that stores it: to be committed together with its version."""
        pieces = [data[begin : begin + PART_BYTES] for begin in range(0, len(data), PART_BYTES)]
        content = Content(
            blob, len(data), hashlib.sha256(data).hexdigest(), short_tail=not pieces or len(pieces[-1]) < PART_BYTES
        )
        return content, [
            await self._store.change(tenant, part_key(blob, part, len(piece)), piece, 0)
            for part, piece in enumerate(pieces)
        ]

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

    async def uploaded(self, tenant: str, blob: str, parts: int, sha256: str) -> Content:
        """The content that the parts of an upload make.

        Raises:
            ResourceNotFound: a part is missing; `field` is `upload`.
            ResourceConflict: there are others.
        """
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

    async def claim(self, tenant: str, blob: str) -> Change:
        """Takes an upload's parts for a file, so that the sweep leaves them; to be committed with the version."""
        return await self._store.change(tenant, f"u.{blob}", b"file", 0, CLAIM_TTL_S)

    async def claimed(self, tenant: str, blob: str) -> bool:
        """Whether an upload's parts belong to a file, or to the sweep, already."""
        return (await self._store.get(tenant, f"u.{blob}")).value is not None

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
        data = await self._store.fetch(tenant, part_key(content.blob, part, size))
        if data is None or len(data) != size:
            raise Tampered(f"part {part} of a file of tenant {tenant} is missing or damaged")
        return data
