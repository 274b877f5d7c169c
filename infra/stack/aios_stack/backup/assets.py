"""Where each manager keeps what it stores for a tenant: the one list that a backup goes by."""

from dataclasses import dataclass

from aios_proto import subjects
from aios_proto.permissions import Role


@dataclass(frozen=True, slots=True)
class Asset:
    """The messages of a tenant in one stream.

    Attributes:
        role: the service whose asset it is, and as whom it is read and written.
        stream: the JetStream stream.
        pattern: its subjects, with `{tenant}`.
        newest_only: whether the last message of a subject stands for it, as in a key-value bucket.
    """

    role: Role
    stream: str
    pattern: str
    newest_only: bool = True

    def subjects(self, tenant: str) -> str:
        """The tenant's subjects."""
        return self.pattern.format(tenant=tenant)


def _bucket(role: Role, name: str) -> Asset:
    return Asset(role, f"KV_{name}", f"$KV.{name}.{{tenant}}.>")


ASSETS: tuple[Asset, ...] = (
    _bucket("access", subjects.AGENTS_BUCKET),
    _bucket("context", subjects.CONTEXTS_BUCKET),
    _bucket("context", subjects.CONTEXT_TURNS_BUCKET),
    _bucket("memory", subjects.MEMORY_BUCKET),
    _bucket("storage", subjects.STORAGE_BUCKET),
    Asset("storage", subjects.INTERACTIONS_STREAM, "aios.interactions.{tenant}.>", newest_only=False),
    _bucket("tool", subjects.TOOLS_BUCKET),
)
"""Restored in this order."""
