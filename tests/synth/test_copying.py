"""Stage zero: what is asked to be learned can be copied from what stands before it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from openk2.chat.tokenizer import Tokenizer
from openk2.synth.copying import Copying, make


@pytest.mark.parametrize("few", [0.0, 0.4])
def test_everything_that_is_learned_was_seen_before(tokenizer: Tokenizer, few: float) -> None:
    copying = Copying(tokenizer, 3, few)
    lengths = set()
    for _ in range(200):
        ids, mask = copying.draw()
        start = mask.index(1)
        assert set(mask[:start]) == {0} and set(mask[start:]) == {1}
        assert ids[-1] == tokenizer.special["<|im_end|>"]
        assert set(ids[start:-1]) <= set(ids[:start])
        lengths.add(len(ids))
    assert min(lengths) < 30 and max(lengths) > 100


def test_the_same_seed_gives_the_same_documents(tokenizer: Tokenizer) -> None:
    first, second, other = Copying(tokenizer, 1), Copying(tokenizer, 1), Copying(tokenizer, 2)
    assert [first.draw() for _ in range(5)] == [second.draw() for _ in range(5)] != [other.draw() for _ in range(5)]


def test_documents_of_few_tokens_come_in_their_share(tokenizer: Tokenizer) -> None:
    def repeating(few: float) -> int:
        drawn = (Copying(tokenizer, seed, few).draw()[0] for seed in range(200))
        return sum(len(ids) > 60 and len(set(ids)) < len(ids) / 3 for ids in drawn)

    assert repeating(0.0) == 0 < 20 < repeating(0.5)


def test_shards(tokenizer_folder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    make(tokenizer_folder, tmp_path, 3000, 0, say=said.append)
    lengths = np.fromfile(tmp_path / "copy0.idx", np.int32)
    ids = np.fromfile(tmp_path / "copy0.bin", np.uint16)
    assert lengths.sum() == len(ids) == len(np.fromfile(tmp_path / "copy0.mask", np.uint8)) >= 3000
    assert said == [f"0.00M tokens in {tmp_path}"]
