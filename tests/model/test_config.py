"""Configurations: published figures, round trips, and errors a person can act on. Nothing here needs torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from openk2.cli.model import command, describe
from openk2.errors import UserError
from openk2.model.checkpoint import Stored, load, save
from openk2.model.config import PRESETS, ModelConfig, router_scale


def test_kimi_k2_thinking_has_its_published_size() -> None:
    data = describe("kimi-k2-thinking")
    assert data["parameters"]["total"] == pytest.approx(1.026e12, rel=1e-3)
    assert data["parameters"]["active"] == pytest.approx(32.86e9, rel=1e-3)
    assert data["bytes"]["total"] == pytest.approx(594e9, rel=2e-3)
    assert data["cache_bytes_per_token"] == 70_272
    assert ModelConfig.preset("moonlight-16b-a3b").count().total == pytest.approx(15.96e9, rel=1e-3)


def test_router_scale_reproduces_the_published_constants() -> None:
    assert router_scale(384, 8) == pytest.approx(2.827, abs=0.002)
    assert router_scale(64, 6) == pytest.approx(2.446, abs=0.002)


def test_softmax_scale_and_frequencies_under_yarn() -> None:
    thinking = ModelConfig.preset("kimi-k2-thinking")
    assert thinking.softmax_scale == pytest.approx(0.144680, abs=1e-6)
    assert ModelConfig.preset("kimi-k2").softmax_scale == pytest.approx(0.130861, abs=1e-6)
    inverse, multiplier = thinking.rope_frequencies()
    plain = 50000.0 ** (-np.arange(0, 64, 2) / 64)
    assert multiplier == 1 and np.allclose(inverse[:20], plain[:20]) and np.allclose(inverse[20:], plain[20:] / 64)


@pytest.mark.parametrize("name", PRESETS)
def test_hf_round_trip(name: str) -> None:
    config = ModelConfig.preset(name)
    data = json.loads(json.dumps(config.to_hf()))
    assert data["model_type"] == "deepseek_v3" and ModelConfig.from_hf(data) == config
    assert ModelConfig.from_hf({"model_type": "kimi_k25", "text_config": data}) == config


def test_depth_is_the_one_dial() -> None:
    nano = ModelConfig.from_depth(8, vocab_size=4096)
    assert (nano.hidden_size, nano.num_hidden_layers, nano.num_attention_heads) == (256, 8, 4)
    assert nano.count().total < 16e6 and ModelConfig.from_depth(12).count().total > nano.count().total
    with pytest.raises(UserError, match="too small"):
        ModelConfig.from_depth(1)
    with pytest.raises(UserError, match="too large"):
        ModelConfig.from_depth(10**11)


def test_bad_configurations_are_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="presets are kimi-k2"):
        ModelConfig.preset("gpt")
    with pytest.raises(UserError, match=r"no config\.json"):
        ModelConfig.from_folder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        ModelConfig.from_folder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="lacks hidden_size"):
        ModelConfig.from_folder(tmp_path)
    for text, says in (("[]", "not one JSON object"), ('{"text_config": null}', "lacks hidden_size")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match=says):
            ModelConfig.from_folder(tmp_path)
    whole = ModelConfig.from_depth(4).to_hf()
    for wrong in ({"num_experts_per_tok": "two"}, {"n_group": 0}):
        with pytest.raises(UserError, match="fits no model"):
            ModelConfig.from_hf(whole | wrong)
    with pytest.raises(UserError, match="neither a checkpoint folder"):
        describe(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="not supported"):
        ModelConfig.from_depth(4, rope_scaling={"type": "linear", "factor": 2}).rope_frequencies()


def checkpoint(folder: Path) -> dict[str, Stored]:
    rng = np.random.default_rng(0)
    tensors = {
        "model.embed_tokens.weight": Stored.bf16(rng.standard_normal((6, 4), np.float32)),
        "model.layers.1.mlp.experts.0.up_proj.weight_packed": Stored.of(rng.integers(-9, 9, (3, 2)).astype(np.int32)),
        "model.layers.1.mlp.gate.e_score_correction_bias": Stored.of(rng.standard_normal(5).astype(np.float32)),
        "odd.weight_shape": Stored.of(np.array([3, 16], np.int64)),
        "odd.bytes": Stored.of(np.arange(3, dtype=np.uint8)),
    }
    save(folder, ModelConfig.from_depth(4), tensors, profile={"system": "Hello"})
    return tensors


def test_a_checkpoint_reads_back_and_others_can_read_it(tmp_path: Path) -> None:
    tensors = checkpoint(tmp_path)
    again = load(tmp_path)
    assert again.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert again[name].dtype == tensor.dtype and np.array_equal(again[name].bits, tensor.bits)
    from safetensors import safe_open

    with safe_open(tmp_path / "model.safetensors", framework="numpy") as file:
        assert np.array_equal(file.get_tensor("odd.weight_shape"), [3, 16])
        assert file.metadata() == {"format": "pt"}
    assert ModelConfig.from_folder(tmp_path) == ModelConfig.from_depth(4)
    assert json.loads((tmp_path / "openk2.json").read_text()) == {"system": "Hello"}
    assert describe(str(tmp_path))["bytes"]["measured"]


def test_a_broken_checkpoint_is_told_in_a_sentence(tmp_path: Path) -> None:
    checkpoint(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match="cut short"):
        load(tmp_path)
    headers = (b"[1]", b'{"a": 1}', b'{"a": {}}', b"{")
    for data in (b"", b"\xff" * 40, *(len(text).to_bytes(8, "little") + text for text in headers)):
        file.write_bytes(data)
        with pytest.raises(UserError, match="cannot be read"):
            load(tmp_path)
    file.unlink()
    with pytest.raises(UserError, match=r"no \.safetensors"):
        load(tmp_path)
    with pytest.raises(UserError, match="could not be written"):
        save(tmp_path / "config.json" / "below", ModelConfig.from_depth(4), {})


def test_bf16_rounds_to_nearest_even() -> None:
    values = np.array([1.0, 1.00390625, 1.01171875, -3.1415927, 1e-40, 3.4e38], np.float32)
    assert Stored.bf16(values).float32()[:3].tolist() == [1.0, 1.0, 1.015625]
    torch = pytest.importorskip("torch")
    many = np.random.default_rng(1).standard_normal(10_000).astype(np.float32)
    assert np.array_equal(Stored.bf16(many).float32(), torch.from_numpy(many).bfloat16().float().numpy())


def test_info_needs_no_torch_and_prints() -> None:
    from click.testing import CliRunner

    result = CliRunner().invoke(command, ["info", "kimi-k2"])
    assert result.exit_code == 0 and "1.026T" in result.output and "2.053 TB" in result.output
    code = (
        "import sys\nfrom openk2.cli.model import command\n"
        "command.main(['info', 'kimi-k2', '--json'], standalone_mode=False)\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
