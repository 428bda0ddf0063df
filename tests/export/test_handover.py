"""What torchtitan and Megatron-Bridge read of our export: their published names, each given once and of their shape.

Neither can run here. Encoded from their sources: torchtitan/models/deepseek_v3/{state_dict_adapter,model}.py (its
kimi_k2_7 reads text models by the same); Megatron-Bridge, src/megatron/bridge/models/deepseek/{common,
deepseek_v3_bridge}.py and models/conversion/model_bridge.py (its kimi_bridge uses the same list), as of November 2026.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
from click.testing import CliRunner  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from torch import Tensor  # noqa: E402

from openk2.cli.model import command  # noqa: E402
from openk2.model.config import ModelConfig  # noqa: E402
from openk2.model.convert import RandomSource, convert  # noqa: E402
from openk2.train.export import export_run  # noqa: E402

PLAIN = ModelConfig.from_depth(3, vocab_size=96, n_routed_experts=4)
NETWORKS = {
    "tied": PLAIN,
    "q_lora": dataclasses.replace(
        PLAIN, q_lora_rank=32, tie_word_embeddings=False, first_k_dense_replace=2,
        rope_scaling={"type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "beta_fast": 1.0,
                      "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0},
    ),
}  # fmt: skip
Shapes = dict[str, tuple[int, ...]]


@pytest.fixture(scope="module", params=NETWORKS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelConfig, Path]:
    config, folder = NETWORKS[request.param], tmp_path_factory.mktemp("handover")
    convert(RandomSource(config, 1), folder / "source", "fp32")
    result = CliRunner().invoke(command, ["export", str(folder / "source"), str(folder / "out"), "--bf16", "--untie"])
    assert result.exit_code == 0, result.output
    return config, folder / "out"


def titan_parameters(c: ModelConfig) -> Shapes:
    """The parameters and buffers of torchtitan's model, by its own names."""
    h, heads, i, e = c.hidden_size, c.num_attention_heads, c.moe_intermediate_size, c.n_routed_experts
    found: Shapes = {
        "tok_embeddings.weight": (c.vocab_size, h),
        "norm.weight": (h,),
        "lm_head.weight": (c.vocab_size, h),
    }
    for layer in range(c.num_hidden_layers):
        at = f"layers.{layer}"
        found |= {
            f"{at}.attention_norm.weight": (h,), f"{at}.ffn_norm.weight": (h,),
            f"{at}.attention.wkv_a.weight": (c.kv_lora_rank + c.qk_rope_head_dim, h),
            f"{at}.attention.kv_norm.weight": (c.kv_lora_rank,),
            f"{at}.attention.wkv_b.weight": (heads * (c.qk_nope_head_dim + c.v_head_dim), c.kv_lora_rank),
            f"{at}.attention.wo.weight": (h, heads * c.v_head_dim),
        }  # fmt: skip
        if c.q_lora_rank:
            found[f"{at}.attention.wq_a.weight"] = (c.q_lora_rank, h)
            found[f"{at}.attention.q_norm.weight"] = (c.q_lora_rank,)
            found[f"{at}.attention.wq_b.weight"] = (heads * c.qk_head_dim, c.q_lora_rank)
        else:
            found[f"{at}.attention.wq.weight"] = (heads * c.qk_head_dim, h)
        if not c.is_moe(layer):
            wide = c.intermediate_size
            found |= {f"{at}.feed_forward.w{n}.weight": (h, wide) if n == 2 else (wide, h) for n in (1, 2, 3)}
            continue
        found |= {f"{at}.moe.experts.w{n}": (e, h, i) if n == 2 else (e, i, h) for n in (1, 2, 3)}
        shared = i * c.n_shared_experts
        found |= {f"{at}.moe.shared_experts.w{n}.weight": (h, shared) if n == 2 else (shared, h) for n in (1, 2, 3)}
        found |= {f"{at}.moe.router.gate.weight": (e, h), f"{at}.moe.expert_bias_E": (e,)}
    return found


