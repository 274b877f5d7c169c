"""Which agents exist and what proves that a client is one of them."""

import hmac
from collections.abc import Callable, Set
from dataclasses import dataclass

from aios_proto.tokens import AgentToken


@dataclass(frozen=True, slots=True)
class Identity:
    """One agent.

    Attributes:
        secret_sha256: hash of the token's secret, 64 hex digits.
        created_ms: Unix time in milliseconds.
        origin: for an agent of the bootstrap file, the mark of the entry that was applied last; else empty.
    """

    tenant: str
    agent: str
    group: str
    secret_sha256: str
    created_ms: int
    origin: str = ""

    @property
    def key(self) -> str:
        """Its place in the directory and in the KV bucket."""
        return f"{self.tenant}.{self.agent}"


class Directory:
    """All identities, in memory; kept up to date by whoever watches the store."""

    def __init__(self, removed: Callable[[str], None] = lambda _: None) -> None:
        """Calls `removed` with the key of each identity that is no more."""
        self._by_key: dict[str, Identity] = {}
        self._removed = removed

    def put(self, identity: Identity) -> None:
        """Adds or replaces an identity."""
        self._by_key[identity.key] = identity

    def remove(self, key: str) -> None:
        """Forgets an identity, if it is there."""
        if self._by_key.pop(key, None) is not None:
            self._removed(key)

    def keep_only(self, keys: Set[str]) -> None:
        """Forgets every identity that is not among `keys`."""
        for key in self._by_key.keys() - keys:
            self.remove(key)

    def find(self, tenant: str, agent: str) -> Identity | None:
        """The identity of that name."""
        return self._by_key.get(f"{tenant}.{agent}")

    def by_key(self, key: str) -> Identity | None:
        """The identity of that key, `<tenant>.<agent>`."""
        return self._by_key.get(key)

    def has(self, key: str) -> bool:
        """Whether there is an identity of that key."""
        return key in self._by_key

    def tenants(self) -> dict[str, list[Identity]]:
        """All identities by tenant."""
        found: dict[str, list[Identity]] = {}
        for identity in self._by_key.values():
            found.setdefault(identity.tenant, []).append(identity)
        return found

    def of_tenant(self, tenant: str) -> list[Identity]:
        """A tenant's identities, by name."""
        return sorted((i for i in self._by_key.values() if i.tenant == tenant), key=lambda i: i.agent)

    def authenticate(self, token: AgentToken) -> Identity | None:
        """The identity a token proves, compared in constant time; None if it proves none."""
        identity = self.find(token.tenant, token.agent)
        if identity is None or not hmac.compare_digest(identity.secret_sha256, token.secret_sha256):
            return None
        return identity
