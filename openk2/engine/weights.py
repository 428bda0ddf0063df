"""The weights of a checkpoint as the numpy forward wants them: fp32, fused, norms folded in, experts unpacked lazily.

Legend: H hidden size, A attention heads, N qk_nope_head_dim, R qk_rope_head_dim, V v_head_dim, C kv_lora_rank,
Q q_lora_rank, E routed experts, I expert width. Matrices keep Hugging Face's [out, in] order.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from openk2.engine.tensors import Tensors
from openk2.errors import UserError
from openk2.model.config import ModelConfig

EXPERT_CACHE_BYTES = 2 << 30


class Expert(NamedTuple):
    """One SwiGLU: gate_up [2I, H] (gate rows first) and down [H, I], float32."""

    gate_up: np.ndarray
    down: np.ndarray


@dataclass(slots=True)
class Attention:
    """First projection, queries, and kv_b split by head.

    `first` [(A(N+R) or Q) + R + C, H]: queries (all nope, then all rope) or their latent; then the shared rope key and
    the key-value latent. `q_b` [A(N+R), Q] or None. `k_up` [A, N, C], `v_up` [A, C, V], `out` [H, AV].
    The input norm is folded into `first`, the latent norms into `q_b`, `k_up` and `v_up`, the softmax scale into
    whatever makes the queries.
    """

    first: np.ndarray
    q_b: np.ndarray | None
    k_up: np.ndarray
    v_up: np.ndarray
    out: np.ndarray


@dataclass(slots=True)
class Router:
    """weight [E, H] and the selection-only bias [E]."""

    weight: np.ndarray
    bias: np.ndarray


@dataclass(slots=True)
class Layer:
    """`always`: the dense feed-forward, or the shared experts as `n_shared_experts` of a routed expert's width."""

    attention: Attention
    norm: np.ndarray
    router: Router | None
    always: list[Expert]


