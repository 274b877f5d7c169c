"""Who vouches for the head of an audit chain: an Ed25519 signature with access' account nkey, and how it is checked."""

import base64
import binascii
from collections.abc import Collection

import nkeys
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from aios_access.audit_chain import CheckSeal, Head, seal_line, seal_text

_CRC_BYTES = 2


class Sealer:
    """Signs heads.

    Args:
        seed: of an account nkey.
        by: the instance that writes, named in each seal.
    """

    def __init__(self, seed: str, by: str) -> None:
        self._pair = nkeys.from_seed(bytearray(seed.strip().encode()))
        self.public: str = self._pair.public_key.decode()
        self._by = by

    def seal(self, tenant: str, head: Head) -> bytes:
        """The line that closes a batch of this tenant's chain."""
        return seal_line(head, bytes(self._pair.sign(seal_text(tenant, head, self._by))), self._by, self.public)


def trusting(public_keys: Collection[str]) -> CheckSeal:
    """A check that trusts seals by these public nkeys only.

    Raises:
        ValueError: a text is no public nkey.
    """
    keys = {text: _verify_key(text) for text in public_keys}

    def check(key: str, text: bytes, signature: bytes) -> bool:
        known = keys.get(key)
        if known is None:
            return False
        try:
            known.verify(text, signature)
        except (BadSignatureError, ValueError):
            return False
        return True

    return check


def _verify_key(text: str) -> VerifyKey:
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except binascii.Error as error:
        raise ValueError(f"{text[:64]!r} is no public nkey") from error
    return VerifyKey(raw[1:-_CRC_BYTES])
