"""How the calls ended that this worker ran lately, for callers that ask again."""

from collections import OrderedDict

_KEPT = 2048
_KEPT_BYTES = 64 << 20


class Endings:
    """The last frames of the calls that ended last, bounded in number and in bytes."""

    def __init__(self) -> None:
        self._frames: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    def keep(self, key: str, frame: bytes) -> None:
        """Remembers how a call ended."""
        self._drop(key)
        self._frames[key] = frame
        self._bytes += len(frame)
        while len(self._frames) > _KEPT or self._bytes > _KEPT_BYTES:
            self._drop(next(iter(self._frames)))

    def get(self, key: str) -> bytes | None:
        """The last frame of a call, if it is still known."""
        return self._frames.get(key)

    def _drop(self, key: str) -> None:
        if (frame := self._frames.pop(key, None)) is not None:
            self._bytes -= len(frame)