TITAN = {
    "model.embed_tokens.weight": "tok_embeddings.weight", "model.norm.weight": "norm.weight",
    "lm_head.weight": "lm_head.weight", "input_layernorm.weight": "attention_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight", "self_attn.q_proj.weight": "attention.wq.weight",
    "self_attn.q_a_proj.weight": "attention.wq_a.weight", "self_attn.q_a_layernorm.weight": "attention.q_norm.weight",
    "self_attn.q_b_proj.weight": "attention.wq_b.weight",
    "self_attn.kv_a_proj_with_mqa.weight": "attention.wkv_a.weight",
    "self_attn.kv_a_layernorm.weight": "attention.kv_norm.weight",
    "self_attn.kv_b_proj.weight": "attention.wkv_b.weight", "self_attn.o_proj.weight": "attention.wo.weight",
    "mlp.gate_proj.weight": "feed_forward.w1.weight",
    "mlp.up_proj.weight": "feed_forward.w3.weight", "mlp.down_proj.weight": "feed_forward.w2.weight",
    "mlp.experts.{}.gate_proj.weight": "moe.experts.w1", "mlp.experts.{}.up_proj.weight": "moe.experts.w3",
    "mlp.experts.{}.down_proj.weight": "moe.experts.w2", "mlp.gate.weight": "moe.router.gate.weight",
    "mlp.gate.e_score_correction_bias": "moe.expert_bias_E",
    "mlp.shared_experts.gate_proj.weight": "moe.shared_experts.w1.weight",
    "mlp.shared_experts.up_proj.weight": "moe.shared_experts.w3.weight",
    "mlp.shared_experts.down_proj.weight": "moe.shared_experts.w2.weight",
}  # fmt: skip


