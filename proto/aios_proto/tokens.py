"""What an agent's credential looks like: `<tenant>.<agent>.<secret>`; a client learns its own identity from it."""

import hashlib
import secrets
from dataclasses import dataclass

from aios_proto.errors import Unauthenticated
from aios_proto.names import is_name


@dataclass(frozen=True, slots=True)
class AgentToken:
    """A credential. `str()` gives the text sent to the bus; `repr()` hides the secret."""

    tenant: str
    agent: str
    secret: str

    def __str__(self) -> str:
        return f"{self.tenant}.{self.agent}.{self.secret}"

    def __repr__(self) -> str:
        return f"AgentToken({self.tenant}.{self.agent}.***)"

    @property
    def secret_sha256(self) -> str:
        """What the kernel stores instead of the secret: 64 hex digits. With 256 random bits no salt is needed."""
        return hashlib.sha256(self.secret.encode()).hexdigest()

    @classmethod
    def generate(cls, tenant: str, agent: str) -> "AgentToken":
        """A credential with a fresh 256-bit secret."""
        return cls(tenant, agent, secrets.token_urlsafe(32))

    @classmethod
    def parse(cls, text: str) -> "AgentToken":
        """Reads a credential.

        Raises:
            Unauthenticated: the text is not of the form `<tenant>.<agent>.<secret>`.
        """
        tenant, _, rest = text.strip().partition(".")
        agent, _, secret = rest.partition(".")
        if not (is_name(tenant) and is_name(agent) and secret):
            raise Unauthenticated("the token is not of the form <tenant>.<agent>.<secret>", field="token")
        return cls(tenant, agent, secret)
