"""The network in numpy, fp32: what the kernels are tested against, and what runs where they cannot.

One token at a time, queries are moved into the latent space (absorbed attention), so that the cache is read as it is.
Many tokens at once expand the cached latents to keys and values instead when that is less work.
Legend: T tokens, S cached positions, H hidden, A heads, N nope, R rope, V value, C latent, E experts, I expert width.
Equations: DeepSeek-V2 (arXiv 2405.04434) section 2.1, DeepSeek-V3 (arXiv 2412.19437) section 2.1.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from openk2.engine import weights as stored
from openk2.engine.cache import LatentCache
from openk2.model.config import LATENT_EPS, ModelConfig

EXPERT_CACHE_BYTES = 2 << 30


class Expert(NamedTuple):
    """One SwiGLU: gate_up [2I, H] (gate rows first) and down [H, I], float32."""

    gate_up: np.ndarray
    down: np.ndarray


class Router(NamedTuple):
    """weight [E, H] and the selection-only bias [E]."""

    weight: np.ndarray
    bias: np.ndarray


@dataclass(slots=True)
class Layer:
    """Float32, fused for few numpy calls.

    `first` [(A(N+R) or Q) + R + C, H]: queries (all nope, then all rope) or their latent; then the shared rope key and
    the key-value latent. `query` [A(N+R), Q] or None. `k_up` [A, N, C], `v_up` [A, C, V], `out` [H, AV]. The input
    norm is folded into `first`, the query norm into `query`, the softmax scale into whatever makes the queries.
    `always`: the dense feed-forward, or the shared experts as `n_shared_experts` of a routed expert's width.
    """

    first: np.ndarray
    query: np.ndarray | None
    latent_norm: np.ndarray
    k_up: np.ndarray
    v_up: np.ndarray
    out: np.ndarray
    mlp_norm: np.ndarray
    router: Router | None
    always: list[Expert]


class Twin:
    """Stateless apart from unpacked weights: what it knows of a text is in the cache it is given."""

    def __init__(
        self, config: ModelConfig, weights: stored.Weights, expert_cache_bytes: int = EXPERT_CACHE_BYTES
    ) -> None:
        self.config = config
        self._stored = weights
        self.embedding = weights.embedding.float32()
        self.head = self.embedding if weights.head is weights.embedding else weights.head.float32()
        self.norm = weights.norm
        self.layers = [_layer(config, layer) for layer in weights.layers]
        self._experts: OrderedDict[tuple[int, int], Expert] = OrderedDict()
        self._lock = threading.Lock()
        self._max_experts = max(1, expert_cache_bytes // (12 * config.hidden_size * config.moe_intermediate_size))

    def run(self, parts: Sequence[tuple[Sequence[int], LatentCache]], turns: np.ndarray) -> np.ndarray:
        """Append each part's ids to its cache; hidden states after the last norm, float32 [T, H], in their order."""
        outputs = []
        with np.errstate(over="ignore", invalid="ignore"):  # exp(-x) of a large gate; NaN is told by the sampler
            for ids, cache in parts:
                x = self.embedding[np.asarray(ids)]
                one = len(ids) == 1
                outputs.append(self._token(x[0], cache, turns)[None] if one else self._tokens(x, cache, turns))
        return outputs[0] if len(outputs) == 1 else np.concatenate(outputs)

    def logits(self, hidden: np.ndarray) -> np.ndarray:
        """hidden [T, H] -> float32 [T, vocab]."""
        return self.head.dot(hidden[0])[None] if len(hidden) == 1 else hidden @ self.head.T

    def expert(self, layer: int, index: int) -> Expert:
        """A routed expert in float32; the least recently used ones make room beyond the cache's size."""
        key = (layer, index)
        found = self._experts.get(key)
        if found is not None and len(self._experts) < self._max_experts:
            return found
        with self._lock:  # sessions may run in several threads
            found = self._experts.pop(key, None) or _unpacked(self._stored.layers[layer].experts[index])
            while len(self._experts) >= self._max_experts:
                self._experts.popitem(last=False)
            self._experts[key] = found
        return found

    # --- one token: vectors, as few numpy calls as possible -----------------------------------------------------

    def _token(self, x: np.ndarray, cache: LatentCache, turns: np.ndarray) -> np.ndarray:
        eps = self.config.rms_norm_eps
        for i, layer in enumerate(self.layers):
            x = x + self._token_attention(x, i, layer, cache, turns[cache.length])
            h = x * _inverse_rms(x, eps) * layer.mlp_norm
            x = x + self._token_mlp(h, i, layer)
        return x * _inverse_rms(x, eps) * self.norm

    def _token_attention(
        self, x: np.ndarray, index: int, layer: Layer, cache: LatentCache, turn: np.ndarray
    ) -> np.ndarray:
        """x [H], not normed; turn complex64 [R/2] of this position, whose cache row is written."""
        heads, nope, rope, latent = self._sizes()
        first = layer.first.dot(x * _inverse_rms(x, self.config.rms_norm_eps))
        split = len(first) - latent - rope
        row = np.empty((1, latent + rope), np.float32)
        kv = first[split + rope :]
        np.multiply(kv, _inverse_rms(kv, LATENT_EPS) * layer.latent_norm, out=row[0, :latent])
        row[0, latent:] = (first[split : split + rope].view(np.complex64) * turn).view(np.float32)
        cache.write(index, cache.length, row)
        q = first[:split]
        if layer.query is not None:
            q = layer.query.dot(q * _inverse_rms(q, LATENT_EPS))
        absorbed = np.empty((heads, latent + rope), np.float32)
        q_nope, q_rope = q[: heads * nope].reshape(heads, 1, nope), q[heads * nope :]
        np.matmul(q_nope, layer.k_up, out=absorbed[:, None, :latent])
        absorbed[:, latent:] = (q_rope.view(np.complex64).reshape(heads, -1) * turn).view(np.float32)
        # Tall times narrow with contiguous operands: several times faster in OpenBLAS than the transposed product.
        narrow = np.ascontiguousarray(absorbed.T)
        pieces = list(cache.pieces(index, cache.length + 1))
        scores = np.concatenate([piece.dot(narrow) for piece in pieces]) if len(pieces) > 1 else pieces[0].dot(narrow)
        scores = np.ascontiguousarray(scores.T)  # [A, S]
        scores -= np.maximum.reduce(scores, 1, keepdims=True)
        np.exp(scores, out=scores)
        mixed, start = np.zeros((heads, latent), np.float32), 0
        for piece in pieces:
            mixed += scores[:, start : start + len(piece)] @ piece[:, :latent]
            start += len(piece)
        mixed /= np.add.reduce(scores, 1, keepdims=True)
        return layer.out.dot(np.matmul(mixed[:, None], layer.v_up).reshape(-1))

    def _token_mlp(self, h: np.ndarray, index: int, layer: Layer) -> np.ndarray:
        """h [H], normed. All experts of the token side by side, so that their SwiGLU is one call each."""
        experts, mix = layer.always, None
        if layer.router is not None:
            scores = 1 / (1 + np.exp(-layer.router.weight.dot(h)))
            choice = self._choose((scores + layer.router.bias)[None])[0]
            routed = self._mix(scores[choice])
            experts = [*experts, *(self.expert(index, e) for e in choice.tolist())]
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

    def _tokens(self, x: np.ndarray, cache: LatentCache, turns: np.ndarray) -> np.ndarray:
        """x [T, H] -> [T, H], for T tokens that follow the cache."""
        eps = self.config.rms_norm_eps
        for i, layer in enumerate(self.layers):
            x = x + self._tokens_attention(x, i, layer, cache, turns[cache.length : cache.length + len(x)])
            h = _normed(x, eps) * layer.mlp_norm
            x = x + self._tokens_mlp(h, i, layer)
        return _normed(x, eps) * self.norm

    def _tokens_attention(
        self, x: np.ndarray, index: int, layer: Layer, cache: LatentCache, turns: np.ndarray
    ) -> np.ndarray:
        """x [T, H], not normed; turns complex64 [T, R/2] of these tokens, whose cache rows are written."""
        heads, nope, rope, latent = self._sizes()
        count, past = len(x), cache.length
        length = past + count
        first = _normed(x, self.config.rms_norm_eps) @ layer.first.T
        split = first.shape[1] - latent - rope
        kv = _normed(first[:, split + rope :], LATENT_EPS) * layer.latent_norm
        cache.write(index, past, np.concatenate((kv, _turned(first[:, split : split + rope], turns)), 1))
        rows = cache.rows(index, length)
        q = first[:, :split]
        if layer.query is not None:
            q = _normed(q, LATENT_EPS) @ layer.query.T
        q_nope = q[:, : heads * nope].reshape(count, heads, nope).transpose(1, 0, 2)
        q_rope = _turned(q[:, heads * nope :].reshape(count, heads, rope), turns[:, None]).transpose(1, 0, 2)
        value = layer.v_up.shape[2]
        # Multiplications a head of both ways; they differ in where the latent dimension is paid for.
        expand = length * latent * (nope + value) + count * length * (nope + value)
        absorb = count * latent * (nope + value) + 2 * count * length * latent
        latents = rows[:, :latent]
        if expand < absorb:
            keys = latents @ layer.k_up.transpose(0, 2, 1)  # [A, S, N]
            scores = q_nope @ keys.transpose(0, 2, 1)
        else:
            scores = (q_nope @ layer.k_up) @ latents.T
        scores += q_rope @ rows[:, latent:].T  # [A, T, S]
        _mask_future(scores, past)
        scores -= np.maximum.reduce(scores, 2, keepdims=True)
        np.exp(scores, out=scores)
        total = np.add.reduce(scores, 2, keepdims=True)
        mixed = scores @ (latents @ layer.v_up) if expand < absorb else (scores @ latents) @ layer.v_up  # [A, T, V]
        mixed /= total
        return mixed.transpose(1, 0, 2).reshape(count, heads * value) @ layer.out.T

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
            out[tokens[own]] += _feed(h[tokens[own]], self.expert(index, e)) * weights[own]
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


