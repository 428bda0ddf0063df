"""Sessions kept in a file over a restart: the same logits, bit for bit, of the same model only."""

from __future__ import annotations

from ctypes import CDLL
from pathlib import Path

import numpy as np
import pytest
from test_session import CONFIG, random_tensors  # type: ignore[import-not-found]

from openk2.engine import Engine
from openk2.engine.kernels.native import Native
from openk2.engine.twin import Twin
from openk2.engine.weights import Weights
from openk2.errors import UserError
from openk2.model.checkpoint import save
from openk2.model.config import ModelConfig
from openk2.model.safetensors import Stored

LONG = ModelConfig(**{**vars(CONFIG), "max_position_embeddings": 2000})
BLOCK_BYTES = 4 * 3 * 128 * 40


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    folder = tmp_path_factory.mktemp("checkpoint")
    save(folder, LONG, {name: Stored.bf16(t) for name, t in random_tensors(LONG).items()})
    return Weights.load(folder, LONG)


def ids(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, CONFIG.vocab_size, count).tolist()


def start(weights: Weights, kernels: CDLL | None, **more) -> Engine:
    executor = Native(kernels, LONG, weights) if kernels else Twin(LONG, weights)
    return Engine(LONG, weights, executor=executor, name="tiny", **more)


@pytest.mark.parametrize("name", ["kernels", "twin"])
def test_restored_with_identical_logits(
    weights: Weights, tmp_path: Path, request: pytest.FixtureRequest, name: str
) -> None:
    library = request.getfixturevalue("kernels") if name == "kernels" else None
    engine = start(weights, library)
    session = engine.session()
    session.append(ids(600))
    made = list(session.generate(max_tokens=40))
    other = session.fork(300)
    other.append(ids(50, 1))
    session.append(ids(3, 2))
    path = tmp_path / "kept" / "sessions.k2"
    assert engine.save(path, [session, other]) == 643 + 350 - 256  # two whole blocks are shared
    following = list(session.fork(643).generate(max_tokens=20))

    again = start(weights, library)
    first, second = again.restore(path)
    assert (first.ids, second.ids) == (ids(600) + made + ids(3, 2), ids(600)[:300] + ids(50, 1))
    assert (first.cached, second.cached) == (642, 349)
    # The last id is read again by both, alone.
    for restored, ids_ in ((first, session.ids), (second, other.ids)):
        np.testing.assert_array_equal(restored.logits, engine.session(ids_).fork(len(ids_)).logits)
    assert list(first.generate(max_tokens=20)) == following
    assert not list(path.parent.glob("*.tmp"))


def test_everything_kept_and_little_room(weights: Weights, kernels: CDLL, tmp_path: Path) -> None:
    engine = start(weights, kernels)
    for n in range(6):
        engine.session().append(ids(300, n))
    assert engine.save(tmp_path / "all") == 1800
    again = start(weights, kernels)
    assert again.restore(tmp_path / "all") == []
    assert all(again.session(ids(300, n)).cached == 299 for n in range(6))
    small = start(weights, kernels, cache_bytes=7 * BLOCK_BYTES)
    small.restore(tmp_path / "all")
    assert 0 < small.scheduler.load.blocks <= 7
    session = small.session(ids(300, 0))
    np.testing.assert_allclose(session.logits, again.session(ids(300, 0)).logits, atol=1e-4)
    small.session().append(ids(800, 9))  # what was restored makes room as well


def test_another_model_and_damage_are_told_by_name(weights: Weights, kernels: CDLL, tmp_path: Path) -> None:
    engine = start(weights, kernels)
    session = engine.session()
    session.append(ids(300))
    path = tmp_path / "sessions.k2"
    engine.save(path, [session])

    tensors = random_tensors(LONG)
    tensors["model.layers.2.self_attn.o_proj.weight"] *= 1.5
    save(tmp_path / "other", LONG, {name: Stored.bf16(t) for name, t in tensors.items()})
    other = Engine.load(tmp_path / "other")
    with pytest.raises(UserError, match="'tiny' and this is 'other'"):
        other.restore(path)
    assert other.scheduler.load.blocks == 0

    whole = path.read_bytes()
    again = start(weights, kernels)
    for cut in (0, 5, 200, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut").write_bytes(whole[:cut])
        with pytest.raises(UserError, match="damaged or cut short"):
            again.restore(tmp_path / "cut")
    rng = np.random.default_rng(0)
    for place in rng.integers(8, len(whole), 200).tolist():
        changed = bytearray(whole)
        changed[place] ^= 1 << int(rng.integers(8))
        (tmp_path / "changed").write_bytes(changed)
        try:
            kept = again.restore(tmp_path / "changed")
        except UserError:
            continue
        assert [each.ids for each in kept] == [ids(300)]  # blanks of the header: nothing of it was lost
    with pytest.raises(UserError, match="no session file"):
        again.restore(tmp_path / "none")
    with pytest.raises(UserError, match="could not be written"):
        engine.save(tmp_path / "cut" / "under-a-file", [session])
