"""How what a manager stores is encrypted: AES-256-GCM under data keys that are wrapped by the tenant's key.

A sealed blob carries its wrapped data key, so it can be opened from the blob and the key ring alone:

| bytes | what |
|---|---|
| 4 | `AEV1` |
| 4 | version of the tenant's key, big-endian |
| 60 | the wrapped data key |
| 12 | nonce |
| n + 16 | ciphertext and tag |

The tag covers the tenant and the blob's name: a blob moved to another name or tenant does not open. The wrapped key is
outside the tag of the content, so a rotation rewrites the head only.
"""

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aios_kit.key_ring import NONCE_BYTES, WRAPPED_BYTES, DataKey, KeyRing, Tampered

_MAGIC = b"AEV1"
_KEY_START = 8
_NONCE_START = _KEY_START + WRAPPED_BYTES
_BODY_START = _NONCE_START + NONCE_BYTES

OVERHEAD_BYTES = _BODY_START + 16
"""What sealing adds to a blob, in bytes."""

# Random nonces of 96 bits are safe for 2^32 messages under one key (NIST SP 800-38D); we stay far below.
_USES_PER_DATA_KEY = 1 << 20
_DATA_KEY_AGE_S = 3600.0
_OPENED_KEYS = 4096


@dataclass(slots=True)
class _Sealing:
    key: DataKey
    cipher: AESGCM
    stamp: Hashable
    made_s: float
    uses: int = 0


class Envelope:
    """Seals and opens blobs.

    Args:
        ring: where the tenants' keys are.
        clock: seconds; data keys are renewed every hour.
    """

    def __init__(self, ring: KeyRing, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._ring = ring
        self._clock = clock
        self._sealing: dict[str, _Sealing] = {}
        self._opened: OrderedDict[tuple[str, int, bytes], tuple[Hashable, AESGCM]] = OrderedDict()

    @property
    def ring(self) -> KeyRing:
        """The key ring, for rotation and destruction."""
        return self._ring

    async def seal(self, tenant: str, name: str, content: bytes) -> bytes:
        """Encrypts `content`; `OVERHEAD_BYTES` longer afterwards.

        Args:
            tenant: whose key protects it.
            name: what the blob is; it opens under this name only. Say what kind it is too: `memory/note/<id>`.
            content: any bytes.

        Raises:
            TenantShredded: the tenant's keys were destroyed.
            ManagerUnavailable: the key ring cannot be reached.
        """
        sealing = await self._data_key(tenant)
        sealing.uses += 1
        nonce = secrets.token_bytes(NONCE_BYTES)
        head = _MAGIC + sealing.key.version.to_bytes(4) + sealing.key.wrapped + nonce
        return head + sealing.cipher.encrypt(nonce, content, _context(tenant, name))

    async def open(self, tenant: str, name: str, blob: bytes) -> bytes:
        """The content of a sealed blob.

        Raises:
            TenantShredded: the tenant's keys were destroyed.
            Tampered: the blob was changed, or is another tenant's or has another name.
            ManagerUnavailable: the key ring cannot be reached.
        """
        version, wrapped = _head(blob)
        cipher = await self._opening(tenant, version, wrapped)
        try:
            return cipher.decrypt(blob[_NONCE_START:_BODY_START], blob[_BODY_START:], _context(tenant, name))
        except InvalidTag as error:
            raise Tampered(f"{name} of tenant {tenant} does not open") from error

    async def rewrap(self, tenant: str, blob: bytes) -> bytes | None:
        """The same blob with its data key under the tenant's current key; None where it is so already.

        Raises:
            TenantShredded: the tenant's keys were destroyed.
            Tampered: the blob's head was changed.
            ManagerUnavailable: the key ring cannot be reached.
        """
        version, wrapped = _head(blob)
        keys = await self._ring.describe(tenant)
        if version == keys.current:
            return None
        again = await self._ring.rewrap(tenant, version, wrapped)
        return _MAGIC + again.version.to_bytes(4) + again.wrapped + blob[_NONCE_START:]

    async def _data_key(self, tenant: str) -> _Sealing:
        stamp, now = self._ring.stamp(tenant), self._clock()
        sealing = self._sealing.get(tenant)
        if (
            sealing is None
            or sealing.stamp != stamp
            or sealing.uses >= _USES_PER_DATA_KEY
            or now - sealing.made_s > _DATA_KEY_AGE_S
        ):
            # The stamp is older than the key: a rotation in between is noticed at the next use.
            key = await self._ring.data_key(tenant)
            self._sealing[tenant] = sealing = _Sealing(key, AESGCM(key.plain), stamp, now)
        return sealing

    async def _opening(self, tenant: str, version: int, wrapped: bytes) -> AESGCM:
        place, stamp = (tenant, version, wrapped), self._ring.stamp(tenant)
        known = self._opened.get(place)
        if known is not None and known[0] == stamp:
            self._opened.move_to_end(place)
            return known[1]
        cipher = AESGCM(await self._ring.unwrap(tenant, version, wrapped))
        self._opened[place] = (stamp, cipher)
        if len(self._opened) > _OPENED_KEYS:
            self._opened.popitem(last=False)
        return cipher


def key_version(blob: bytes) -> int:
    """The version of the tenant's key that a sealed blob needs.

    Raises:
        Tampered: this is no sealed blob.
    """
    return _head(blob)[0]


def is_sealed(blob: bytes) -> bool:
    """Whether these bytes look like a sealed blob."""
    return len(blob) >= OVERHEAD_BYTES and blob.startswith(_MAGIC)


def _head(blob: bytes) -> tuple[int, bytes]:
    if not is_sealed(blob):
        raise Tampered("this is no sealed blob")
    return int.from_bytes(blob[4:_KEY_START]), bytes(blob[_KEY_START:_NONCE_START])


def _context(tenant: str, name: str) -> bytes:
    return f"aios blob\0{tenant}\0{name}".encode()
