"""What a network is: every field of the DeepSeek-V3 architecture that Kimi K2 uses, named as in Hugging Face.

Presets hold the published values; `from_depth(n)` is the one dial for a small model of the same family.
No torch: the engine, the command line and the trainer all read the same description.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openk2.errors import UserError

_YARN_K2: dict[str, Any] = {
    "type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096,
    "beta_fast": 1.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
}  # fmt: skip

# INT4 of the routed experts only, as Kimi K2 Thinking is published (compressed-tensors, pack-quantized). One pattern
# more than Kimi's: the router, which is not a Linear there but may be one elsewhere.
INT4_CONFIG: dict[str, Any] = {
    "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
    "kv_cache_scheme": None,
    "config_groups": {"group_0": {
        "targets": ["Linear"], "input_activations": None, "output_activations": None,
        "weights": {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32,
                    "dynamic": False, "actorder": None, "block_structure": None, "observer": "minmax",
                    "observer_kwargs": {}},
    }},
    "ignore": ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*",
               r"re:.*mlp\.(gate|up|gate_up|down)_proj.*"],
}  # fmt: skip


# Of the norms inside attention: DeepSeek's code, transformers and vLLM all ignore rms_norm_eps there.
LATENT_EPS = 1e-6


@dataclass(frozen=True)
class Count:
    """Parameters by part. `active`: touched by one token, with both embedding and head matrices."""

    embedding: int
    head: int
    attention: int
    dense: int
    router: int
    shared: int
    routed: int
    norms: int
    total: int
    active: int


@dataclass(frozen=True)
class ModelConfig:
    """One network. Sizes are in elements; the defaults are those every member of the family shares."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    moe_intermediate_size: int
    n_routed_experts: int
    num_experts_per_tok: int
    vocab_size: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    q_lora_rank: int | None = None
    n_shared_experts: int = 1
    first_k_dense_replace: int = 1
    moe_layer_freq: int = 1
    n_group: int = 1
    topk_group: int = 1
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.0
    topk_method: str = "noaux_tc"
    scoring_func: str = "sigmoid"
    seq_aux: bool = True
    aux_loss_alpha: float = 0.001
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    rope_theta: float = 50000.0
    rope_scaling: dict[str, Any] | None = None
    max_position_embeddings: int = 4096
    attention_bias: bool = False
    attention_dropout: float = 0.0
    tie_word_embeddings: bool = False
    num_nextn_predict_layers: int = 0
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    quantization_config: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.num_experts_per_tok > self.n_routed_experts:
            raise UserError(
                f"The configuration asks for {self.num_experts_per_tok} experts a token but has only "
                f"{self.n_routed_experts}; lower num_experts_per_tok."
            )
        if self.n_routed_experts % self.n_group:
            raise UserError(f"{self.n_routed_experts} experts do not divide into n_group={self.n_group} groups.")

    @property
    def qk_head_dim(self) -> int:
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def softmax_scale(self) -> float:
        """1/sqrt(qk_head_dim), times m^2 under YaRN with m = 0.1*mscale_all_dim*ln(factor) + 1 (DeepSeek-V3)."""
        scale = self.qk_head_dim**-0.5
        if self.rope_scaling and self.rope_scaling.get("mscale_all_dim"):
            factor = float(self.rope_scaling["factor"])
            scale *= _yarn_mscale(factor, float(self.rope_scaling["mscale_all_dim"])) ** 2
        return scale

    def rope_frequencies(self) -> tuple[np.ndarray, float]:
        """Inverse frequencies [qk_rope_head_dim/2] (float64, radians a position) and the multiplier of cos and sin.

        YaRN (arXiv 2309.00071): dimensions that turn often keep their frequency, slow ones are divided by `factor`,
        with a linear ramp between the dimensions that make beta_fast and beta_slow turns over the original context.
        """
        dim = self.qk_rope_head_dim
        inverse = self.rope_theta ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
        scaling = self.rope_scaling
        if not scaling:
            return inverse, 1.0
        kind = scaling.get("rope_type", scaling.get("type"))
        if kind == "default":
            return inverse, 1.0
        if kind != "yarn":
            raise UserError(f"rope_scaling of type {kind!r} is not supported; use yarn or none.")
        factor = float(scaling["factor"])
        original = float(scaling.get("original_max_position_embeddings") or self.max_position_embeddings)

        def dimension(turns: float) -> float:
            return dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(self.rope_theta))

        low = max(math.floor(dimension(float(scaling.get("beta_fast") or 32))), 0)
        high = min(math.ceil(dimension(float(scaling.get("beta_slow") or 1))), dim - 1)
        ramp = np.clip((np.arange(dim // 2) - low) / max(high - low, 0.001), 0, 1)
        inverse = inverse / factor * ramp + inverse * (1 - ramp)
        mscale, mscale_all = scaling.get("mscale"), scaling.get("mscale_all_dim")
        if mscale and mscale_all:
            multiplier = _yarn_mscale(factor, float(mscale)) / _yarn_mscale(factor, float(mscale_all))
        else:
            multiplier = float(scaling.get("attention_factor") or _yarn_mscale(factor, 1.0))
        return inverse, multiplier

    def is_moe(self, layer: int) -> bool:
        """Whether layer `layer` (from 0) is a mixture of experts."""
        return layer >= self.first_k_dense_replace and layer % self.moe_layer_freq == 0

    def moe_layers(self) -> int:
        return sum(self.is_moe(layer) for layer in range(self.num_hidden_layers))

    def count(self) -> Count:
        """Parameters by part (router biases and norms included); a tied head counts once in total and active."""
        h, heads, layers, moe = self.hidden_size, self.num_attention_heads, self.num_hidden_layers, self.moe_layers()
        queries = heads * self.qk_head_dim
        q = h * queries if self.q_lora_rank is None else self.q_lora_rank * (h + queries)
        kv = h * (self.kv_lora_rank + self.qk_rope_head_dim)
        kv += self.kv_lora_rank * heads * (self.qk_nope_head_dim + self.v_head_dim)
        attention = layers * (q + kv + heads * self.v_head_dim * h)
        norms = layers * (2 * h + self.kv_lora_rank + (self.q_lora_rank or 0)) + h
        expert = 3 * h * self.moe_intermediate_size
        embedding = self.vocab_size * h
        head = 0 if self.tie_word_embeddings else embedding
        dense = (layers - moe) * 3 * h * self.intermediate_size
        router = moe * self.n_routed_experts * (h + 1)
        shared, routed = moe * expert * self.n_shared_experts, moe * expert * self.n_routed_experts
        rest = embedding + head + attention + dense + router + shared + norms
        return Count(
            embedding, head, attention, dense, router, shared, routed, norms,
            total=rest + routed, active=rest + moe * expert * self.num_experts_per_tok,
        )  # fmt: skip

    def cache_bytes_per_token(self, bytes_per_value: int = 2) -> int:
        """Latent cache of one position: the compressed keys and values and the shared rotary key of every layer."""
        return (self.kv_lora_rank + self.qk_rope_head_dim) * bytes_per_value * self.num_hidden_layers

    def to_hf(self) -> dict[str, Any]:
        """config.json for `model_type: deepseek_v3`, which transformers, vLLM and SGLang load without remote code."""
        data = dataclasses.asdict(self)
        if data["quantization_config"] is None:
            del data["quantization_config"]
        data["num_key_value_heads"] = self.num_attention_heads
        data["rope_interleave"] = True
        head = {"architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "torch_dtype": "bfloat16"}
        return head | data

    @classmethod
    def from_hf(cls, data: dict[str, Any]) -> ModelConfig:
        """Read a config.json dict (deepseek_v3, kimi_k2, or one with a text_config). Raises UserError on a gap."""
        data = {**data, **(data.get("text_config") or {})}
        rope = data.get("rope_parameters") or {}
        if rope and not data.get("rope_scaling") and rope.get("rope_type", "default") != "default":
            data["rope_scaling"] = {k: v for k, v in rope.items() if k != "rope_theta"}
        data.setdefault("rope_theta", rope.get("rope_theta", 10000.0))
        names = {field.name for field in dataclasses.fields(cls)}
        required = {f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING}
        if missing := sorted(required - data.keys()):
            raise UserError(f"config.json lacks {', '.join(missing)}; is it a DeepSeek-V3 or Kimi K2 model?")
        try:
            return cls(**{name: value for name, value in data.items() if name in names})
        except (TypeError, ZeroDivisionError) as error:
            raise UserError(f"config.json holds a value that fits no model ({error}); restore it.") from None

    @classmethod
    def from_folder(cls, path: str | Path) -> ModelConfig:
        """The configuration of a checkpoint folder. Raises UserError when there is none or it cannot be read."""
        file = Path(path) / "config.json"
        if not file.exists():
            raise UserError(f"{path} has no config.json; give the folder of a checkpoint.")
        return cls.from_hf(read_object(file))

    @classmethod
    def preset(cls, name: str) -> ModelConfig:
        """A published model by name. Raises UserError naming the known ones."""
        if name not in PRESETS:
            raise UserError(f"There is no preset {name!r}; the presets are {', '.join(PRESETS)}.")
        return PRESETS[name]

    @classmethod
    def from_depth(cls, n: int, vocab_size: int = 4096, **overrides: Any) -> ModelConfig:
        """A small model of the family from one dial: n layers, width 32n, n/2 heads, 16 experts top-2 and one shared.

        The head is tied to the embedding: a token that attention copies forward is then recognised by the head with
        no further learning, for every token of the vocabulary, also those never copied in training. n=8 is nano.
        """
        if not 2 <= n <= 1000:
            raise UserError(f"A depth of {n} is too {'small' if n < 2 else 'large'}; use 2 to 1000.")
        values: dict[str, Any] = {
            "hidden_size": 32 * n, "num_hidden_layers": n, "num_attention_heads": max(1, n // 2),
            "intermediate_size": 64 * n, "moe_intermediate_size": 16 * n,
            "n_routed_experts": 16, "num_experts_per_tok": 2, "n_shared_experts": 1, "vocab_size": vocab_size,
            "kv_lora_rank": max(32, 16 * n), "qk_nope_head_dim": 32, "qk_rope_head_dim": 32, "v_head_dim": 64,
            "tie_word_embeddings": True,
            # Rows of length 1: with 0.02 a small tied head cannot tell a copied token from the others for long.
            "initializer_range": round((32 * n) ** -0.5, 4),
        }  # fmt: skip
        values |= overrides
        values.setdefault(
            "routed_scaling_factor", router_scale(values["n_routed_experts"], values["num_experts_per_tok"])
        )
        return cls(**values)


def read_object(file: Path) -> dict[str, Any]:
    """A file that holds one JSON object. Raises UserError when it does not."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}); restore it from the original.") from None
    if not isinstance(data, dict):
        raise UserError(f"{file} is not one JSON object; restore it from the original.")
    return data


def _yarn_mscale(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


@functools.cache
def router_scale(experts: int, per_token: int) -> float:
    """E[1/sqrt(sum p^2)] for the renormalised top-k of sigmoid(N(0,1)) scores, from 20,000 draws of a fixed seed.

    It makes the routed sum as large as one expert's output (Moonlight, arXiv 2502.16982, Figure 6): 2.827 for
    Kimi K2's (384, 8) and 2.446 for Moonlight's (64, 6).
    """
    logits = np.random.default_rng(0).standard_normal((20000, experts))
    top = np.sort(1 / (1 + np.exp(-logits)), axis=1)[:, -per_token:]
    top /= top.sum(axis=1, keepdims=True)
    return round(float((1 / np.sqrt((top**2).sum(axis=1))).mean()), 3)


_K2 = ModelConfig(
    hidden_size=7168, num_hidden_layers=61, num_attention_heads=64, intermediate_size=18432,
    moe_intermediate_size=2048, n_routed_experts=384, num_experts_per_tok=8, n_shared_experts=1, vocab_size=163840,
    kv_lora_rank=512, q_lora_rank=1536, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128,
    routed_scaling_factor=2.827, rms_norm_eps=1e-6, rope_scaling=_YARN_K2, max_position_embeddings=131072,
    bos_token_id=163584, eos_token_id=163585, pad_token_id=163839,
)  # fmt: skip

PRESETS: dict[str, ModelConfig] = {
    "kimi-k2": _K2,
    "kimi-k2-thinking": dataclasses.replace(
        _K2, rms_norm_eps=1e-5, rope_scaling={**_YARN_K2, "factor": 64.0}, max_position_embeddings=262144,
        eos_token_id=163586, quantization_config=INT4_CONFIG,
    ),
    "moonlight-16b-a3b": ModelConfig(
        hidden_size=2048, num_hidden_layers=27, num_attention_heads=16, intermediate_size=11264,
        moe_intermediate_size=1408, n_routed_experts=64, num_experts_per_tok=6, n_shared_experts=2,
        vocab_size=163840, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128,
        routed_scaling_factor=2.446, max_position_embeddings=8192,
        bos_token_id=163584, eos_token_id=163585, pad_token_id=163839,
    ),
}  # fmt: skip
