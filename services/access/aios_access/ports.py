"""What the access manager needs from outside."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from aios_access.directory import Identity
from aios_access.policies import PolicyDocument
from aios_access.quotas import QuotaKey
from aios_proto.headers import CallHeaders
from aios_proto.messages.access import QuotaLimits

FindCaller = Callable[[CallHeaders], Awaitable[Identity]]
"""Finds the identity behind a call that was let pass; raises AccessDenied where it has been revoked since."""


class AgentStore(Protocol):
    """Where identities are kept, shared by all replicas."""

    async def create(self, identity: Identity) -> None:
        """Adds an identity.

        Raises:
            ResourceConflict: there is one of that name.
            BusUnavailable: the store cannot be reached.
        """

    async def replace(self, identity: Identity) -> None:
        """Puts an identity in the place of the one of that name.

        Raises:
            ResourceConflict: it was changed or removed at the same time.
            BusUnavailable: the store cannot be reached.
        """

    async def delete(self, key: str) -> None:
        """Removes an identity, if it is there.

        Raises:
            BusUnavailable: the store cannot be reached.
        """

    async def refresh(self, key: str) -> None:
        """Reads one identity anew: another replica may have changed it a moment ago.

        Raises:
            BusUnavailable: the store cannot be reached.
        """


class PolicyStore(Protocol):
    """Where policy documents are kept, shared by all replicas."""

    async def put(self, document: PolicyDocument, expected: int | None) -> PolicyDocument:
        """Adds the next version of a document, and returns it with its number.

        Args:
            document: its version is not looked at.
            expected: the version that must be in force; None for any, 0 for none.

        Raises:
            ResourceConflict: another version is in force, or it was changed at the same time.
            BusUnavailable: the store cannot be reached.
        """

    async def version(self, tenant: str, name: str, version: int) -> PolicyDocument:
        """One of the last versions.

        Raises:
            ResourceNotFound: it is not kept.
            BusUnavailable: the store cannot be reached.
        """

    async def delete(self, tenant: str, name: str) -> None:
        """Removes a document.

        Raises:
            BusUnavailable: the store cannot be reached.
        """


class QuotaStore(Protocol):
    """Where quotas are kept, shared by all replicas."""

    async def put(self, key: QuotaKey, limits: QuotaLimits) -> None:
        """Sets a quota.

        Raises:
            BusUnavailable: the store cannot be reached.
        """

    async def delete(self, key: QuotaKey) -> None:
        """Removes a quota, if it is there.

        Raises:
            BusUnavailable: the store cannot be reached.
        """
