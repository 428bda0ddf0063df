"""The statistics of runs/optimizers.py, against tables and by hand."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def study() -> ModuleType:
    spec = importlib.util.spec_from_file_location("optimizers", Path(__file__).parents[1] / "runs" / "optimizers.py")
    assert spec and spec.loader
    module = sys.modules["optimizers"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_paired_t_has_the_tables_probability(study: ModuleType) -> None:
    # Student's table: t = 4.303 at 2 degrees of freedom and 2.776 at 4 are the two-sided 5% points.
    for values, critical in (([0.0, 1.0, 2.0], 4.303), ([0.0, 1.0, 2.0, 3.0, 4.0], 2.776)):
        n = len(values)
        mean = sum(values) / n
        deviation = (sum((v - mean) ** 2 for v in values) / (n - 1)) ** 0.5
        shifted = [v - mean + critical * deviation / n**0.5 for v in values]
        _, t, p = study.paired_t(shifted)
        assert t == pytest.approx(critical)
        assert p == pytest.approx(0.05, abs=1e-3)


def test_tokens_to_equal_loss_lie_on_the_power_law(study: ModuleType) -> None:
    points = [(tokens, 10 * tokens**-0.3) for tokens in (100.0, 200.0, 400.0)]
    assert study.tokens_to(10 * 300.0**-0.3, points) == pytest.approx(300)
    assert study.tokens_to(10 * 50.0**-0.3, points) is None  # no guess outside what was measured
    assert study.tokens_to(10 * 500.0**-0.3, points) is None


def test_both_optimizers_have_the_same_seeds_data_and_schedule(study: ModuleType) -> None:
    stages = {one.seed: {} for one in study.FINAL}
    for one in study.FINAL:
        stages[one.seed][one.optimizer] = dataclasses.replace(one.stage, optimizer="adamw", lr=1.0)
    assert len(stages) >= 3
    assert all(pair["adamw"] == pair["muonclip"] for pair in stages.values())
    assert len({one.name for one in (*study.GRID, *study.FINAL, *study.SHORT)}) == len(
        {*study.GRID, *study.FINAL, *study.SHORT}
    )
