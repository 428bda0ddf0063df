"""What was computed for earlier texts, found again by their ids: a tree whose nodes are blocks of the latent cache.

A node stands for the ids of one block behind those of its parents. Texts that begin alike share nodes, so a fork costs
nothing until it is written to, and a text that goes on finds all it had. Only a text's last node may be shorter than a
block; it is never written to again, but copied by whoever goes on from it, and so is the part of a full node that is
common with a text that leaves it midway.

Not thread-safe: the scheduler holds its lock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from openk2.engine.cache import BLOCK

Ids = tuple[int, ...]


@dataclass(slots=True, eq=False)
class Node:
    """`ids`: at most BLOCK, fewer only in a tail. `users`: running texts whose cache holds the block."""

    parent: Node | None
    ids: Ids
    block: Any  # [layers, BLOCK, width] of whatever arrays the executor computes on
    users: int = 0
    kept: bool = True  # in the tree
    children: dict[Ids, Node] = field(default_factory=dict)


@dataclass(slots=True)
class Match:
    """`path`: whole blocks, from the root on; then `extra` positions of `partial`, to be copied."""

    path: list[Node]
    partial: Node | None
    extra: int

    @property
    def length(self) -> int:
        return BLOCK * len(self.path) + self.extra


class PrefixTree:
    """Blocks nobody uses stay until `evict` takes them, the longest unused first and never one with children."""

    def __init__(self) -> None:
        self._root: dict[Ids, Node] = {}
        # Unused nodes, the longest unused first. A node comes here later than its children (release goes from the end
        # of a text to its beginning, and whoever uses a node uses its parents), so the first one is always a leaf.
        self._idle: OrderedDict[int, Node] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        """Blocks held."""
        return self._count

    @property
    def idle(self) -> int:
        """Blocks that `evict` could take."""
        return len(self._idle)

    def find(self, ids: Sequence[int], limit: int) -> Match:
        """The longest known beginning of `ids`, at most `limit` positions. It changes nothing."""
        path: list[Node] = []
        children = self._root
        while BLOCK * (len(path) + 1) <= limit:
            start = BLOCK * len(path)
            node = children.get(tuple(ids[start : start + BLOCK]))
            if node is None:
                break
            path.append(node)
            children = node.children
        start = BLOCK * len(path)
        rest = tuple(ids[start : min(start + BLOCK, limit)])
        best, extra = None, 0
        for key, node in children.items():
            if rest[: extra + 1] == key[: extra + 1] and (common := _common(rest, key)) > extra:
                best, extra = node, common
        return Match(path, best, extra)

    def child(self, parent: Node | None, ids: Ids) -> Node | None:
        """The node of a whole block behind `parent`."""
        return (parent.children if parent else self._root).get(ids)

    def take(self, path: Sequence[Node]) -> None:
        """Use the nodes of a path: none is evicted before it is released."""
        for node in path:
            node.users += 1
            self._idle.pop(id(node), None)

    def release(self, path: Sequence[Node]) -> None:
        for node in reversed(path):
            node.users -= 1
            if not node.users and node.kept:
                self._idle[id(node)] = node

    def add(self, parent: Node | None, ids: Ids, block: Any) -> Node:
        """The node of a whole block behind `parent`, which the caller uses: the one that is there, else a new one.

        The caller uses the node from now on.
        """
        children = parent.children if parent else self._root
        node = children.get(ids)
        if node is None:
            self._drop_beginnings(children, ids)
            node = children[ids] = Node(parent, ids, block)
            self._count += 1
        self.take([node])
        return node

    def add_tail(self, parent: Node | None, ids: Ids, block: Any) -> None:
        """Keep the end of a text, fewer ids than a block, behind `parent`, which the caller uses still."""
        children = parent.children if parent else self._root
        if not ids or any(key[: len(ids)] == ids for key in children):
            return  # known, and perhaps more
        self._drop_beginnings(children, ids)
        node = children[ids] = Node(parent, ids, block)
        self._idle[id(node)] = node
        self._count += 1

    def evict(self) -> bool:
        """Give up the leaf unused for longest; False where all are used."""
        if not self._idle:
            return False
        _, node = self._idle.popitem(last=False)
        self._forget(node)
        return True

    def drop(self, path: Sequence[Node]) -> None:
        """Forget the nodes of a released path, from its end on, as far as nobody uses or continues them."""
        for node in reversed(path):
            if node.users or node.children or not node.kept:
                return
            del self._idle[id(node)]
            self._forget(node)

    def nodes(self) -> Iterator[Node]:
        """Every node, parents before their children."""
        waiting = list(self._root.values())
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(node.children.values())

    def _drop_beginnings(self, children: dict[Ids, Node], ids: Ids) -> None:
        """Forget tails that `ids`, which are about to be added, begin with."""
        for key in [key for key in children if len(key) < BLOCK and ids[: len(key)] == key]:
            node = children[key]
            self._idle.pop(id(node), None)
            self._forget(node)

    def _forget(self, node: Node) -> None:
        children = node.parent.children if node.parent else self._root
        del children[node.ids]
        node.kept = False
        self._count -= 1


def _common(a: Ids, b: Ids) -> int:
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))
