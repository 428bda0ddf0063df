"""`k2 bench`: rounds in turn, limits against a count by hand, peers that are missing or fail, each command once."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from openk2.bench import limit, load, models, session, speed
from openk2.bench.rounds import Failed, interleave, spread
from openk2.cli.main import k2
from openk2.errors import UserError


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.random_model("tiny", load.SMALL, tmp_path_factory.mktemp("models"), lambda text: None).folder


def plan(kind: speed.Kind, tiny: Path, place: Path, **changes: Any) -> speed.Plan:
    few = {"threads": (1,), "batch": (1, 2), "tokens": 2, "context": 8, "prompts": (16,), "rounds": 2, "seconds": 0.01}
    return speed.Plan(kind, model=tiny, folder=place, **few | changes)


def test_rounds_are_taken_in_turn_and_one_that_fails_leaves() -> None:
    order: list[str] = []
    told: list[str] = []

    def measure(name: str) -> float:
        order.append(name)
        if name == "b" and order.count("b") == 2:
            raise Failed("b is tired")
        return float(len(order))

    found = interleave(
        {name: lambda name=name: measure(name) for name in "abc"},
        3,
        lambda name, error: told.append(f"{name}: {error}"),
    )
    assert order == list("abcabcac")
    assert told == ["b: b is tired"]
    assert list(found) == ["a", "c"] and len(found["a"]) == 3
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 3.0, "rounds": [3.0, 1.0, 2.0]}


def test_bytes_of_a_token_by_hand(tiny: Path) -> None:
    """Layer 0 is dense; a layer of experts reads 2 of its 8, the shared one, the router; the head is tied."""
    config, rows = load.SMALL, 10
    hidden, latent = config.hidden_size, config.kv_lora_rank
    heads, key = config.num_attention_heads, config.qk_head_dim
    attention = hidden * (heads * key + latent + config.qk_rope_head_dim)
    attention += latent * heads * (config.qk_nope_head_dim + config.v_head_dim) + heads * config.v_head_dim * hidden
    expert = 3 * hidden * config.moe_intermediate_size
    bf16 = 3 * attention + 3 * hidden * config.intermediate_size + 2 * (expert + config.n_routed_experts * hidden)
    bf16 += config.vocab_size * hidden
    by_hand = 2 * bf16 + 2 * config.num_experts_per_tok * expert * (4 + 16 / 32) / 8 + rows * 100
    counted = limit.Stored.of(tiny).bytes_per_token(1, rows, 100)
    assert counted == pytest.approx(by_hand, rel=0.03)  # norms, biases and the row of the embedding come on top


@pytest.mark.parametrize("kind", ["decode", "prefill"])
def test_speed_with_every_peer_that_is_here(kind: speed.Kind, tiny: Path, tmp_path: Path) -> None:
    report = speed.measure(plan(kind, tiny, tmp_path))
    here = {
        "openk2",
        *(n for n, package in (("llama.cpp", "llama_cpp"), ("transformers", "torch")) if find_spec(package)),
    }
    assert {row["system"] for row in report.rows} == here, report.left_out
    for row in report.rows:
        assert row["tokens_per_second"]["median"] > 0 and len(row["tokens_per_second"]["rounds"]) == 2
        assert row["share"] == pytest.approx(row["tokens_per_second"]["median"] / row["limit_tokens_per_second"])
        assert row["system"] == "openk2" or row["difference"] < 0.1  # the same network
    assert json.loads(json.dumps(report.to_json()))["bench"] == kind


def test_a_peer_that_is_missing_or_ends_is_said_and_left_out(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from openk2.bench.systems import KNOWN, Known

    broken = tmp_path / "ends_at_once.py"
    broken.write_text("raise SystemExit(3)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setitem(KNOWN, "ends", Known("ends_at_once", "numpy", "own"))
    monkeypatch.setitem(KNOWN, "absent", Known("nowhere", "no_such_package", "own"))
    report = speed.measure(plan("decode", tiny, tmp_path, peers=("ends", "absent"), batch=(1,)))
    assert [row["system"] for row in report.rows] == ["openk2"]
    assert any("absent is not installed" in said for said in report.left_out)
    assert any("ends" in said and "absent" not in said for said in report.left_out)
    with pytest.raises(UserError, match="There is no peer vllm"):
        speed.measure(plan("decode", tiny, tmp_path, peers=("vllm",)))


def test_a_session_reads_each_token_once(tiny: Path) -> None:
    values = {row["what"]: row["value"] for row in session.measure(tiny, 30).rows}
    assert np.isclose(values["tokens computed for each of them"], 1, atol=0.005)
    assert values["logits after it identical"]
    blocks = 30 * 64 // 128 + 1
    assert values["cache of 8 forks, relative to one"] < 1 + 9 / blocks  # each writes to a block of its own


@pytest.mark.parametrize(
    "command",
    [["load", "--seconds", "0.5", "--clients", "4"], ["parser", "--count", "300"], ["grammar", "--rounds", "1"]],
    ids=lambda command: command[0],
)
def test_commands(command: list[str], tmp_path: Path) -> None:
    out = tmp_path / "found" / "report.json"
    done = CliRunner().invoke(k2, ["bench", *command, "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    report = json.loads(out.read_text())
    assert report["bench"] == command[0] and report["rows"] and not report["failed"]


def test_bad_numbers_are_a_sentence() -> None:
    with pytest.raises(UserError, match="--threads takes numbers from 1 on"):
        CliRunner().invoke(k2, ["bench", "decode", "--threads", "two"], catch_exceptions=False)
