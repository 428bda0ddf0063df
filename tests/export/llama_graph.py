"""llama.cpp's deepseek2 in numpy, from its reading of a GGUF file: what its loader and graph do, restated as an oracle.

Written from its sources (src/models/deepseek2.cpp, llama-context.cpp, ggml's rope_yarn); only what a file can express.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np


class LlamaGraph:
    def __init__(self, path: Path) -> None:
        reader = gguf.GGUFReader(path)
        self.keys: dict[str, Any] = {field.name: field.contents() for field in reader.fields.values()}
        self.tensors = {
            t.name: gguf.quants.dequantize(t.data, t.tensor_type).reshape(tuple(int(n) for n in t.shape[::-1]))
            for t in reader.tensors
        }
        self.kinds = {t.name: t.tensor_type.name for t in reader.tensors}

    def key(self, name: str, default: Any = None) -> Any:
        found = self.keys.get(f"deepseek2.{name}", default)
        assert found is not None, name
        return found

    def logits(self, ids: list[int]) -> np.ndarray:
        """[tokens, vocabulary]"""
        x = self.tensors["token_embd.weight"][ids].astype(np.float64)
        layers = self.key("block_count")
        lite = layers in (26, 27)
        self.low_rank = 0 if lite else self.key("attention.q_lora_rank")
        for layer in range(layers):
            x = x + self._attention(layer, self._norm(x, self._at(layer, "attn_norm")))
            x = x + self._feed_forward(layer, self._norm(x, self._at(layer, "ffn_norm")))
        head = self.tensors.get("output.weight", self.tensors["token_embd.weight"])
        return self._norm(x, self.tensors["output_norm.weight"]) @ head.T

    def _at(self, layer: int, name: str, suffix: str = "weight") -> np.ndarray:
        return self.tensors[f"blk.{layer}.{name}.{suffix}"].astype(np.float64)

    def _norm(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.key("attention.layer_norm_rms_epsilon")) * weight

    def _attention(self, layer: int, x: np.ndarray) -> np.ndarray:
        heads, latent, rope = (
            self.key("attention.head_count"),
            self.key("attention.kv_lora_rank"),
            self.key("rope.dimension_count"),
        )
        width = self.key("attention.key_length_mla")
        if self.low_rank:
            q = (
                self._norm(x @ self._at(layer, "attn_q_a").T, self._at(layer, "attn_q_a_norm"))
                @ self._at(layer, "attn_q_b").T
            )
        else:
            q = x @ self._at(layer, "attn_q").T
        q = q.reshape(len(x), heads, width)
        both = x @ self._at(layer, "attn_kv_a_mqa").T
        c = self._norm(both[:, :latent], self._at(layer, "attn_kv_a_norm"))
        k_pe = self._rope(both[:, None, latent:])[:, 0]
        q_pe = self._rope(q[:, :, width - rope :])
        absorbed = np.einsum("thn,hcn->thc", q[:, :, : width - rope], self._at(layer, "attn_k_b"))
        scores = np.einsum("thc,sc->hts", absorbed, c) + np.einsum("thr,sr->hts", q_pe, k_pe)
        factor, log_mul = self._factor(), self.key("rope.scaling.yarn_log_multiplier", 0.0) / 0.1
        scores *= (1 + 0.1 * log_mul * math.log(factor)) ** 2 / math.sqrt(width)
        scores = np.where(np.tri(len(x), dtype=bool), scores, -np.inf)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        out = np.einsum("hts,sc,hvc->thv", p, c, self._at(layer, "attn_v_b"))
        return out.reshape(len(x), -1) @ self._at(layer, "attn_output").T

    def _factor(self) -> float:
        return self.keys.get("deepseek2.rope.scaling.factor", 1.0)

    def _rope(self, x: np.ndarray) -> np.ndarray:
        """Neighbouring pairs; YaRN's ramp with beta 32 and 1, all that the loader knows of deepseek2."""
        dim, base = x.shape[-1], self.key("rope.freq_base")
        theta = np.arange(len(x))[:, None] * base ** (-np.arange(0, dim, 2) / dim)
        if self.keys.get("deepseek2.rope.scaling.type") == "yarn":
            original = self.key("rope.scaling.original_context_length")
            ends = [dim * math.log(original / (beta * 2 * math.pi)) / (2 * math.log(base)) for beta in (32, 1)]
            low, high = max(0, math.floor(ends[0])), min(dim - 1, math.ceil(ends[1]))
            mix = 1 - np.clip((np.arange(dim // 2) - low) / max(0.001, high - low), 0, 1)
            theta = theta / self._factor() * (1 - mix) + theta * mix
        # With mscale equal to mscale_all_dim attn_factor is 1 / (1 + 0.1 ln factor), which ggml multiplies away.
        cos, sin = np.cos(theta)[:, None], np.sin(theta)[:, None]
        even, odd = x[..., ::2], x[..., 1::2]
        return np.stack((even * cos - odd * sin, even * sin + odd * cos), -1).reshape(x.shape)

    def _swiglu(self, x: np.ndarray, gate: np.ndarray, up: np.ndarray, down: np.ndarray) -> np.ndarray:
        g = x @ gate.T
        return (g / (1 + np.exp(-g)) * (x @ up.T)) @ down.T

    def _feed_forward(self, layer: int, x: np.ndarray) -> np.ndarray:
        parts = ("gate", "up", "down")
        if layer < self.key("leading_dense_block_count"):
            return self._swiglu(x, *(self._at(layer, f"ffn_{part}") for part in parts))
        assert self.key("expert_gating_func") == 2
        probs = 1 / (1 + np.exp(-(x @ self._at(layer, "ffn_gate_inp").T)))
        chosen = probs + self._at(layer, "exp_probs_b", "bias")
        groups, used = self.key("expert_group_count"), self.key("expert_group_used_count")
        if groups > 1:
            by_group = chosen.reshape(len(x), groups, -1)
            best = np.argsort(-np.sort(by_group, -1)[..., -2:].sum(-1), -1)[:, :used]
            kept = np.full_like(by_group, -np.inf)
            np.put_along_axis(kept, best[..., None], np.take_along_axis(by_group, best[..., None], 1), 1)
            chosen = kept.reshape(len(x), -1)
        top = np.argsort(-chosen, -1)[:, : self.key("expert_used_count")]
        weight = np.take_along_axis(probs, top, -1)
        if self.key("expert_weights_norm", False):
            weight /= np.maximum(weight.sum(-1, keepdims=True), 6.103515625e-5)
        weight *= self.key("expert_weights_scale")
        out = self._swiglu(x, *(self._at(layer, f"ffn_{part}_shexp") for part in parts))
        stacks = [self._at(layer, f"ffn_{part}_exps") for part in parts]
        for token in range(len(x)):
            for slot, expert in enumerate(top[token]):
                out[token] += weight[token, slot] * self._swiglu(x[token], *(stack[expert] for stack in stacks))
        return out
