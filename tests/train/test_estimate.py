"""Estimates against published runs, counted FLOPs and measured bytes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from openk2.cli.train import command
from openk2.errors import UserError
from openk2.model.attention import Packing
from openk2.model.config import ModelConfig
from openk2.model.transformer import Transformer
from openk2.optim.muon import MuonAdamW, parameter_groups
from openk2.train.devices import Device, choose, device, parse_devices, peak_flops
from openk2.train.estimate import (
    Layout,
    activations,
    estimate,
    expected_loss,
    flops_per_token,
    joint_law,
    memory,
    states,
)

K2 = ModelConfig.preset("kimi-k2")
SMALL = ModelConfig.from_depth(4, vocab_size=512)
# DeepSeek-V3, arXiv 2412.19437 §4.2 and its config.json.
DEEPSEEK_V3 = dataclasses.replace(
    K2, num_attention_heads=128, n_routed_experts=256, first_k_dense_replace=3, vocab_size=129280, n_group=8,
    topk_group=4, routed_scaling_factor=2.5,
)  # fmt: skip


def test_published_sizes_of_k2() -> None:
    count = K2.count()  # arXiv 2507.20534 table 2: 1.04T, 32.6B active
    assert count.total == pytest.approx(1.04e12, rel=0.015)
    assert count.active == pytest.approx(32.6e9, rel=0.015)


def test_k2s_own_run() -> None:
    run = estimate(K2, 15.5e12, device("H800"), Layout(dp=16, ep=16, pp=16, zero=1), batch=67_000_000)
    assert run["flops"] == pytest.approx(6 * 32.6e9 * 15.5e12, rel=0.06)
    assert run["steps"] == pytest.approx(231e3, rel=0.01)
    # §2.4: bf16 weights and float32 gradients take about 6 TB; over 256 GPUs all states are about 30 GB each.
    assert 6 * K2.count().total == pytest.approx(6e12, rel=0.05)
    own = states(K2, Layout(dp=128, ep=16, pp=16, zero=1))
    assert own["weights"] + own["gradients"] == pytest.approx(28e9, rel=0.03)  # attention is there 16 times
    assert sum(own.values()) == pytest.approx(30e9, rel=0.1)
    assert run["price"] == 2.0 and run["cost"] == pytest.approx(run["device_hours"] * 2)


def test_deepseek_v3s_published_gpu_hours() -> None:
    count = DEEPSEEK_V3.count()
    assert count.total == pytest.approx(671e9, rel=0.002)
    assert count.active == pytest.approx(37e9, rel=0.02)
    # 180 thousand H800 hours a trillion tokens, of 4,096 (table 1): 39% of the bf16 peak.
    flops = flops_per_token(DEEPSEEK_V3, 4096) * 1e12
    assert flops / (180e3 * 3600 * device("H800").flops) == pytest.approx(0.39, abs=0.01)


def test_flops_are_those_that_torch_counts_in_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    from torch.utils.flop_counter import FlopCounterMode

    c = dataclasses.replace(SMALL, tie_word_embeddings=False, q_lora_rank=48)
    values = {k: v for k, v in c.to_hf().items() if k not in ("architectures", "model_type", "torch_dtype")}
    hf = transformers.DeepseekV3Config(**values, attn_implementation="eager", experts_implementation="eager")
    twin = transformers.DeepseekV3ForCausalLM(hf)
    length = 96
    ids = torch.arange(length)[None] % c.vocab_size
    with FlopCounterMode(display=False) as counter:
        twin(ids, use_cache=False).logits.float().logsumexp(-1).sum().backward()
    # transformers multiplies the masked half too: as many keys as causal documents of twice the length have on average.
    assert counter.get_total_flops() == pytest.approx(flops_per_token(c, 2 * length - 1) * length, rel=0.005)
    assert flops_per_token(c, length, own=0.0) == pytest.approx(
        flops_per_token(c, length) - 6 * c.vocab_size * c.hidden_size
    )


@pytest.mark.parametrize("tied", [True, False])
def test_states_are_the_measured_bytes(tied: bool) -> None:
    c = dataclasses.replace(SMALL, tie_word_embeddings=tied)
    model, optimizer = _stepped(c)
    parameters = list(model.parameters())
    measured = {
        "weights": _bytes(parameters), "gradients": _bytes([p.grad for p in parameters if p.grad is not None]),
        "optimizer": _bytes([v for s in optimizer.state.values() for v in s.values() if isinstance(v, Tensor)]),
    }  # fmt: skip
    assert measured == states(c, Layout())
    spread = states(c, Layout(dp=4, ep=2))
    assert all(4 * spread[kind] == measured[kind] for kind in measured)


def test_activations_are_the_measured_bytes() -> None:
    c, length, documents = SMALL, 256, 4
    model = Transformer(c)
    model.initialise(0)
    ids = torch.randint(0, c.vocab_size, (length * documents,))
    rows = torch.tensor([i for i in range(length * documents) if i % length])
    kept: dict[int, int] = {}
    ours = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in ours:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        loss = model.loss(ids, Packing([length] * documents), rows)
    expected = memory(c, Layout(), len(ids), length, flash=False)
    head = 4 * c.vocab_size * c.hidden_size  # the gradient of the head is kept; its bf16 copy and the logits are not
    assert sum(kept.values()) == pytest.approx(expected["activations"] + expected["copies"] + head, rel=0.15)
    assert loss.isfinite()
    whole, less = (activations(K2, 4096, checkpointing=on, flash=True) for on in (False, True))
    assert less < whole / 5


def test_the_joint_law_is_its_papers_table_4() -> None:
    c = dataclasses.replace(SMALL, n_routed_experts=64, num_experts_per_tok=8)  # eight times as many as are used
    active, tokens = c.count().active, 2e10
    law = expected_loss(c, tokens)[0]
    assert law["loss"] == pytest.approx(21.833 * active**-0.1676 + 119.9126 * tokens**-0.2338 + 1.3637, rel=1e-3)
    assert not law["inside"]  # so few parameters were not in it
    middle = ModelConfig.from_depth(24, vocab_size=50257)
    assert all(law["inside"] for law in expected_loss(middle, 1e10))
    assert not any(law["inside"] for law in expected_loss(middle, 1e13))
    assert not expected_loss(SMALL, 1e6)  # below both laws: no value is better than a wrong one


def test_the_joint_law_has_k2s_gain_from_sparsity() -> None:
    """arXiv 2507.20534 §2.3: 48 times the experts in use take 1.69, 1.39, 1.15 times fewer FLOPs than 8, 16, 32."""

    def best(flops: float, ratio: float) -> float:
        return min(joint_law(active, flops / 6 / active, ratio) for active in (10 ** (8 + i / 40) for i in range(120)))

    target = best(1e21, 48)
    for ratio, published in ((8, 1.69), (16, 1.39), (32, 1.15)):
        factor = next(1 + i / 100 for i in range(200) if best(1e21 * (1 + i / 100), ratio) <= target)
        assert factor == pytest.approx(published, rel=0.2)


def test_more_of_anything_lowers_the_expected_loss() -> None:
    base = ModelConfig.preset("moonlight-16b-a3b")
    wider = dataclasses.replace(base, n_routed_experts=128)
    for law in (0, 1):
        assert expected_loss(base, 2e12)[law]["loss"] < expected_loss(base, 1e12)[law]["loss"]
        assert expected_loss(wider, 1e12)[law]["loss"] < expected_loss(base, 1e12)[law]["loss"]


def test_devices() -> None:
    assert parse_devices("256xH800") == (256, "H800") and parse_devices("h100") == (1, "h100")
    assert device("b200").name == "B200"
    assert peak_flops("cpu") == peak_flops(torch.device("cpu")) > 1e9
    assert choose("cpu").type == "cpu" and isinstance(choose(), torch.device)
    for bad in ("0xH100", "8 boxes of H100", ""):
        with pytest.raises(UserError, match="no number of devices"):
            parse_devices(bad)
    with pytest.raises(UserError, match="use cpu, or one of"):
        device("TPU")
    with pytest.raises(UserError, match="auto or cpu"):
        choose("cuda:99")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["kimi-k2", "--tokens", "many"], "is not an amount"),
        (["kimi-k3", "--tokens", "1T"], "presets are"),
        (["kimi-k2", "--tokens", "1T", "--gpus", "8xZZ"], "no device"),
        (["kimi-k2", "--tokens", "1T", "--gpus", "8xH100", "--ep", "3"], "do not divide"),
        (["kimi-k2", "--tokens", "1T", "--gpus", "10xH100", "--ep", "5"], "384 experts do not divide"),
        (["kimi-k2", "--tokens", "1T", "--gpus", "8xH100", "--pp", "2"], "needs --zero 1"),
        (["kimi-k2", "--tokens", "1T", "--gpus", "9xH100", "--pp", "2"], "do not divide into --pp"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], sentence: str) -> None:
    result = CliRunner().invoke(command, ["estimate", *arguments])
    assert isinstance(result.exception, UserError) and sentence in str(result.exception)


def test_the_command_prints_a_table_and_json() -> None:
    arguments = ["estimate", "kimi-k2", "--tokens", "15.5T", "--gpus", "256xH800", "--batch", "67M"]
    table = CliRunner().invoke(command, arguments)
    assert table.exit_code == 0 and "1.03T" in table.output and "does not fit" in table.output
    data = json.loads(CliRunner().invoke(command, [*arguments, "--json", "--price", "1"]).output)
    assert data["layout"] == {"dp": 256, "ep": 8, "pp": 1, "zero": 3}
    assert data["memory_total"] == sum(data["memory"].values()) and data["cost"] == pytest.approx(data["device_hours"])
    fast = estimate(K2, 1e12, Device("X", 1e15, 1e15, 1e12, None, ""), Layout(), mfu=0.4)
    assert fast["cost"] is None and fast["hours"]["at"] < fast["hours"]["high"]


def _stepped(config: ModelConfig) -> tuple[Transformer, MuonAdamW]:
    model = Transformer(config)
    model.initialise(0)
    optimizer = MuonAdamW(parameter_groups(model))
    # Every expert must be met: a parameter without a gradient would have no state.
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    return model, optimizer


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
