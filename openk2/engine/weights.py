"""The weights of a checkpoint as it stores them: bf16 stays bf16, INT4 stays packed, all of it memory-mapped.

Nothing is unpacked here and no expert is read before it is used, so that loading takes neither time nor memory.
Legend: H hidden size, A attention heads, N qk_nope_head_dim, R qk_rope_head_dim, V v_head_dim, C kv_lora_rank,
Q q_lora_rank, E routed experts, I expert width. Matrices keep Hugging Face's [out, in] order.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from openk2.errors import UserError
from openk2.model.checkpoint import Checkpoint, Stored, load
from openk2.model.config import ModelConfig
from openk2.quant import packing


@dataclass(slots=True, frozen=True)
class Matrix:
    """A weight [out, in]: `bits` float32 [out, in], bf16 as uint16 [out, in], or INT4 as int32 [out, in/8].

    INT4 has `scale`, bf16 bits [out, in/group], with a group that is a multiple of 32.
    """

    bits: np.ndarray
    scale: np.ndarray | None
    shape: tuple[int, int]

    @property
    def group(self) -> int:
        """Inputs that share a scale; 0 where there are no scales."""
        return 0 if self.scale is None else self.shape[1] // self.scale.shape[1]

    def float32(self) -> np.ndarray:
        """The values, float32 [out, in]: a copy, unless they are stored so."""
        if self.scale is not None:
            return packing.dequantize(self.bits, Stored("BF16", self.scale).float32(), self.shape[1])
        return Stored("BF16", self.bits).float32() if self.bits.dtype == np.uint16 else self.bits


class Expert(NamedTuple):
    """One SwiGLU: gate and up [I, H], down [H, I]."""

    gate: Matrix
    up: Matrix
    down: Matrix


@dataclass(slots=True, frozen=True)
class Layer:
    """Norms are float32 vectors. With q_lora, `query_down` [Q, H] and `query_norm` [Q] come before `query` [A(N+R), Q].

    `latent` [C+R, H]: kv_a_proj_with_mqa. `key_value` [A(N+V), C]: kv_b_proj. `out` [H, AV]. `always`: the dense
    feed-forward or the shared experts, None where there are none. `router` [E, H], `bias` [E] and `experts` belong to
    a mixture of experts.
    """

    attention_norm: np.ndarray
    query_down: Matrix | None
    query_norm: np.ndarray | None
    query: Matrix
    latent: Matrix
    latent_norm: np.ndarray
    key_value: Matrix
    out: Matrix
    mlp_norm: np.ndarray
    always: Expert | None
    router: Matrix | None
    bias: np.ndarray | None
    experts: list[Expert]


class Weights:
    """All layers, the embedding [vocab, H], the last norm [H] and the head [vocab, H]."""

    def __init__(self, config: ModelConfig, stored: Checkpoint) -> None:
        if config.attention_bias:
            raise UserError("This checkpoint has attention biases, which no model of the Kimi K2 family has.")
        self._config = config
        self._stored = stored
        self.embedding = self._rows("model.embed_tokens.weight", config.vocab_size, config.hidden_size)
        self.norm = self._vector("model.norm.weight", config.hidden_size)
        tied = config.tie_word_embeddings or not stored.has_weight("lm_head.weight")
        self.head = self.embedding if tied else self._matrix("lm_head.weight", *self.embedding.shape)
        self.layers = [self._layer(i) for i in range(config.num_hidden_layers)]

    @classmethod
    def load(cls, folder: str | Path, config: ModelConfig) -> Weights:
        """Open a checkpoint folder. Raises UserError when a tensor is missing or of another shape than the config."""
        return cls(config, load(folder, config))

    def _layer(self, index: int) -> Layer:
        config, name = self._config, f"model.layers.{index}."
        hidden, latent, heads = config.hidden_size, config.kv_lora_rank, config.num_attention_heads
        attention, width, down, down_norm = name + "self_attn.", config.q_lora_rank, None, None
        if width is not None:
            down = self._matrix(attention + "q_a_proj.weight", width, hidden)
            down_norm = self._vector(attention + "q_a_layernorm.weight", width)
        query = attention + ("q_proj.weight" if width is None else "q_b_proj.weight")
        router, bias, experts, always = None, None, [], None
        if config.is_moe(index):
            router = self._matrix(name + "mlp.gate.weight", config.n_routed_experts, hidden)
            bias = self._vector(name + "mlp.gate.e_score_correction_bias", config.n_routed_experts)
            inner = config.moe_intermediate_size
            experts = [self._swiglu(f"{name}mlp.experts.{e}.", inner) for e in range(config.n_routed_experts)]
            if config.n_shared_experts:
                always = self._swiglu(name + "mlp.shared_experts.", inner * config.n_shared_experts)
        else:
            always = self._swiglu(name + "mlp.", config.intermediate_size)
        return Layer(
            attention_norm=self._vector(name + "input_layernorm.weight", hidden),
            query_down=down,
            query_norm=down_norm,
            query=self._matrix(query, heads * config.qk_head_dim, width or hidden),
            latent=self._matrix(attention + "kv_a_proj_with_mqa.weight", latent + config.qk_rope_head_dim, hidden),
            latent_norm=self._vector(attention + "kv_a_layernorm.weight", latent),
            key_value=self._rows(
                attention + "kv_b_proj.weight", heads * (config.qk_nope_head_dim + config.v_head_dim), latent
            ),
            out=self._matrix(attention + "o_proj.weight", hidden, heads * config.v_head_dim),
            mlp_norm=self._vector(name + "post_attention_layernorm.weight", hidden),
            always=always,
            router=router,
            bias=bias,
            experts=experts,
        )

    def _swiglu(self, prefix: str, inner: int) -> Expert:
        hidden = self._config.hidden_size
        gate, up = (self._matrix(f"{prefix}{part}_proj.weight", inner, hidden) for part in ("gate", "up"))
        return Expert(gate, up, self._matrix(f"{prefix}down_proj.weight", hidden, inner))

    def _vector(self, name: str, size: int) -> np.ndarray:
        return np.ascontiguousarray(self._checked(name, self._stored.weight(name), (size,)))

    def _matrix(self, name: str, rows: int, columns: int) -> Matrix:
        """As it is stored where kernels read that, else in float32."""
        stored, packed, scale = self._stored, f"{name}_packed", f"{name}_scale"
        if name not in stored and packed in stored and stored[scale].dtype == "BF16":
            words, scales = stored[packed].bits, stored[scale].bits
            groups = scales.shape[-1]
            even = columns % groups == 0 and columns // groups % packing.GROUP == 0
            if even and words.shape == (rows, columns // 8) and scales.shape == (rows, groups):
                return Matrix(words, scales, (rows, columns))
        return self._rows(name, rows, columns)

    def _rows(self, name: str, rows: int, columns: int) -> Matrix:
        """A matrix whose rows are read one by one: bf16 or float32."""
        stored = self._stored
        direct = name in stored and stored[name].dtype in ("BF16", "F32")
        bits = stored[name].bits if direct else stored.weight(name)
        return Matrix(self._checked(name, bits, (rows, columns)), None, (rows, columns))

    @staticmethod
    def _checked(name: str, tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        if tensor.shape != shape:
            raise UserError(f"{name} is {tensor.shape}, config.json says {shape}; the checkpoint is damaged.")
        return tensor
