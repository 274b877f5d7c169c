"""Which calls can be heard at one more inbox than they were made from."""

from typing import Final

_JOINING: Final = frozenset({"llm.chat", "llm.complete", "tool.call"})
_REMEMBERING: Final = frozenset({"context", "memory", "storage"})
# Of these a second delivery does it again, or says that nothing is left to be done; of files, on a mounted folder.
_FORGETTING: Final = frozenset(
    {"context.discard", "memory.forget", "storage.delete", "storage.move", "storage.rotate", "storage.shred"}
)


def joins(operation: str) -> bool:
    """Whether who runs a call of this operation answers at further inboxes while it runs."""
    return operation in _JOINING


def runs_once(operation: str) -> bool:
    """Whether a call of this operation may be sent from several inboxes: it runs once and each of them is answered."""
    manager, _, _ = operation.partition(".")
    return joins(operation) or (manager in _REMEMBERING and operation not in _FORGETTING)
