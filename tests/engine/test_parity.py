"""The engine against transformers' DeepSeek-V3 on tiny random checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openk2.engine.cache import LatentCache
from openk2.engine.forward import Forward
from openk2.engine.kernels.native import Native
from openk2.engine.twin import Twin
from openk2.engine.weights import Weights
from openk2.model.config import ModelConfig

torch = pytest.importorskip("torch", reason="the oracle needs torch")
transformers = pytest.importorskip("transformers", reason="the oracle is transformers")

YARN = {
    "rope_type": "yarn", "rope_theta": 50000.0, "factor": 64.0, "original_max_position_embeddings": 32,
    "beta_fast": 1.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "q_lora": {"q_lora_rank": 24},
    "yarn": {"rope_parameters": YARN, "max_position_embeddings": 2048},
    "yarn_fast": {"rope_parameters": {**YARN, "beta_fast": 32.0, "factor": 8.0, "mscale": 0.7}},
    "groups": {"n_group": 4, "topk_group": 2},
    "two_shared_all_experts": {"n_shared_experts": 2, "num_experts_per_tok": 8, "norm_topk_prob": False},
    "no_dense_layer": {"first_k_dense_replace": 0},
    "tied": {"tie_word_embeddings": True},
}


def twin(folder: Path, dtype: Any = torch.float32, **changes: Any) -> Any:
    """A tiny random DeepseekV3ForCausalLM, saved to folder."""
    torch.manual_seed(0)
    values = {
        "vocab_size": 96, "hidden_size": 48, "intermediate_size": 80, "moe_intermediate_size": 32,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4, "n_shared_experts": 1,
        "n_routed_experts": 8, "num_experts_per_tok": 3, "routed_scaling_factor": 1.7, "kv_lora_rank": 32,
        "q_lora_rank": None, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 12, "n_group": 1,
        "topk_group": 1, "first_k_dense_replace": 1, "norm_topk_prob": True, "max_position_embeddings": 256,
        "rope_parameters": {"rope_type": "default", "rope_theta": 50000.0}, "rms_norm_eps": 1e-5,
        "initializer_range": 0.2,
    }  # fmt: skip
    config = transformers.DeepseekV3Config(**{**values, **changes}, attn_implementation="eager")
    model = transformers.DeepseekV3ForCausalLM(config).eval()
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if "norm" in name:
                tensor.uniform_(0.5, 1.5)
            elif "gate.weight" in name or "correction_bias" in name:
                tensor.normal_(std=0.3)
    model.to(dtype).save_pretrained(folder)
    return transformers.DeepseekV3ForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


@pytest.fixture(params=["twin", "kernels"])
def executor(request: pytest.FixtureRequest) -> Callable[[ModelConfig, Weights], Twin | Native]:
    if request.param == "twin":
        return Twin
    library = request.getfixturevalue("kernels")
    return lambda config, weights: Native(library, config, weights)


def difference(folder: Path, model: Any, pieces: list[int], executor: Callable[..., Any]) -> float:
    """The largest difference of any logit, with the ids appended in pieces of these sizes."""
    config = ModelConfig.from_folder(folder)
    weights = Weights.load(folder, config)
    forward = Forward(config, weights, executor(config, weights))
    ids = np.random.default_rng(1).integers(0, config.vocab_size, sum(pieces)).tolist()
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].numpy()
    cache = LatentCache(config.num_hidden_layers, config.kv_lora_rank + config.qk_rope_head_dim)
    got, start = [], 0
    for size in pieces:
        got.append(forward.logits(forward.run(ids[start : start + size], cache)))
        start += size
    assert np.abs(expected).max() > 1
    return float(np.abs(np.concatenate(got) - expected).max())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pieces", [[60], [1] * 60, [40, 1, 1, 17, 1]], ids=["prefill", "decode", "mixed"])
def test_logits_equal_transformers(tmp_path: Path, shape: str, pieces: list[int], executor: Callable[..., Any]) -> None:
    model = twin(tmp_path, **SHAPES[shape])
    assert difference(tmp_path, model, pieces, executor) < 1e-4


def test_bf16_weights(tmp_path: Path, executor: Callable[..., Any]) -> None:
    model = twin(tmp_path, torch.bfloat16, q_lora_rank=24)
    assert difference(tmp_path, model, [30, 1, 1], executor) < 1e-4


@pytest.mark.parametrize("pieces", [[700], [650, *[2] * 25]], ids=["expanded", "absorbed"])
def test_several_prefill_steps(tmp_path: Path, pieces: list[int], executor: Callable[..., Any]) -> None:
    model = twin(tmp_path, max_position_embeddings=1024)
    assert difference(tmp_path, model, pieces, executor) < 1e-4
