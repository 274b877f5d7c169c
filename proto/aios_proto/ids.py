"""How a system call is named: a ULID, so that ids sort by the time they were made."""

from ulid import ULID


def new_syscall_id() -> str:
    """A fresh id for the `Aios-Id` header: 26 characters of Crockford base 32, sortable by time."""
    return str(ULID())
