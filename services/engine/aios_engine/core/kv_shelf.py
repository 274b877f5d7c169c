"""Which held KV is kept in memory once it has lost its slot: the newest, as many bytes as are allowed."""

from collections import OrderedDict

from aios_engine.core.kv_image import KvImage


class KvShelf:
    """KV by key, bounded in bytes."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._images: OrderedDict[str, KvImage] = OrderedDict()
        self._bytes = 0

    def put(self, key: str, image: KvImage) -> list[str]:
        """Keeps an image, and returns the keys that are not kept any more; its own, if it is too large."""
        self.drop(key)
        self._images[key] = image
        self._bytes += len(image.state)
        gone = []
        while self._bytes > self._limit:
            oldest = next(iter(self._images))
            self.drop(oldest)
            gone.append(oldest)
        return gone

    def get(self, key: str) -> KvImage | None:
        """The image of a key, if it is kept."""
        return self._images.get(key)

    def drop(self, key: str) -> bool:
        """Forgets a key; whether it was there."""
        image = self._images.pop(key, None)
        if image is None:
            return False
        self._bytes -= len(image.state)
        return True
