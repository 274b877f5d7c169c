"""Which prompt prefixes are still in the KV cache: a tree of segments whose least recently used leaves go first.

As text-generation-inference's radix allocator: a prompt is put in when its request ends, generated tokens are not, and
what a running request uses cannot go. A segment is named by a key that stands for the whole path up to it.
"""

import heapq
from collections.abc import Hashable, Sequence
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Node:
    """One cached segment.

    Attributes:
        tokens: of this segment.
        depth_tokens: of the whole path up to its end.
        children: cached segments that go on from it.
        pins: running requests that use it as their deepest segment.
        used: its last use, a counter.
    """

    key: Hashable
    parent: "Node | None"
    tokens: int
    depth_tokens: int
    children: int = 0
    pins: int = 0
    used: int = 0


class PrefixCache:
    """The tree, with its size in tokens."""

    def __init__(self) -> None:
        self.tokens = 0
        self._nodes: dict[Hashable, Node] = {}
        self._leaves: list[tuple[int, int, Node]] = []
        self._clock = 0
        self._tie = 0

    def longest(self, path: Sequence[Hashable]) -> Node | None:
        """The deepest cached segment of a path.

        A segment is cached only while all before it are, so the search begins at the end.
        """
        nodes = self._nodes
        for key in reversed(path):
            node = nodes.get(key)
            if node is not None:
                return node
        return None

    def pin(self, node: Node) -> None:
        """Keeps a segment and all before it."""
        node.pins += 1
        self._touch(node)

    def unpin(self, node: Node) -> None:
        """Lets go of it."""
        node.pins -= 1
        self._touch(node)
        self._offer(node)

    def insert(self, path: Sequence[Hashable], sizes: Sequence[int], room: int) -> int:
        """Puts a prompt in, as much of it as `room` tokens hold.

        Returns:
            The tokens that were not there before.
        """
        parent = self.longest(path)
        start = 0 if parent is None else path.index(parent.key) + 1
        added = 0
        for key, size in zip(path[start:], sizes[start:], strict=True):
            if added + size > room:
                break
            depth = size if parent is None else parent.depth_tokens + size
            node = Node(key, parent, size, depth)
            self._nodes[key] = node
            if parent is not None:
                parent.children += 1
            parent = node
            added += size
        if parent is not None:
            self._touch(parent)
            self._offer(parent)
        self.tokens += added
        return added

    def evict(self, tokens: int) -> int:
        """Frees at least so many tokens if there are as many to free; returns how many."""
        freed = 0
        while freed < tokens and self._leaves:
            used, _, node = heapq.heappop(self._leaves)
            if node.used != used or node.children or node.pins or self._nodes.get(node.key) is not node:
                continue
            del self._nodes[node.key]
            freed += node.tokens
            parent = node.parent
            if parent is not None:
                parent.children -= 1
                parent.used = max(parent.used, node.used)
                self._offer(parent)
        self.tokens -= freed
        return freed

    def _touch(self, node: Node) -> None:
        self._clock += 1
        node.used = self._clock

    def _offer(self, node: Node) -> None:
        if not node.children and not node.pins:
            self._tie += 1
            heapq.heappush(self._leaves, (node.used, self._tie, node))
