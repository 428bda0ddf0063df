"""Sampling under a constraint: the restricted distribution, and forced ids that the model is not asked for."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pytest
from test_session import CONFIG, random_tensors

from openk2.engine import Engine
from openk2.engine.sampler import Sampler, Sampling
from openk2.model.checkpoint import Stored, save


class Only:
    """Allows a few ids; those of `forced` come first."""

    def __init__(self, allowed: Collection[int], forced: Sequence[int] = ()) -> None:
        self.allowed, self.waiting, self.seen = set(allowed), list(forced), []
        self.restricted = 0

    def forced(self) -> int | None:
        return self.waiting[0] if self.waiting else None

    def allows(self, token: int) -> bool:
        return token in self.allowed

    def restrict(self, logits: np.ndarray, refused: int) -> np.ndarray:
        assert refused not in self.allowed
        self.restricted += 1
        return np.where(np.isin(np.arange(len(logits)), list(self.allowed)), logits, -np.inf).astype(np.float32)

    def accept(self, token: int) -> None:
        self.seen.append(token)
        self.waiting = self.waiting[1:]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tmp_path_factory.mktemp("checkpoint")
    save(folder, CONFIG, {name: Stored.bf16(tensor) for name, tensor in random_tensors().items()})
    return Engine.load(folder)


def test_choices_follow_the_restricted_distribution() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    only = Only({1, 3})
    sampler = Sampler(Sampling(temperature=1.0, seed=5))
    share = np.bincount([sampler.choose(logits, only) for _ in range(4000)], minlength=4) / 4000
    np.testing.assert_allclose(share, [0, 0.3 / 0.35, 0, 0.05 / 0.35], atol=0.02)
    assert Sampler().choose(logits, Only({2, 3})) == 2
    free = Only({0, 1})
    assert Sampler().choose(logits, free) == 0 and not free.restricted  # a right choice costs no mask


def test_forced_ids_are_not_asked_for(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    session = engine.session()
    session.append([1, 2, 3])
    forced = [7, 8, 9, 10]
    only = Only(range(50, 60), forced)
    with monkeypatch.context() as patched:
        patched.setattr(Sampler, "choose", None)
        made = list(session.generate(max_tokens=4, constraint=only))
    assert made == only.seen == forced
    made = list(session.generate(max_tokens=3, constraint=only))
    assert set(made) <= set(range(50, 60))
    fresh = engine.session()
    fresh.append([1, 2, 3, *forced])
    expected = 50 + int(fresh.logits[50:60].argmax())
    assert made[0] == expected
