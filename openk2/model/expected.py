"""What a checkpoint of a configuration must hold: name and shape of every weight, in each form it may be stored in.

Forms of a matrix X.weight [out, in]: plain (BF16, F16, F32, F64); block-FP8 (X.weight and X.weight_scale_inv, one
factor for each 128x128 block, as DeepSeek-V3 and Kimi K2 Instruct); INT4 (X.weight_packed, X.weight_scale,
X.weight_shape: compressed-tensors' pack-quantized, as Kimi K2 Thinking's routed experts).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from openk2.errors import UserError
from openk2.model.config import ModelConfig
from openk2.model.safetensors import Entry
from openk2.quant import fp8, packing

PLAIN = ("BF16", "F16", "F32", "F64")
BIAS = "e_score_correction_bias"
EXPERT = re.compile(r"\.mlp\.experts\.\d+\.(gate|up|down)_proj\.weight$")
_LAYER = re.compile(r"model\.layers\.(\d+)\.")
# Left unread by name: what older code saved of the rotary embedding, and the eyes of the multimodal releases.
_EXTRA = re.compile(r"\.rotary_emb\.inv_freq$|^(vision_tower|mm_projector|multi_modal_projector)\.")
_SHOWN = 3


def weights(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every weight, in the order in which a forward pass meets them (expert by expert)."""
    hidden, heads, latent = config.hidden_size, config.num_attention_heads, config.kv_lora_rank
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config.vocab_size, hidden)}

    def swiglu(prefix: str, width: int) -> None:
        found[f"{prefix}.gate_proj.weight"] = found[f"{prefix}.up_proj.weight"] = (width, hidden)
        found[f"{prefix}.down_proj.weight"] = (hidden, width)

    for layer in range(config.num_hidden_layers):
        at = f"model.layers.{layer}"
        attention = f"{at}.self_attn"
        found[f"{at}.input_layernorm.weight"] = (hidden,)
        queries = heads * config.qk_head_dim
        if config.q_lora_rank is None:
            found[f"{attention}.q_proj.weight"] = (queries, hidden)
        else:
            found[f"{attention}.q_a_proj.weight"] = (config.q_lora_rank, hidden)
            found[f"{attention}.q_a_layernorm.weight"] = (config.q_lora_rank,)
            found[f"{attention}.q_b_proj.weight"] = (queries, config.q_lora_rank)
        found[f"{attention}.kv_a_proj_with_mqa.weight"] = (latent + config.qk_rope_head_dim, hidden)
        found[f"{attention}.kv_a_layernorm.weight"] = (latent,)
        found[f"{attention}.kv_b_proj.weight"] = (heads * (config.qk_nope_head_dim + config.v_head_dim), latent)
        found[f"{attention}.o_proj.weight"] = (hidden, heads * config.v_head_dim)
        found[f"{at}.post_attention_layernorm.weight"] = (hidden,)
        if not config.is_moe(layer):
            swiglu(f"{at}.mlp", config.intermediate_size)
            continue
        found[f"{at}.mlp.gate.weight"] = (config.n_routed_experts, hidden)
        if config.topk_method == "noaux_tc":
            found[f"{at}.mlp.gate.{BIAS}"] = (config.n_routed_experts,)
        if config.n_shared_experts:
            swiglu(f"{at}.mlp.shared_experts", config.moe_intermediate_size * config.n_shared_experts)
        for expert in range(config.n_routed_experts):
            swiglu(f"{at}.mlp.experts.{expert}", config.moe_intermediate_size)
    found["model.norm.weight"] = (hidden,)
    if not config.tie_word_embeddings:
        found["lm_head.weight"] = (config.vocab_size, hidden)
    return found