def _layer(config: ModelConfig, layer: stored.Layer) -> Layer:
    heads, nope, latent = config.num_attention_heads, config.qk_nope_head_dim, config.kv_lora_rank
    kv_a = layer.latent.float32()
    kv_b = layer.key_value.float32().reshape(heads, nope + config.v_head_dim, latent)
    query = layer.query.float32().reshape(heads, config.qk_head_dim, -1)
    split = np.split(query, [nope], axis=1)
    query = np.concatenate([part.reshape(-1, query.shape[2]) for part in split]) * np.float32(config.softmax_scale)
    first = query if layer.query_down is None else layer.query_down.float32()
    always, router = [], None
    if layer.router is not None and layer.bias is not None:
        router = Router(layer.router.float32(), layer.bias)
    if layer.always is not None:
        always = _split(_unpacked(layer.always), config.n_shared_experts if layer.router is not None else 1)
    return Layer(
        first=np.concatenate([first, kv_a[latent:], kv_a[:latent]]) * layer.attention_norm,
        query=None if layer.query_norm is None else query * layer.query_norm,
        latent_norm=layer.latent_norm,
        k_up=np.ascontiguousarray(kv_b[:, :nope]),
        v_up=np.ascontiguousarray(kv_b[:, nope:].transpose(0, 2, 1)),
        out=layer.out.float32(),
        mlp_norm=layer.mlp_norm,
        router=router,
        always=always,
    )


def _unpacked(expert: stored.Expert) -> Expert:
    return Expert(np.concatenate([expert.gate.float32(), expert.up.float32()]), expert.down.float32())


def _split(whole: Expert, parts: int) -> list[Expert]:
    """A SwiGLU of width parts * I as `parts` of width I whose outputs add up to its own."""
    if parts == 1:
        return [whole]
    gate, up = np.split(whole.gate_up, 2)
    pieces = zip(np.split(gate, parts), np.split(up, parts), np.split(whole.down, parts, axis=1), strict=True)
    return [Expert(np.concatenate([g, u]), np.ascontiguousarray(d)) for g, u, d in pieces]


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
