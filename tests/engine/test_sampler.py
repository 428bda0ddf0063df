"""The sampler against plain definitions, one id after the other."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from openk2.engine.sampler import Sampler, Sampling
from openk2.errors import UserError


def distribution(logits: list[float], s: Sampling, prompt: list[int], reply: list[int]) -> dict[int, float]:
    """What the settings leave of softmax(logits), by definition: id -> probability."""
    x = [value + s.logit_bias.get(i, 0.0) for i, value in enumerate(logits)]
    for i in set(prompt) | set(reply):
        x[i] = x[i] / s.repetition_penalty if x[i] > 0 else x[i] * s.repetition_penalty
    for i, times in Counter(reply).items():
        x[i] -= s.frequency_penalty * times + s.presence_penalty
    if s.temperature == 0:
        return {max(range(len(x)), key=x.__getitem__): 1.0}
    top = max(x)
    weights = {i: math.exp((value - top) / s.temperature) for i, value in enumerate(x)}
    order = sorted(weights, key=lambda i: (-weights[i], i))
    if s.top_k:
        order = order[: s.top_k]
    total, mass, kept = sum(weights[i] for i in order), 0.0, []
    for i in order:
        if s.top_p < 1 and mass >= s.top_p * total:
            break
        kept.append(i)
        mass += weights[i]
    kept = [i for i in kept if weights[i] >= s.min_p]
    total = sum(weights[i] for i in kept)
    return {i: weights[i] / total for i in kept}


SETTINGS = [
    Sampling(),
    Sampling(1.0, seed=5),
    Sampling(0.7, top_p=0.8),
    Sampling(1.3, top_k=4),
    Sampling(1.5, min_p=0.2),
    Sampling(1.1, top_p=0.9, top_k=6, min_p=0.05),
    Sampling(1.0, repetition_penalty=1.7),
    Sampling(1.0, presence_penalty=0.8, frequency_penalty=0.5),
    Sampling(1.0, logit_bias={3: 2.5, 0: -100.0}, top_p=0.95, repetition_penalty=0.8, frequency_penalty=-0.3),
    Sampling(0.0, repetition_penalty=5.0, frequency_penalty=2.0),
]


@pytest.mark.parametrize("s", SETTINGS, ids=range(len(SETTINGS)))
def test_draws_follow_the_definition(s: Sampling) -> None:
    rng = np.random.default_rng(7)
    logits = rng.normal(size=12).astype(np.float32) * 2
    prompt, reply = [1, 2, 2, 5], [7, 7, 3, int(logits.argmax())]
    sampler = Sampler(s, prompt)
    for token in reply:
        sampler.accept(token)
    kept = logits.copy()
    drawn = Counter(sampler.choose(logits) for _ in range(3000))
    np.testing.assert_array_equal(logits, kept)  # never changed in place
    expected = distribution(logits.tolist(), s, prompt, reply)
    assert set(drawn) <= set(expected)
    for i, p in expected.items():
        assert drawn[i] / 3000 == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / 3000) + 1e-3)


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("flat", [0.01, 3.0])
def test_top_p_over_a_large_vocabulary_is_that_of_a_full_sort(top_p: float, flat: float) -> None:
    logits = np.random.default_rng(1).normal(size=20_000) * flat
    weights = np.exp(logits - logits.max())
    order = np.argsort(-weights, kind="stable")
    mass = np.cumsum(weights[order])
    count = int((mass < top_p * mass[-1] * (1 - 1e-12)).sum()) + 1
    kept = Sampler(Sampling(1.0, top_p=top_p))._kept(weights)
    assert kept is not None and kept.tolist() == order[:count].tolist()


def test_equal_seeds_give_equal_ids_whoever_else_draws() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 40)).astype(np.float32)
    alone, beside, other = (Sampler(Sampling(0.9, top_p=0.9, seed=s)) for s in ((1, 2), (1, 2), 3))
    first = [alone.choose(row) for row in rows]
    second = []
    for row in rows:
        other.choose(row)
        second.append(beside.choose(row))
    assert first == second != [Sampler(Sampling(0.9, top_p=0.9, seed=3)).choose(row) for row in rows]


def test_logprobs() -> None:
    logits = np.random.default_rng(0).normal(size=30).astype(np.float32) * 3
    exact = logits - math.log(sum(math.exp(x) for x in logits.tolist()))
    told = Sampler(Sampling(logprobs=4, logit_bias={2: 9.0})).logprob(logits, 11)
    assert told.logprob == pytest.approx(float(exact[11]), abs=1e-5)
    assert [i for i, _ in told.top] == np.argsort(-exact)[:4].tolist()
    assert told.top[0][1] == pytest.approx(float(exact.max()), abs=1e-5)
    assert Sampler(Sampling(logprobs=0)).logprob(logits, 1).top == ()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_a_number_is_refused(bad: float) -> None:
    logits = np.zeros(5, np.float32)
    logits[3] = bad
    for s in (Sampling(), Sampling(1.0, top_p=0.5)):
        with pytest.raises(UserError, match="not numbers"):
            Sampler(s).choose(logits)


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": -1.0}, {"temperature": math.nan}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_k": -1}, {"min_p": 2.0},
        {"repetition_penalty": 0.0}, {"presence_penalty": math.inf}, {"logit_bias": {1: math.nan}}, {"logprobs": -1},
    ],
    ids=str,
)  # fmt: skip
def test_settings_without_sense_are_refused(values: dict) -> None:
    with pytest.raises(UserError):
        Sampling(**values)