class Weights:
    """All layers, the embedding [vocab, H], the last norm [H] and the head [vocab, H]."""

    def __init__(self, config: ModelConfig, tensors: Tensors, expert_cache_bytes: int = EXPERT_CACHE_BYTES) -> None:
        if config.attention_bias:
            raise UserError("This checkpoint has attention biases, which no model of the Kimi K2 family has.")
        self._config = config
        self._tensors = tensors
        self._experts: OrderedDict[tuple[int, int], Expert] = OrderedDict()
        self._expert_bytes = 12 * config.hidden_size * config.moe_intermediate_size
        self._lock = threading.Lock()
        self._max_experts = max(1, expert_cache_bytes // self._expert_bytes)
        self.embedding = self._get("model.embed_tokens.weight", config.vocab_size, config.hidden_size)
        self.norm = self._get("model.norm.weight", config.hidden_size)
        tied = config.tie_word_embeddings or "lm_head.weight" not in tensors
        self.head = self.embedding if tied else self._get("lm_head.weight", *self.embedding.shape)
        self.layers = [self._layer(i) for i in range(config.num_hidden_layers)]

    @classmethod
    def load(cls, folder: str | Path, config: ModelConfig) -> Weights:
        """Read a checkpoint folder. Raises UserError when a tensor is missing or of another shape than the config."""
        return cls(config, Tensors(folder))

    def expert(self, layer: int, index: int) -> Expert:
        """A routed expert in float32; the least recently used ones make room beyond the cache's size."""
        key = (layer, index)
        found = self._experts.get(key)
        if found is not None and len(self._experts) < self._max_experts:
            return found
        with self._lock:  # sessions may run in several threads
            found = self._experts.pop(key, None) or self._swiglu(f"model.layers.{layer}.mlp.experts.{index}.")
            while len(self._experts) >= self._max_experts:
                self._experts.popitem(last=False)
            self._experts[key] = found
        return found

    def _layer(self, index: int) -> Layer:
        config, name = self._config, f"model.layers.{index}."
        router = None
        if config.is_moe(index):
            gate = self._get(name + "mlp.gate.weight", config.n_routed_experts, config.hidden_size)
            router = Router(gate, self._get(name + "mlp.gate.e_score_correction_bias", config.n_routed_experts))
            shared = config.n_shared_experts
            always = _split(self._swiglu(name + "mlp.shared_experts."), shared) if shared else []
        else:
            always = [self._swiglu(name + "mlp.")]
        norm = self._get(name + "post_attention_layernorm.weight", config.hidden_size)
        return Layer(self._attention(name), norm, router, always)

    def _attention(self, name: str) -> Attention:
        config = self._config
        heads, nope, rope = config.num_attention_heads, config.qk_nope_head_dim, config.qk_rope_head_dim
        hidden, latent, value = config.hidden_size, config.kv_lora_rank, config.v_head_dim
        norm = self._get(name + "input_layernorm.weight", hidden)
        prefix = name + "self_attn."
        kv_a = self._get(prefix + "kv_a_proj_with_mqa.weight", latent + rope, hidden)
        kv_norm = self._get(prefix + "kv_a_layernorm.weight", latent)
        kv_b = self._get(prefix + "kv_b_proj.weight", heads * (nope + value), latent) * kv_norm
        kv_b = kv_b.reshape(heads, nope + value, latent)
        if config.q_lora_rank is None:
            first, q_b = self._queries(prefix + "q_proj.weight", hidden), None
        else:
            first = self._get(prefix + "q_a_proj.weight", config.q_lora_rank, hidden)
            q_norm = self._get(prefix + "q_a_layernorm.weight", config.q_lora_rank)
            q_b = self._queries(prefix + "q_b_proj.weight", config.q_lora_rank) * q_norm
        return Attention(
            first=np.concatenate([first, kv_a[latent:], kv_a[:latent]]) * norm,
            q_b=q_b,
            k_up=np.ascontiguousarray(kv_b[:, :nope]),
            v_up=np.ascontiguousarray(kv_b[:, nope:].transpose(0, 2, 1)),
            out=self._get(prefix + "o_proj.weight", hidden, heads * value),
        )

    def _queries(self, name: str, width: int) -> np.ndarray:
        """A query projection with all nope rows before all rope rows, times the softmax scale."""
        config = self._config
        weight = self._get(name, config.num_attention_heads * config.qk_head_dim, width)
        by_head = weight.reshape(config.num_attention_heads, config.qk_head_dim, width)
        nope, rope = np.split(by_head, [config.qk_nope_head_dim], axis=1)
        ordered = np.concatenate([nope.reshape(-1, width), rope.reshape(-1, width)])
        return ordered * np.float32(config.softmax_scale)

    def _swiglu(self, prefix: str) -> Expert:
        gate, up, down = (self._tensors.float32(f"{prefix}{part}_proj.weight") for part in ("gate", "up", "down"))
        if not gate.shape == up.shape == down.T.shape or gate.shape[1] != self._config.hidden_size:
            raise UserError(f"{prefix}* has the wrong shapes for its config.json; the checkpoint is damaged.")
        return Expert(np.concatenate([gate, up]), down)

    def _get(self, name: str, *shape: int) -> np.ndarray:
        tensor = self._tensors.float32(name)
        if tensor.shape != shape:
            raise UserError(f"{name} is {tensor.shape}, config.json says {shape}; the checkpoint is damaged.")
        return tensor


def _split(whole: Expert, parts: int) -> list[Expert]:
    """A SwiGLU of width parts * I as `parts` of width I whose outputs add up to its own."""
    if parts == 1:
        return [whole]
    gate, up = np.split(whole.gate_up, 2)
    pieces = zip(np.split(gate, parts), np.split(up, parts), np.split(whole.down, parts, axis=1), strict=True)
    return [Expert(np.concatenate([g, u]), np.ascontiguousarray(d)) for g, u, d in pieces]