def read_by_titan(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As its adapter: a layer's experts are stacked in order, and a name that is not in the map is a KeyError."""
    found: dict[str, Tensor] = {}
    stacks: dict[str, dict[int, Tensor]] = {}
    for name, tensor in tensors.items():
        inside = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", name)
        if not inside:
            found[TITAN[name]] = tensor
            continue
        layer, rest = inside.groups()
        expert = re.search(r"experts\.(\d+)\.", rest)
        key = f"layers.{layer}.{TITAN[re.sub(r'experts[.][0-9]+[.]', 'experts.{}.', rest)]}"
        if expert:
            stacks.setdefault(key, {})[int(expert[1])] = tensor
        else:
            found[key] = tensor
    return found | {key: torch.stack([rows[i] for i in sorted(rows)]) for key, rows in stacks.items()}


def test_torchtitan_finds_every_parameter(exported: tuple[ModelConfig, Path]) -> None:
    config, folder = exported
    read = read_by_titan(load_file(folder / "model.safetensors"))
    assert {name: tuple(tensor.shape) for name, tensor in read.items()} == titan_parameters(config)
    biases = [tensor for name, tensor in read.items() if name.endswith("expert_bias_E")]
    assert biases and all(b.dtype == torch.float32 for b in biases)
    if config.tie_word_embeddings:
        assert torch.equal(read["lm_head.weight"], read["tok_embeddings.weight"])


def megatron_parameters(c: ModelConfig) -> dict[str, tuple[list[str], tuple[int, ...]]]:
    """Megatron's parameters (Transformer Engine's layers, whole): the Hugging Face tensors of each, and its shape."""
    h, heads, i = c.hidden_size, c.num_attention_heads, c.moe_intermediate_size
    found = {
        "embedding.word_embeddings.weight": (["model.embed_tokens.weight"], (c.vocab_size, h)),
        "decoder.final_layernorm.weight": (["model.norm.weight"], (h,)),
        "output_layer.weight": (["lm_head.weight"], (c.vocab_size, h)),  # never shared for this model
    }

    def swiglu(to: str, suffix: str, source: str, width: int) -> None:
        pair = [f"{source}.gate_proj.weight", f"{source}.up_proj.weight"]
        found[f"{to}.linear_fc1.weight{suffix}"] = (pair, (2 * width, h))
        found[f"{to}.linear_fc2.weight{suffix}"] = ([f"{source}.down_proj.weight"], (h, width))

    for layer in range(c.num_hidden_layers):
        to, source = f"decoder.layers.{layer}", f"model.layers.{layer}"
        attention, own = f"{to}.self_attention", f"{source}.self_attn"
        queries = heads * c.qk_head_dim
        rows: dict[str, tuple[str, tuple[int, ...]]] = {
            f"{to}.input_layernorm.weight": (f"{source}.input_layernorm.weight", (h,)),
            f"{attention}.linear_kv_down_proj.weight": (
                f"{own}.kv_a_proj_with_mqa.weight", (c.kv_lora_rank + c.qk_rope_head_dim, h)),
            f"{attention}.linear_kv_up_proj.layer_norm_weight": (f"{own}.kv_a_layernorm.weight", (c.kv_lora_rank,)),
            f"{attention}.linear_kv_up_proj.weight": (
                f"{own}.kv_b_proj.weight", (heads * (c.qk_nope_head_dim + c.v_head_dim), c.kv_lora_rank)),
            f"{attention}.linear_proj.weight": (f"{own}.o_proj.weight", (h, heads * c.v_head_dim)),
        }  # fmt: skip
        if c.q_lora_rank:
            low = c.q_lora_rank
            rows[f"{attention}.linear_q_down_proj.weight"] = (f"{own}.q_a_proj.weight", (low, h))
            rows[f"{attention}.linear_q_up_proj.layer_norm_weight"] = (f"{own}.q_a_layernorm.weight", (low,))
            rows[f"{attention}.linear_q_up_proj.weight"] = (f"{own}.q_b_proj.weight", (queries, low))
        else:
            rows[f"{attention}.linear_q_proj.weight"] = (f"{own}.q_proj.weight", (queries, h))
        norm = "pre_mlp_layernorm.weight" if c.is_moe(layer) else "mlp.linear_fc1.layer_norm_weight"
        rows[f"{to}.{norm}"] = (f"{source}.post_attention_layernorm.weight", (h,))
        if c.is_moe(layer):
            rows[f"{to}.mlp.router.weight"] = (f"{source}.mlp.gate.weight", (c.n_routed_experts, h))
            rows[f"{to}.mlp.router.expert_bias"] = (
                f"{source}.mlp.gate.e_score_correction_bias", (c.n_routed_experts,))  # fmt: skip
            for expert in range(c.n_routed_experts):
                swiglu(f"{to}.mlp.experts", str(expert), f"{source}.mlp.experts.{expert}", i)
            swiglu(f"{to}.mlp.shared_experts", "", f"{source}.mlp.shared_experts", i * c.n_shared_experts)
        else:
            swiglu(f"{to}.mlp", "", f"{source}.mlp", c.intermediate_size)
        found |= {name: ([tensor], shape) for name, (tensor, shape) in rows.items()}
    return found


def test_megatron_bridge_finds_every_parameter(exported: tuple[ModelConfig, Path]) -> None:
    config, folder = exported
    tensors = load_file(folder / "model.safetensors")
    used: list[str] = []
    for name, (sources, shape) in megatron_parameters(config).items():
        whole = torch.cat([tensors[source] for source in sources])
        assert tuple(whole.shape) == shape, name
        used += sources
    assert sorted(used) == sorted(tensors)  # each once, and none that it would leave unread


def test_megatron_bridge_finds_the_description(exported: tuple[ModelConfig, Path]) -> None:
    config, folder = exported
    data = json.loads((folder / "config.json").read_text())
    assert data["architectures"] == ["DeepseekV3ForCausalLM"] and data["model_type"] == "deepseek_v3"
    # The bridge's CONFIG_MAPPING, and what its DeepSeek-V3 provider reads; a field that is missing keeps a default.
    fields = """num_hidden_layers hidden_size intermediate_size num_attention_heads vocab_size max_position_embeddings
        rms_norm_eps initializer_range attention_dropout attention_bias rope_theta num_experts_per_tok
        moe_intermediate_size aux_loss_alpha scoring_func n_routed_experts n_group topk_group routed_scaling_factor
        q_lora_rank kv_lora_rank qk_nope_head_dim qk_rope_head_dim v_head_dim num_nextn_predict_layers
        first_k_dense_replace n_shared_experts hidden_act"""
    assert all(data[field] == getattr(config, field) for field in fields.split())
    assert data["num_key_value_heads"] == config.num_attention_heads and data["tie_word_embeddings"] is False
    assert data["torch_dtype"] == "bfloat16" and data["moe_layer_freq"] == 1  # another would go unread
    if config.rope_scaling:
        read = ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")
        assert data["rope_scaling"]["type"] == "yarn" and all(key in data["rope_scaling"] for key in read)


def test_int4_is_not_for_them(tmp_path: Path) -> None:
    convert(
        RandomSource(dataclasses.replace(PLAIN, hidden_size=96, moe_intermediate_size=64), 1), tmp_path / "a", "int4"
    )
    tensors = load_file(tmp_path / "a" / "model.safetensors")
    with pytest.raises(KeyError, match=r"weight_(packed|shape|scale)"):
        read_by_titan(tensors)
    assert "lm_head.weight" not in tensors  # nor is a tied head


def test_a_head_of_its_own_changes_nothing_else(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    convert(RandomSource(PLAIN, 1), tmp_path / "a", "bf16")
    for name, flags in (("tied", []), ("untied", ["--untie"])):
        arguments = ["export", str(tmp_path / "a"), str(tmp_path / name), "--bf16", *flags]
        assert CliRunner().invoke(command, arguments).exit_code == 0
    tied, untied = (load_file(tmp_path / name / "model.safetensors") for name in ("tied", "untied"))
    assert untied.keys() - tied.keys() == {"lm_head.weight"}
    assert all(torch.equal(tied[name], untied[name]) for name in tied)
    export_run(tmp_path / "a", tmp_path / "run", int4=False, untie=True)  # the way that a training run goes
    assert load_file(tmp_path / "run" / "model.safetensors").keys() == untied.keys()
    ids = torch.arange(10)[None]
    logits = [
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=torch.float32)(ids).logits
        for name in ("tied", "untied")
    ]
    assert torch.equal(*logits)
