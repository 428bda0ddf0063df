"""The parity table: it holds here, it fails when something computes otherwise, and it says what was not compared."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the parity table compares with torch")
pytest.importorskip("transformers", reason="the parity table compares with transformers")

from openk2.bench import parity
from openk2.engine.twin import Twin
from openk2.errors import UserError


def found(result: dict[str, Any], check: str, routing: str) -> dict[str, Any]:
    (row,) = [row for row in result["rows"] if row["check"] == check and row["routing"] == routing]
    return row


def test_it_holds_and_pinning_tells_rounding_from_other_choices() -> None:
    result = parity.run(["2 of 4 groups"])
    assert result["holds"] and all(row["holds"] for row in result["rows"]), parity.table(result["rows"])
    assert json.loads(json.dumps(result)) == result
    compared = {row["check"] for row in result["rows"] if row["difference"] is not None}
    assert {"logits: torch, transformers", "gradients: torch, transformers", "logits: numpy, torch",
            "INT4 values: read back, in training", "weights: transformers' load of bf16, ours"} <= compared  # fmt: skip
    own, pinned = (found(result, "logits: torch in bf16, in fp32", routing) for routing in ("own", "pinned"))
    assert own["rerouted"] > 0 and own["difference"] > 4 * pinned["difference"] > 0
    exact = found(result, "logits: torch, transformers", "own")
    assert exact["rerouted"] == 0 and exact["choices"] == 2 * parity.TOKENS and 0 < exact["difference"] < 1e-5


def test_it_fails_where_something_computes_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    mix = Twin._mix
    monkeypatch.setattr(Twin, "_mix", lambda self, scores: mix(self, scores) * np.float32(1.001))
    monkeypatch.setattr(parity, "_version", lambda package: None)
    monkeypatch.setattr(parity, "_library", lambda: (None, "no compiler was found"))
    result = parity.run(["no q_lora"])
    failed = {row["check"] for row in result["rows"] if not row["holds"]}
    assert not result["holds"] and failed == {"logits: numpy, torch"}
    table = {row[0]: row for row in parity.table(result["rows"])}
    assert table["logits: numpy, torch"][-1] == "NO: no q_lora"
    assert table["logits: kernels int4, torch"][-2:] == ["-", "no compiler was found"]
    assert "pip install llama-cpp-python" in table["logits: llama.cpp f32, numpy"][-1]
    assert "pip install compressed-tensors" in table["weights: transformers' load of int4, ours"][-1]


def test_a_network_that_is_not_there() -> None:
    with pytest.raises(UserError, match="no network large; there are: no q_lora"):
        parity.run(["large"])


def test_the_table_shows_the_largest_and_names_what_fails() -> None:
    rows = [
        parity.Row("logits: a, b", "q_lora", 2e-6, 1e-5, "own", 0, 300),
        parity.Row("logits: a, b", "tied head", 3e-6, 1e-5, "own", 1, 300),
        parity.Row("weights: a, b", "q_lora", 0.5, 0),
        parity.Row("weights: a, b", "tied head", 0, 0),
        parity.Row("logits: rough, b", "q_lora", 0.4, None, "own", 9, 300),
    ]
    assert parity.table(dataclasses.asdict(row) | {"holds": row.holds} for row in rows) == [
        ["logits: a, b", "q_lora, tied head", "own, 1 of 600 differ", "3.0e-06 (tied head)", "1e-05", "yes"],
        ["weights: a, b", "q_lora, tied head", "", "5.0e-01 (q_lora)", "0", "NO: q_lora"],
        ["logits: rough, b", "q_lora", "own, 9 of 300 differ", "4.0e-01", "-", "-"],
    ]
