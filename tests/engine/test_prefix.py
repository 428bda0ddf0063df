"""The prefix tree against a plain list of texts, over long random histories."""

from __future__ import annotations

import random

import pytest

from openk2.engine import prefix
from openk2.engine.prefix import Match, Node, PrefixTree


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix, "BLOCK", 4)


def common(a: list[int], b: list[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def write(tree: PrefixTree, ids: list[int]) -> tuple[Match, list[Node]]:
    """What the scheduler does with a text: find, use, add what is new; the caller releases the path."""
    match = tree.find(ids, len(ids))
    path = match.path
    tree.take(path)
    for start in range(4 * len(path), len(ids) - 3, 4):
        path.append(tree.add(path[-1] if path else None, tuple(ids[start : start + 4]), tuple(ids[: start + 4])))
    tree.add_tail(path[-1] if path else None, tuple(ids[4 * len(path) :]), tuple(ids))
    return match, path


def read(match: Match) -> list[int]:
    """The ids whose rows a match holds: each block carries all ids up to its end here."""
    if match.partial:
        return list(match.partial.block[: match.length])
    return list(match.path[-1].block) if match.path else []


def test_finds_the_longest_known_beginning() -> None:
    dice = random.Random(1)
    tree, texts = PrefixTree(), []
    for _ in range(400):
        base = dice.choice(texts)[: dice.randrange(30)] if texts else []
        text = base + [dice.randrange(3) for _ in range(dice.randrange(1, 25))]
        limit = dice.randrange(len(text) + 1)
        match = tree.find(text, limit)
        assert match.length == max((min(limit, common(t, text)) for t in texts), default=0)
        assert read(match) == text[: match.length]
        tree.release(write(tree, text)[1])
        texts.append(text)
    assert len(tree) == tree.idle == sum(1 for _ in tree.nodes())


def test_eviction_takes_unused_leaves_the_oldest_first() -> None:
    dice = random.Random(2)
    tree, running, used = PrefixTree(), [], {}
    for clock in range(1, 3001):
        if running and dice.random() < 0.4:
            path = running.pop(dice.randrange(len(running)))
            tree.release(path)
            used |= {id(node): clock for node in path}
        elif dice.random() < 0.5:
            before = {id(node): node for node in tree.nodes()}
            could = [n for n in before.values() if not n.users and not n.children]
            assert tree.evict() == bool(could)
            after = {id(node) for node in tree.nodes()}
            gone = [node for key, node in before.items() if key not in after]
            assert len(gone) == bool(could)
            for node in gone:
                assert not node.users and not node.children
                full = [n for n in could if len(n.ids) == 4 and len(node.ids) == 4]
                assert used.get(id(node), 0) <= min((used[id(n)] for n in full), default=clock)
                used.pop(id(node), None)
        else:
            running.append(write(tree, [dice.randrange(2) for _ in range(dice.randrange(1, 20))])[1])
        for path in running:  # what is used is there, whole
            nodes = {id(node) for node in tree.nodes()}
            assert all(node.users and id(node) in nodes for node in path)
        assert len(tree) == sum(1 for _ in tree.nodes())
        assert tree.idle == sum(not node.users for node in tree.nodes())
    for path in running:
        tree.release(path)
    while tree.evict():
        pass
    assert len(tree) == 0


def test_longer_texts_take_the_place_of_their_tails() -> None:
    tree = PrefixTree()
    for length in range(1, 40):
        tree.release(write(tree, list(range(length)))[1])
    assert len(tree) == 10  # nine blocks and one tail
    tree.release(write(tree, list(range(38)))[1])
    assert len(tree) == 10


def test_a_dropped_path_leaves_what_others_use() -> None:
    tree = PrefixTree()
    _, first = write(tree, [*range(8), 1, 2, 3, 4])
    _, second = write(tree, [*range(8), 5, 6, 7, 8])
    tree.release(second)
    tree.drop(second)
    assert len(tree) == 3 and [node.users for node in first] == [1, 1, 1]
    tree.release(first)
    tree.drop(first)
    assert len(tree) == tree.idle == 0
