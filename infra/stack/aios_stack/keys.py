"""How the bus names its users: nkeys (Ed25519) for identities and an xkey (Curve25519) for sealing the auth callout.

The text forms are those of NATS' ADR-14: base 32 of a prefix byte, the key, and a CRC-16 in little endian.
"""

import base64
import os
from dataclasses import dataclass
from typing import Literal

import nkeys
from nacl.public import PrivateKey

KeyKind = Literal["user", "account", "curve"]

_CURVE_PREFIX = 23 << 3  # encodes to "X"; the nkeys package does not know it
_SEED_PREFIX = nkeys.PREFIX_BYTE_SEED
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class KeyPair:
    """One identity: the public key stands in configurations, the seed in a secret file of its owner."""

    public: str
    seed: str

    def __repr__(self) -> str:
        return f"KeyPair({self.public})"


def generate(kind: KeyKind) -> KeyPair:
    """A fresh key pair."""
    raw = os.urandom(_KEY_BYTES)
    if kind == "curve":
        return KeyPair(_curve_public(raw), _curve_seed(raw))
    prefix = nkeys.PREFIX_BYTE_USER if kind == "user" else nkeys.PREFIX_BYTE_ACCOUNT
    return from_seed(bytes(nkeys.encode_seed(raw, prefix)).decode())


def from_seed(seed: str) -> KeyPair:
    """The key pair of a seed as `generate` made it.

    Raises:
        ValueError: the text is no seed, or was damaged.
    """
    seed = seed.strip()
    if seed.startswith("SX"):
        return KeyPair(_curve_public(_curve_raw(seed)), seed)
    try:
        pair = nkeys.from_seed(bytearray(seed.encode()))
        return KeyPair(pair.public_key.decode(), seed)
    except (nkeys.NkeysError, ValueError) as error:
        raise ValueError("not an nkey seed") from error


def _curve_seed(raw: bytes) -> str:
    header = bytes([_SEED_PREFIX | (_CURVE_PREFIX >> 5), (_CURVE_PREFIX & 31) << 3])
    return _with_checksum(header + raw)


def _curve_raw(seed: str) -> bytes:
    try:
        data = base64.b32decode(seed + "=" * (-len(seed) % 8))
    except ValueError as error:
        raise ValueError("not an xkey seed") from error
    if len(data) != _KEY_BYTES + 4 or nkeys.crc16_checksum(data[:-2]) != data[-2:]:
        raise ValueError("not an xkey seed")
    return data[2:-2]


def _curve_public(raw: bytes) -> str:
    return _with_checksum(bytes([_CURVE_PREFIX]) + bytes(PrivateKey(raw).public_key))


def _with_checksum(data: bytes) -> str:
    return base64.b32encode(data + bytes(nkeys.crc16_checksum(data))).rstrip(b"=").decode()
