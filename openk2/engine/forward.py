"""The DeepSeek-V3/Kimi K2 network in numpy, fp32: multi-head latent attention and a mixture of experts.

One token at a time, queries are moved into the latent space (absorbed attention), so that the cache is read as it is.
Many tokens at once expand the cached latents to keys and values instead when that is less work.
Legend: T tokens, S cached positions, H hidden, A heads, N nope, R rope, V value, C latent, E experts, I expert width.
Equations: DeepSeek-V2 (arXiv 2405.04434) section 2.1, DeepSeek-V3 (arXiv 2412.19437) section 2.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from openk2.engine.cache import LatentCache
from openk2.engine.weights import Attention, Expert, Layer, Weights
from openk2.model.config import LATENT_EPS, ModelConfig

CHUNK = 256  # tokens of one prefill step: longer ones multiply more of what the causal mask throws away
SCORE_BYTES = 64 << 20  # of one prefill step's attention scores


class Forward:
    """Stateless apart from weights and tables: what it knows of a text is in the cache it is given."""

    def __init__(self, config: ModelConfig, weights: Weights) -> None:
        self.config = config
        self.weights = weights
        self._angles, self._rope_multiplier = config.rope_frequencies()
        self._turns = np.empty((0, config.qk_rope_head_dim // 2), np.complex64)

    def run(self, ids: Sequence[int], cache: LatentCache) -> np.ndarray:
        """Append ids to the cache; return their last hidden states, normed, float32 [T, H]."""
        cache.reserve(cache.length + len(ids))
        self._reserve_turns(cache.length + len(ids))
        outputs = []
        done = 0
        with np.errstate(over="ignore", invalid="ignore"):  # exp(-x) of a large gate; NaN is told by the sampler
            while done < len(ids):
                longest = SCORE_BYTES // (4 * self.config.num_attention_heads * (cache.length + CHUNK))
                chunk = ids[done : done + max(1, min(CHUNK, longest))]
                x = self.weights.embedding[np.asarray(chunk)]
                outputs.append(self._token(x[0], cache)[None] if len(chunk) == 1 else self._tokens(x, cache))
                cache.length += len(chunk)
                done += len(chunk)
        return outputs[0] if len(outputs) == 1 else np.concatenate(outputs)

    def logits(self, hidden: np.ndarray) -> np.ndarray:
        """hidden [H] or [T, H] -> float32 [vocab] or [T, vocab]."""
        return self.weights.head.dot(hidden) if hidden.ndim == 1 else hidden @ self.weights.head.T

    # --- one token: vectors, as few numpy calls as possible -----------------------------------------------------

    def _token(self, x: np.ndarray, cache: LatentCache) -> np.ndarray:
        eps = self.config.rms_norm_eps
        for i, layer in enumerate(self.weights.layers):
            x = x + self._token_attention(x, layer.attention, cache.rows(i, cache.length + 1))
            h = x * _inverse_rms(x, eps) * layer.norm
            x = x + self._token_mlp(h, i, layer)
        return x * _inverse_rms(x, eps) * self.weights.norm

    def _token_attention(self, x: np.ndarray, attention: Attention, rows: np.ndarray) -> np.ndarray:
        """x [H], not normed; rows [S, C+R], whose last row this token fills."""
        config = self.config
        heads, nope, rope, latent = self._sizes()
        turn = self._turns[len(rows) - 1]
        first = attention.first.dot(x * _inverse_rms(x, config.rms_norm_eps))
        split = len(first) - latent - rope
        kv = first[split + rope :]
        np.multiply(kv, _inverse_rms(kv, LATENT_EPS), out=rows[-1, :latent])
        rows[-1, latent:] = (first[split : split + rope].view(np.complex64) * turn).view(np.float32)
        q = first[:split]
        if attention.q_b is not None:
            q = attention.q_b.dot(q * _inverse_rms(q, LATENT_EPS))
        absorbed = np.empty((heads, latent + rope), np.float32)
        q_nope, q_rope = q[: heads * nope].reshape(heads, 1, nope), q[heads * nope :]
        np.matmul(q_nope, attention.k_up, out=absorbed[:, None, :latent])
        absorbed[:, latent:] = (q_rope.view(np.complex64).reshape(heads, -1) * turn).view(np.float32)
        # Tall times narrow with contiguous operands: several times faster in OpenBLAS than the transposed product.
        scores = np.ascontiguousarray(rows.dot(np.ascontiguousarray(absorbed.T)).T)  # [A, S]
        scores -= np.maximum.reduce(scores, 1, keepdims=True)
        np.exp(scores, out=scores)
        mixed = scores @ rows[:, :latent]  # `.dot` would copy the strided rows
        mixed /= np.add.reduce(scores, 1, keepdims=True)
        return attention.out.dot(np.matmul(mixed[:, None], attention.v_up).reshape(-1))

    def _token_mlp(self, h: np.ndarray, index: int, layer: Layer) -> np.ndarray:
        """h [H], normed. All experts of the token side by side, so that their SwiGLU is one call each."""
        experts, mix = layer.always, None
        if layer.router is not None:
            scores = 1 / (1 + np.exp(-layer.router.weight.dot(h)))
            choice = self._choose((scores + layer.router.bias)[None])[0]
            routed = self._mix(scores[choice])
            experts = [*experts, *(self.weights.expert(index, e) for e in choice.tolist())]
            mix = np.concatenate([np.ones(len(layer.always), np.float32), routed])[:, None]
        gate_up = np.empty((len(experts), len(experts[0].gate_up)), np.float32)
        for row, expert in zip(gate_up, experts, strict=True):
            np.dot(expert.gate_up, h, out=row)
        active = _swiglu(gate_up)
        if mix is not None:
            active *= mix
        out = experts[0].down.dot(active[0])
        for row, expert in zip(active[1:], experts[1:], strict=True):
            out += expert.down.dot(row)
        return out

    # --- many tokens: matrices ------------------------------------------------------------------------------------

    def _tokens(self, x: np.ndarray, cache: LatentCache) -> np.ndarray:
        """x [T, H] -> [T, H], for T tokens that follow the cache."""
        eps = self.config.rms_norm_eps
        for i, layer in enumerate(self.weights.layers):
            x = x + self._tokens_attention(x, layer.attention, cache.rows(i, cache.length + len(x)))
            h = _normed(x, eps) * layer.norm
            x = x + self._tokens_mlp(h, i, layer)
        return _normed(x, eps) * self.weights.norm

    def _tokens_attention(self, x: np.ndarray, attention: Attention, rows: np.ndarray) -> np.ndarray:
        """x [T, H], not normed; rows [S, C+R], whose last T rows these tokens fill."""
        heads, nope, rope, latent = self._sizes()
        count, length = len(x), len(rows)
        past = length - count
        turns = self._turns[past:length]
        first = _normed(x, self.config.rms_norm_eps) @ attention.first.T
        split = first.shape[1] - latent - rope
        rows[past:, :latent] = _normed(first[:, split + rope :], LATENT_EPS)
        rows[past:, latent:] = _turned(first[:, split : split + rope], turns)
        q = first[:, :split]
        if attention.q_b is not None:
            q = _normed(q, LATENT_EPS) @ attention.q_b.T
        q_nope = q[:, : heads * nope].reshape(count, heads, nope).transpose(1, 0, 2)
        q_rope = _turned(q[:, heads * nope :].reshape(count, heads, rope), turns[:, None]).transpose(1, 0, 2)
        value = attention.v_up.shape[2]
        # Multiplications a head of both ways; they differ in where the latent dimension is paid for.
        expand = length * latent * (nope + value) + count * length * (nope + value)
        absorb = count * latent * (nope + value) + 2 * count * length * latent
        if expand < absorb:
            latents = rows[:, :latent]
            keys = latents @ attention.k_up.transpose(0, 2, 1)  # [A, S, N]
            scores = q_nope @ keys.transpose(0, 2, 1)
        else:
            scores = (q_nope @ attention.k_up) @ rows[:, :latent].T
        scores += q_rope @ rows[:, latent:].T  # [A, T, S]
        _mask_future(scores, past)
        scores -= np.maximum.reduce(scores, 2, keepdims=True)
        np.exp(scores, out=scores)
        total = np.add.reduce(scores, 2, keepdims=True)
        if expand < absorb:
            mixed = scores @ (rows[:, :latent] @ attention.v_up)  # [A, T, V]
        else:
            mixed = (scores @ rows[:, :latent]) @ attention.v_up
        mixed /= total
        return mixed.transpose(1, 0, 2).reshape(count, heads * value) @ attention.out.T

    def _tokens_mlp(self, h: np.ndarray, index: int, layer: Layer) -> np.ndarray:
        """h [T, H], normed. Each routed expert multiplies the rows of its own tokens."""
        out = np.zeros_like(h)
        for expert in layer.always:
            out += _feed(h, expert)
        if layer.router is None:
            return out
        scores = 1 / (1 + np.exp(-(h @ layer.router.weight.T)))
        choice = self._choose(scores + layer.router.bias)  # [T, k]
        mix = self._mix(np.take_along_axis(scores, choice, 1))
        flat = choice.reshape(-1)
        order = np.argsort(flat, kind="stable")
        borders = np.searchsorted(flat[order], np.arange(self.config.n_routed_experts + 1))
        tokens, weights = order // choice.shape[1], mix.reshape(-1)[order][:, None]
        for e in np.unique(flat).tolist():
            own = slice(borders[e], borders[e + 1])
            out[tokens[own]] += _feed(h[tokens[own]], self.weights.expert(index, e)) * weights[own]
        return out

    # --- shared ---------------------------------------------------------------------------------------------------

    def _choose(self, biased: np.ndarray) -> np.ndarray:
        """The experts [T, k] of the highest biased scores [T, E], within the best groups where there are groups.

        A group's score is the sum of its two highest (DeepSeek-V3 section 2.1.2). The bias only selects.
        """
        config = self.config
        if config.n_group > 1:
            grouped = biased.reshape(len(biased), config.n_group, -1)
            best_two = np.sort(grouped, axis=2)[:, :, -2:].sum(axis=2)
            dropped = np.argsort(-best_two, axis=1, kind="stable")[:, config.topk_group :]
            grouped = grouped.copy()
            np.put_along_axis(grouped, dropped[:, :, None], -np.inf, axis=1)
            biased = grouped.reshape(biased.shape)
        k = config.num_experts_per_tok
        return biased.argpartition(-k, axis=1)[:, -k:] if k < biased.shape[1] else np.argsort(biased, axis=1)

    def _mix(self, scores: np.ndarray) -> np.ndarray:
        """Weights [..., k] of the chosen experts from their unbiased scores."""
        if self.config.norm_topk_prob:
            scores = scores / (np.add.reduce(scores, -1, keepdims=True) + 1e-20)
        return scores * np.float32(self.config.routed_scaling_factor)

    def _sizes(self) -> tuple[int, int, int, int]:
        config = self.config
        return config.num_attention_heads, config.qk_nope_head_dim, config.qk_rope_head_dim, config.kv_lora_rank

    def _reserve_turns(self, length: int) -> None:
        """Rotations of positions 0..length-1 as complex numbers: pairs (x0, x1), (x2, x3), ... are multiplied."""
        if length > len(self._turns):
            positions = np.arange(max(length, 2 * len(self._turns), CHUNK), dtype=np.float64)
            angles = np.outer(positions, self._angles)
            self._turns = (self._rope_multiplier * np.exp(1j * angles)).astype(np.complex64)


def _inverse_rms(x: np.ndarray, eps: float) -> np.float32:
    return np.float32((x.dot(x) / len(x) + eps) ** -0.5)


def _normed(x: np.ndarray, eps: float) -> np.ndarray:
    """RMSNorm of the rows of x [T, d], its weight left out."""
    return x * ((np.einsum("td,td->t", x, x) / x.shape[1] + eps) ** -0.5)[:, None].astype(np.float32)


def _turned(x: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """Rotate the pairs of x [..., R] by complex turns [..., R/2]."""
    return (np.ascontiguousarray(x).view(np.complex64) * turns).view(np.float32)


def _swiglu(gate_up: np.ndarray) -> np.ndarray:
    """[..., 2I] -> silu(gate) * up [..., I]."""
    half = gate_up.shape[-1] // 2
    gate = gate_up[..., :half]
    return gate / (1 + np.exp(-gate)) * gate_up[..., half:]


def _feed(h: np.ndarray, expert: Expert) -> np.ndarray:
    return _swiglu(h @ expert.gate_up.T) @ expert.down.T


def _mask_future(scores: np.ndarray, past: int) -> None:
    """scores [A, T, S]: token t sees the first past + t + 1 positions."""
    count = scores.shape[1]
    scores[:, :, past:] += np.triu(np.full((count, count), -np.inf, np.float32), 1)
