"""The stream of documents: each once an epoch, wherever a run stops, whatever the number of ranks."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from openk2.chat.shards import ShardWriter, write_tokens
from openk2.errors import UserError
from openk2.train.data import Folder, Source, Stream, shuffled
from openk2.train.packing import Packer


def numbered(folder: Path, count: int, longest: int = 40, shards: int = 3) -> Source:
    """Documents whose first token is their number."""
    lengths = random.Random(0).choices(range(2, longest), k=count)
    for part in range(shards):
        documents = [([n] * lengths[n], [0, *[1] * (lengths[n] - 1)]) for n in range(part, count, shards)]
        write_tokens(folder / f"part-{part}", documents, 1 << 16)
    return Source(folder)


def documents(packer: Packer, steps: int) -> list[int]:
    """Numbers of the documents of the next steps, in order, as the batches have them."""
    found = []
    for _ in range(steps):
        for batch in packer.step().batches:
            at = 0
            for length in batch.lengths[: len(batch.keys)]:
                assert len(set(batch.ids[at : at + length].tolist())) == 1
                found.append(int(batch.ids[at]))
                at += length
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 10, 1000, 4097])
def test_an_order_has_each_document_once(size: int) -> None:
    orders = [shuffled(np.arange(size), size, (seed, 0, epoch)) for seed in range(2) for epoch in range(2)]
    assert all(sorted(order.tolist()) == list(range(size)) for order in orders)
    if size > 10:
        assert all((a != b).mean() > 0.98 for a, b in itertools.combinations(orders, 2))
        assert all(abs(np.corrcoef(np.arange(size), order)[0, 1]) < 0.1 for order in orders)


def test_places_of_an_order_that_no_memory_holds() -> None:
    size = 15_000_000_000  # documents of 15T tokens
    places = np.array([0, 1, 7_000_000_000, size - 1])
    found = shuffled(places, size, (0, 0, 0))
    assert len(set(found.tolist())) == 4 and found.min() >= 0 and found.max() < size
    assert np.array_equal(found[2:3], shuffled(places[2:3], size, (0, 0, 0)))


def test_where_a_run_stops_no_document_is_lost_or_seen_twice(tmp_path: Path) -> None:
    count, epochs = 1000, 3
    data, rng, seen = [numbered(tmp_path, count)], random.Random(1), []
    state: str | None = None
    while len(seen) < epochs * count:
        packer = Packer(Stream(data, "", 5, 64), 64, 2)
        if state:
            packer.restore(json.loads(state))
        seen += documents(packer, rng.randint(1, 60))
        state = json.dumps(packer.state())
    unbroken = documents(Packer(Stream(data, "", 5, 64), 64, 2), 2000)[: len(seen)]
    assert seen == unbroken
    # In the order of the stream, before the packer's pool, every epoch has each document once.
    stream = Stream(data, "", 5, 64)
    for _ in range(epochs):
        assert sorted(stream.next().number for _ in range(count)) == list(range(count))
    early = Counter(seen[: epochs * count])
    assert set(early.values()) <= {epochs - 1, epochs, epochs + 1}  # the pool holds 128 back


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_ranks_share_what_one_process_has(tmp_path: Path, ranks: int) -> None:
    data = [numbered(tmp_path, 500)]

    def packers(size: int) -> list[Packer]:
        return [Packer(Stream(data, "", 0, 64), 64, 12, rank, size) for rank in range(size)]

    (alone,), parts = packers(1), packers(ranks)
    for _ in range(20):
        whole, shares = alone.step(), [packer.step() for packer in parts]
        for number, batch in enumerate(whole.batches):
            assert batch.keys == shares[number % ranks].batches[number // ranks].keys
        assert all(share.state == whole.state and share.tokens == whole.tokens for share in shares)
    parts = packers(ranks + 1)  # other ranks go on from there
    for packer in parts:
        packer.restore(alone.state())
    assert alone.step().batches[0].keys == parts[0].step().batches[0].keys


def test_documents_are_found_in_large_shards(tmp_path: Path) -> None:
    data = numbered(tmp_path, 5000, shards=2)
    folder = Folder(data.folder, 64)
    assert len(folder.shards[0].anchors) == 4  # known places: every 1,024 documents
    for index in (0, 1, 1023, 1024, 1025, 2499, 2500, 4999):
        number = index * 2 if index < 2500 else (index - 2500) * 2 + 1
        document = folder.document(index)
        assert set(document.ids.tolist()) == {number} and document.mask.tolist() == [0, *[1] * (len(document.ids) - 1)]
        assert len(document.ids) == folder.lengths(np.array([index]))[0]


def test_large_vocabularies_and_one_byte_masks(tmp_path: Path) -> None:
    shard = ShardWriter(tmp_path / "a", 163_840, masked=False)
    shard.add([163_839, 5, 6])
    shard.add([7, 163_000])
    assert not list(tmp_path.glob("*.idx"))  # it does not exist yet
    shard.close()
    folder = Folder(tmp_path, 64)
    assert folder.document(0).ids.tolist() == [163_839, 5, 6] and folder.document(0).mask.tolist() == [1, 1, 1]
    assert folder.document(1).ids.tolist() == [7, 163_000]
    assert (tmp_path / "a.mask").stat().st_size == 1 and (tmp_path / "a.bin").stat().st_size == 20
    assert Stream([Source(tmp_path)], "", 0, 64).largest_id() == 163_839
    (tmp_path / "a.mask").unlink()
    with pytest.raises(UserError, match=r"a\.mask does not fit"):
        Folder(tmp_path, 64)


@pytest.mark.parametrize("longest", [7, 16, 1000])
def test_texts_are_cut_to_the_context_and_every_token_kept(tmp_path: Path, longest: int) -> None:
    rng = random.Random(0)
    for name in "ab":
        shard = ShardWriter(tmp_path / name, 1 << 16, masked=False)
        for _ in range(2500):
            shard.add(range(rng.choice([1, 2, 7, 8, 14, 15, 40, 700])))
        shard.close()
    folder = Folder(tmp_path, longest)
    indices = np.arange(folder.size)
    lengths = folder.lengths(rng_order := np.random.default_rng(0).permutation(indices))
    assert lengths.sum() == sum(len(shard.ids) for shard in folder.shards) and lengths.max() <= longest
    assert folder.usable == (lengths > 1).sum() and folder.tokens == lengths[lengths > 1].sum()
    by_index = dict(zip(rng_order.tolist(), lengths.tolist(), strict=True))
    after = 0
    for index in range(3000):  # pieces lie in the order of the text: each goes on where the one before ended
        document = folder.document(index)
        assert len(document.ids) == by_index[index] == len(document.mask) and document.mask.all()
        first = int(document.ids[0])
        assert first in (0, after) and (first == 0 or first % longest == 0)
        after = int(document.ids[-1]) + 1


def test_a_stage_has_its_own_data_or_that_of_all(tmp_path: Path) -> None:
    a, b = numbered(tmp_path / "a", 30), numbered(tmp_path / "b", 50)
    own = Source(b.folder, None, "long")
    assert Stream([a, own], "long", 0, 64).folders[0].size == 50
    assert Stream([a, own], "pretrain", 0, 64).folders[0].size == 30
    with pytest.raises(UserError, match="stage pretrain has no data"):
        Stream([own], "pretrain", 0, 64)


def test_documents_that_are_too_long_are_counted_and_left_out(tmp_path: Path) -> None:
    stream = Stream([numbered(tmp_path, 200, longest=80)], "", 0, 40)
    short = {i for i in range(200) if stream.folders[0].lengths(np.array([i]))[0] <= 40}
    assert stream.skipped == 200 - len(short)
    assert {stream.next().number for _ in range(len(short))} == short
