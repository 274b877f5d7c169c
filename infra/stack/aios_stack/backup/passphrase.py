"""How a tenant's keys travel in a backup: sealed by AES-256-GCM under a key that scrypt makes of a passphrase."""

import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from aios_proto.errors import InvalidRequest

SALT_BYTES = 16
_NONCE_BYTES = 12
# RFC 7914's parameters for files: 128 MiB and about half a second.
_N, _R, _P = 1 << 17, 8, 1


def lock(keys: bytes, passphrase: str, tenant: str) -> tuple[bytes, bytes]:
    """The keys sealed, and the salt that is needed to open them."""
    salt, nonce = secrets.token_bytes(SALT_BYTES), secrets.token_bytes(_NONCE_BYTES)
    return nonce + AESGCM(_key(passphrase, salt)).encrypt(nonce, keys, tenant.encode()), salt


def unlock(locked: bytes, salt: bytes, passphrase: str, tenant: str) -> bytes:
    """The keys.

    Raises:
        InvalidRequest: the passphrase is another one, or the bytes were changed.
    """
    try:
        cipher = AESGCM(_key(passphrase, salt))
        return cipher.decrypt(locked[:_NONCE_BYTES], locked[_NONCE_BYTES:], tenant.encode())
    except (InvalidTag, ValueError) as error:
        raise InvalidRequest("the backup's keys do not open with this passphrase", field="passphrase") from error


def _key(passphrase: str, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=32, n=_N, r=_R, p=_P).derive(passphrase.encode())