def int4_settings(config: ModelConfig) -> dict[str, Any] | None:
    """The settings of a configuration's INT4 weights; None where it has none. Raises UserError for another INT4."""
    quantised = config.quantization_config
    if not quantised or quantised.get("quant_method") == "fp8":
        return None
    groups = list((quantised.get("config_groups") or {}).values())
    settings = (groups[0].get("weights") or {}) if len(groups) == 1 and isinstance(groups[0], dict) else {}
    read = {
        "quant_method": quantised.get("quant_method") == "compressed-tensors",
        "format": quantised.get("format") == "pack-quantized",
        "num_bits": settings.get("num_bits") == 4,
        "type": settings.get("type") == "int",
        "symmetric": settings.get("symmetric") is True,
        "strategy": settings.get("strategy") in ("group", "channel"),
        "actorder": not settings.get("actorder"),
    }
    if wrong := [name for name, right in read.items() if not right]:
        raise UserError(
            f"config.json's quantization_config is of a kind openk2 cannot read (see its {wrong[0]}): it reads "
            "block-FP8, and symmetric INT4 of compressed-tensors, pack-quantized; convert the checkpoint to bf16."
        )
    return settings


def storage(config: ModelConfig) -> str:
    """What the routed experts of a configuration are stored in: int4, fp8 or bf16."""
    if int4_settings(config):
        return "int4"
    return "fp8" if config.quantization_config else "bf16"


def block(config: ModelConfig) -> tuple[int, int]:
    """Rows and columns of one factor of block-FP8."""
    rows, columns = (config.quantization_config or {}).get("weight_block_size") or fp8.BLOCK
    return int(rows), int(columns)


def check(found: Mapping[str, Entry], config: ModelConfig) -> None:
    """Raises one UserError naming files and tensors when something is missing, misshapen, of a wrong type or too much.

    Layers for multi-token prediction, saved rotary frequencies and the vision tower are left unread by name.
    """
    if config.attention_bias:
        raise UserError("This checkpoint has attention biases, which no model of the Kimi K2 family has.")
    settings = int4_settings(config) or {}
    left, missing, wrong = set(found), [], []
    for name, shape in weights(config).items():
        parts = _parts(found, name, shape, settings, block(config))
        for part, (dtypes, right) in parts.items():
            entry = found.get(part)
            if entry is None:
                missing.append(part)
                continue
            left.discard(part)
            if entry.shape != right:
                wrong.append(f"{entry.file.name}: {part} is {list(entry.shape)}, config.json says {list(right)}")
            elif entry.dtype not in dtypes:
                wrong.append(f"{entry.file.name}: {part} is {entry.dtype}, must be {' or '.join(dtypes)}")
    if config.tie_word_embeddings:
        left.discard("lm_head.weight")  # the same matrix again
    unexpected = sorted(f"{found[name].file.name}: {name}" for name in left if not _ignored(name, config))
    for problems, sentence in (
        (missing, "The checkpoint lacks {}; it is incomplete, copy or download it again."),
        (wrong, "The checkpoint is damaged or not of its config.json: {}; restore both from the original."),
        (unexpected, "The checkpoint holds what its config.json knows nothing of: {}; use the right config.json."),
    ):
        if problems:
            rest = f" and {len(problems) - _SHOWN:,} more" if len(problems) > _SHOWN else ""
            raise UserError(sentence.format("; ".join(problems[:_SHOWN]) + rest))


def _parts(
    found: Mapping[str, Entry], name: str, shape: tuple[int, ...], int4: dict[str, Any], fp8_block: tuple[int, int]
) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
    """What stores a weight, in the form in which the checkpoint has it: name -> types it may have, and its shape."""
    if f"{name}_packed" in found and len(shape) == 2:
        rows, columns = shape
        group = columns if int4.get("strategy") == "channel" else int4.get("group_size") or packing.GROUP
        return {
            f"{name}_packed": (("I32",), (rows, math.ceil(columns / 8))),
            f"{name}_scale": (("BF16", "F16", "F32"), (rows, math.ceil(columns / group))),
            f"{name}_shape": (("I64", "I32"), (2,)),
        }
    entry = found.get(name)
    if entry and entry.dtype == "F8_E4M3" and len(shape) == 2:
        factors = (math.ceil(shape[0] / fp8_block[0]), math.ceil(shape[1] / fp8_block[1]))
        return {name: (("F8_E4M3",), shape), f"{name}_scale_inv": (("F32", "BF16"), factors)}
    return {name: (PLAIN, shape)}


def _ignored(name: str, config: ModelConfig) -> bool:
    layer = _LAYER.match(name)
    if layer and 0 <= int(layer[1]) - config.num_hidden_layers < config.num_nextn_predict_layers:
        return True
    return bool(_EXTRA.search(name))
