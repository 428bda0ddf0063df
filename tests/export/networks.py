"""Small random networks that llama.cpp's deepseek2 can be: their widths divide into its blocks of 32."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from openk2.model.config import ModelConfig
from openk2.model.convert import RandomSource, convert

CONFIG = ModelConfig(
    hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96, moe_intermediate_size=32,
    n_routed_experts=8, num_experts_per_tok=3, vocab_size=128, kv_lora_rank=32, qk_nope_head_dim=32,
    qk_rope_head_dim=16, v_head_dim=32, routed_scaling_factor=1.7, rms_norm_eps=1e-6, max_position_embeddings=256,
    initializer_range=0.2, bos_token_id=0, eos_token_id=1,
)  # fmt: skip
YARN: dict[str, Any] = {"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32, "beta_fast": 32.0,
                        "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {}, "q_lora": {"q_lora_rank": 32}, "yarn": {"rope_scaling": YARN}, "tied": {"tie_word_embeddings": True},
    "groups": {"n_group": 4, "topk_group": 2}, "two_dense": {"first_k_dense_replace": 2},
    "two_shared": {"n_shared_experts": 2}, "unnormed": {"norm_topk_prob": False},
}  # fmt: skip


class Uneven(RandomSource):
    """Random weights with norms and selection biases that matter."""

    def rows(self, name: str, first: int, last: int) -> np.ndarray:
        values = super().rows(name, first, last)
        if values.ndim == 1:
            values = values + self._generator(name, first).standard_normal(len(values)).astype(np.float32) * 0.2
        return values


def made(folder: Path, form: str, **changes: Any) -> ModelConfig:
    config = dataclasses.replace(CONFIG, **changes)
    convert(Uneven(config, 3), folder, form)
    return config
