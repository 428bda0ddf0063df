"""`k2 bench train`: batches of real text, every system trains on them, and two networks compute the same losses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from openk2.bench import train
from openk2.cli.main import k2
from openk2.errors import UserError

pytest.importorskip("torch")
from openk2.model.config import ModelConfig


def plan(*systems: str) -> train.Plan:
    config = ModelConfig.from_depth(2, train.VOCABULARY)
    return train.Plan(("tiny",), 1024, ((20, 200),), 1, 1, 1, systems, {"tiny": config})


def test_batches_are_equal_parts_of_real_text() -> None:
    batch = train.make_batch(4096, 2, (100, 500), 3)
    assert [sum(part) for part in batch["parts"]] == [2048, 2048] and len(batch["ids"]) == 4096
    whole = [n for part in batch["parts"] for n in part[:-1]]
    assert min(whole) >= 100 and max(whole) <= 500
    assert len(set(batch["ids"])) > 300 and max(batch["ids"]) < train.VOCABULARY
    assert batch == train.make_batch(4096, 2, (100, 500), 3) != train.make_batch(4096, 2, (100, 500), 4)


def test_three_optimizers_train() -> None:
    names = ["openk2", "openk2, AdamW", "openk2, torch's Muon"]
    report = train.measure(plan(*names))
    assert [row["system"] for row in report.rows] == names, report.left_out
    assert len({row["losses"][0] for row in report.rows}) == 1  # the same weights, the same documents
    for row in report.rows:
        assert row["losses"][1] < row["losses"][0] and row["tokens_per_second"]["median"] > 0
        assert 0 < row["mfu"] < 1 and 0 < row["optimizer_share"] < 1 and row["peak_bytes"] > 1 << 27


def test_transformers_computes_the_same() -> None:
    pytest.importorskip("transformers")
    report = train.measure(plan("openk2, AdamW", "transformers"))
    assert len(report.rows) == 2 and not report.failed, report.left_out
    assert any("differ from transformers' by at most" in said for said in report.notes)
    steps = {name: [{"loss": 9.0}, {"loss": loss}] for name, loss in (("openk2, AdamW", 8.0), ("transformers", 8.5))}
    train._compare(report, "tiny", steps)  # the check can fail
    assert report.failed


def test_bad_lengths_and_sizes_are_a_sentence(tmp_path: Path) -> None:
    for lengths in ("many", "500-100", "1-5000"):
        with pytest.raises(UserError, match="--lengths takes tokens"):
            CliRunner().invoke(k2, ["bench", "train", "--lengths", lengths], catch_exceptions=False)
    with pytest.raises(UserError, match="There is no size 7M; the sizes are 5M, 14M"):
        CliRunner().invoke(k2, ["bench", "train", "--sizes", "7M"], catch_exceptions=False)
    assert json.dumps(train.make_batch(1024, 1, (64, 64), 0))
