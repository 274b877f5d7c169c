"""How NATS wants identities written: JWT version 2, signed with an nkey, sealed with an xkey.

Source: NATS ADR-14 (JWT), ADR-26 (auth callout); the claims are those of nats-server's `jwt` library, version 2.
"""

import base64
import binascii
import hashlib
import json
import time
from collections.abc import Mapping
from typing import Any

import nkeys
from nacl.exceptions import CryptoError
from nacl.public import Box, PrivateKey, PublicKey
from nacl.utils import random as random_bytes

from aios_proto.permissions import Permissions

_HEADER = {"typ": "JWT", "alg": "ed25519-nkey"}
_SEAL_MAGIC = b"xkv1"
_NONCE_BYTES = 24
_KEY_BYTES = 32
_JWT_VERSION = 2

Claims = Mapping[str, Any]


class NotAJwt(ValueError):
    """The text is no JWT, or cannot be opened with this key."""


class Issuer:
    """The account key that signs what access says to the bus."""

    def __init__(self, seed: str) -> None:
        self._pair = nkeys.from_seed(bytearray(seed.strip().encode()))
        self.public: str = self._pair.public_key.decode()

    def sign(self, claims: Claims) -> str:
        """A JWT with these claims; issuer, time and id are filled in."""
        full = {"iat": int(time.time()), "iss": self.public, **claims}
        digest = hashlib.sha256(json.dumps(full, sort_keys=True).encode()).digest()
        full["jti"] = base64.b32encode(digest).rstrip(b"=").decode()
        text = f"{_encode(_HEADER)}.{_encode(full)}"
        return f"{text}.{_base64(self._pair.sign(text.encode()))}"


class Xkey:
    """The Curve25519 key with which the server and access seal the callout's messages for each other."""

    def __init__(self, seed: str) -> None:
        raw = _base32(seed.strip())
        if len(raw) != _KEY_BYTES + 4:
            raise NotAJwt("not an xkey seed")
        self._private = PrivateKey(raw[2:-2])

    def open(self, sealed: bytes, sender: str) -> bytes:
        """What `sender` (its public xkey) sealed for us.

        Raises:
            NotAJwt: it was sealed for another, or tampered with.
        """
        if sealed[:4] != _SEAL_MAGIC:
            raise NotAJwt("the message is not sealed")
        nonce, text = sealed[4 : 4 + _NONCE_BYTES], sealed[4 + _NONCE_BYTES :]
        try:
            return bytes(Box(self._private, _public(sender)).decrypt(text, nonce))
        except CryptoError as error:
            raise NotAJwt("the seal does not fit this key") from error

    def seal(self, text: bytes, recipient: str) -> bytes:
        """Seals `text` for `recipient` (its public xkey)."""
        nonce = random_bytes(_NONCE_BYTES)
        return _SEAL_MAGIC + nonce + Box(self._private, _public(recipient)).encrypt(text, nonce).ciphertext


def read_claims(token: str) -> dict[str, Any]:
    """The claims of a JWT, not verified: what comes from the server comes sealed, over a subject only it may use.

    Raises:
        NotAJwt: the text is none.
    """
    try:
        body = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except (IndexError, ValueError, binascii.Error) as error:
        raise NotAJwt("not a JWT") from error
    if not isinstance(claims, dict):
        raise NotAJwt("not a JWT")
    return claims


def user_claims(user_nkey: str, name: str, account: str, permissions: Permissions) -> Claims:
    """Claims that let a connection in as `name`, with these permissions, into `account`."""
    return {
        "sub": user_nkey,
        "name": name,
        "aud": account,
        "nats": {
            "pub": {"allow": list(permissions.publish)},
            "sub": {"allow": list(permissions.subscribe)},
            "subs": -1,
            "data": -1,
            "payload": -1,
            "type": "user",
            "version": _JWT_VERSION,
        },
    }


def callout_answer(user_nkey: str, server_id: str, *, jwt: str = "", error: str = "") -> Claims:
    """Claims of the answer to one auth callout: a user's JWT, or why not."""
    body: dict[str, Any] = {"type": "authorization_response", "version": _JWT_VERSION}
    body["jwt" if jwt else "error"] = jwt or error
    return {"sub": user_nkey, "aud": server_id, "nats": body}


def _encode(value: Claims) -> str:
    return _base64(json.dumps(value, separators=(",", ":")).encode())


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _base32(text: str) -> bytes:
    try:
        return base64.b32decode(text + "=" * (-len(text) % 8))
    except binascii.Error as error:
        raise NotAJwt("not a key") from error


def _public(xkey: str) -> PublicKey:
    raw = _base32(xkey)
    if len(raw) != _KEY_BYTES + 3:
        raise NotAJwt("not a public xkey")
    return PublicKey(raw[1:-2])
