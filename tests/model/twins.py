"""Tiny random networks of every shape the family has, for parity tests."""

from __future__ import annotations

from typing import Any

import torch

from openk2.model.config import ModelConfig
from openk2.model.transformer import Transformer

_TINY: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96,
    "moe_intermediate_size": 32, "n_routed_experts": 8, "num_experts_per_tok": 2, "vocab_size": 128,
    "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 24,
    "routed_scaling_factor": 1.7, "max_position_embeddings": 256,
}  # fmt: skip
_YARN = {
    "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 32.0, "beta_slow": 1.0,
    "mscale": 1.0, "mscale_all_dim": 1.0,
}  # fmt: skip

TWINS: dict[str, dict[str, Any]] = {
    "plain": {},
    "q_lora": {"q_lora_rank": 40},
    "yarn": {"rope_scaling": _YARN},
    "kimi_yarn": {"q_lora_rank": 40, "rope_scaling": {**_YARN, "factor": 16.0, "beta_fast": 1.0}},
    "two_dense": {"first_k_dense_replace": 2},
    "two_shared": {"n_shared_experts": 2},
    "groups": {"n_group": 4, "topk_group": 2, "num_experts_per_tok": 3},
    "tied": {"tie_word_embeddings": True},
}


def config(name: str, **overrides: Any) -> ModelConfig:
    return ModelConfig(**{**_TINY, **TWINS[name], **overrides})


def network(name: str, dtype: torch.dtype = torch.float32, **overrides: Any) -> Transformer:
    """A twin with weights large enough for every part to matter, and uneven selection biases."""
    model = Transformer(config(name, **overrides), dtype)
    model.initialise(1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
            else:
                parameter.mul_(5)
        for moe in model.moe_layers():
            bias = moe.gate.e_score_correction_bias
            bias.copy_(torch.randn(bias.shape, generator=generator) * 0.1)
    return model
