"""A run that goes wrong stops and says where; one that goes well is left alone."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest

from openk2.errors import UserError

pytest.importorskip("torch")
import torch
from test_training import metrics, run, shards, stage

from openk2.model.config import ModelConfig
from openk2.train.checkpoint import folders
from openk2.train.data import Source
from openk2.train.loop import Pace, build, train
from openk2.train.samples import greedy
from openk2.train.watch import Spikes, first_layer


def test_spikes_are_found_and_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    for scale in (0.01, 0.3):  # 12 runs of 2,000 steps, with heavy tails and a falling loss
        for _ in range(6):
            watch = Spikes()
            falling = 2 * np.exp(-np.arange(2000) / 300) + 1.5
            noise = scale * rng.standard_t(3, 2000)
            assert not [i for i, loss in enumerate(falling + noise) if watch.add(float(loss), 10.0) is not None]
    for start in (60, 500):
        watch = Spikes()
        losses = 2 + 0.05 * rng.standard_normal(start)
        assert all(watch.add(float(loss), 10.0) is None for loss in losses)
        assert watch.add(5.0, 10.0) is None and watch.add(2.0, 10.0) is None  # one hard batch
        assert [watch.add(5.0, 10.0) is None for _ in range(3)] == [True, True, False]
    assert all(Spikes([2.0] * 300).add(9.0, 0.0) is None for _ in range(5))  # 0: never


def test_a_spike_stops_the_run_before_which_a_state_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from openk2.train import loop

    data, out, calls = shards(tmp_path / "data"), tmp_path / "run", []
    real = loop.Workers.gradients

    def worse(self: loop.Workers, *given: object) -> tuple[float, float]:
        calls.append(1)
        loss, balance = real(self, *given)  # type: ignore[arg-type]
        return loss + 100 * (len(calls) > 60), balance

    monkeypatch.setattr(loop.Workers, "gradients", worse)
    run(data, out, stage(tokens=40_000), max_steps=55)
    with pytest.raises(
        UserError, match=r"rose to 10\d\.\d+ where \d\.\d+ was usual at step 63 .* is .*step-00000055\."
    ):
        run(data, out, stage(tokens=40_000))
    assert len(folders(out)) == 1 and metrics(out)[-1]["step"] == 62


def test_nan_says_which_layer_and_which_documents(tmp_path: Path) -> None:
    data, said = [Source(shards(tmp_path / "data"))], "first the weights model.norm.weight"
    model = build(ModelConfig.from_depth(2, vocab_size=64), 0)
    with torch.no_grad():
        model.model.norm.weight[0] = torch.nan
    with pytest.raises(UserError, match=said) as error:
        train(model, data, [stage()], tmp_path / "a", say=lambda line: None)
    assert "no state was saved" in str(error.value) and not folders(tmp_path / "a")
    known = json.loads((tmp_path / "a/stopped.json").read_text())
    assert known["step"] == 1 and known["stage"] == "pretrain" and known["weights"] == ["model.norm.weight"]
    assert len(known["documents"]) > 5 and all("part-" in name for name in known["documents"])


def test_the_first_layer_that_overflows_is_found(tmp_path: Path) -> None:
    model = build(ModelConfig.from_depth(4, vocab_size=64), 0)
    with torch.no_grad():
        model.model.layers[2].mlp.shared_experts.down_proj.weight *= 1e38  # type: ignore[union-attr]
        model.model.layers[2].mlp.shared_experts.up_proj.weight *= 1e30  # type: ignore[union-attr]
    with pytest.raises(UserError, match="first the output of layer 2"):
        train(model, [Source(shards(tmp_path / "data"))], [stage()], tmp_path / "run", say=lambda line: None)
    assert first_layer(build(ModelConfig.from_depth(2, vocab_size=64), 0), []) is None


def test_an_interrupt_ends_the_step_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if line.startswith("pretrain step      4"):
            signal.raise_signal(signal.SIGINT)

    model = build(ModelConfig.from_depth(2, vocab_size=64), 0)
    data = [Source(shards(tmp_path / "data"))]
    train(model, data, [stage()], tmp_path / "run", say=say, pace=Pace(log_every=2))
    assert folders(tmp_path / "run")[0].name in ("step-00000004", "step-00000005")
    assert said[-1].startswith("stopped at step") and said[-1].endswith("the same command goes on")


def test_greedy_continues_each_prompt_as_it_would_alone() -> None:
    model = build(ModelConfig.from_depth(2, vocab_size=64), 0)
    model.dtype = torch.float32
    prompts = [[1, 5, 9], [1, 7], [1, 8, 4, 4, 30]]
    together = greedy(model, prompts, 6, set())
    assert together == [greedy(model, [prompt], 6, set())[0] for prompt in prompts]
    assert all(len(said) == 6 for said in together)
    end = together[0][2]
    cut = greedy(model, prompts, 6, {end})[0]
    assert cut == together[0][: together[0].index(end)]
    assert model.training and not any(moe.load is not None for moe in model.moe_layers())
