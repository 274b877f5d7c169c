"""How much of a list one answer holds: the bus carries four megabytes, and a path may be long."""

from typing import Final

from aios_proto.messages.storage import FileInfo

PAGE_BYTES: Final = 3 << 20
_ENTRY_BYTES: Final = 320


class Page:
    """Entries as long as they fit.

    Attributes:
        files: the entries.
    """

    def __init__(self, limit: int) -> None:
        self.files: list[FileInfo] = []
        self._limit = limit
        self._bytes = 0

    def add(self, entry: FileInfo) -> bool:
        """Takes an entry in; False where there is no room for it."""
        # JSON may need two bytes for one of a path.
        size = _ENTRY_BYTES + 2 * len(entry.path.encode())
        if len(self.files) == self._limit or self._bytes + size > PAGE_BYTES:
            return False
        self.files.append(entry)
        self._bytes += size
        return True
