"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434) over packed documents, in its expanded form.

Shape letters: T tokens of the flat batch, H hidden, N heads, D query/key size, V value size, B documents of a group,
L padded length of a group. On a CPU, plain bf16 matrix products over short rows of documents beat the fused kernels.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openk2.model import flex
from openk2.model.balance import Balance
from openk2.model.config import LATENT_EPS, ModelConfig
from openk2.model.rope import rotate, rotate_back

_QUERY_BLOCK = 256  # queries handled at once: keys after the block are never multiplied
_SHORT = 64  # documents up to this length share one group: padding them costs less than another call
_TILE = 8  # documents a product: keeps the scores in the cache


class Packing:
    """Where the documents of a flat batch lie: positions [T], and groups of similar length for attention.

    A group is padded on the right to one length. Under a causal mask no real query reaches the padding, so that no
    mask is needed for it. `groups` holds index [B, L] into the flat batch and the padding [B, L] (None if there is
    none); `inverse` [T] finds each flat token in the concatenation of all groups.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device | str = "cpu") -> None:
        if not lengths or min(lengths) < 1:
            raise ValueError(f"document lengths must be positive, got {list(lengths)[:5]}")
        self.lengths = list(lengths)
        self.total = sum(lengths)
        self.balance: Balance | None = None  # collects the balance loss of a forward pass that has one
        self.positions = torch.cat([torch.arange(n) for n in self.lengths]).to(device)
        self.groups: list[tuple[Tensor, Tensor | None]] = []
        if self.positions.is_cuda:  # FlexAttention has a mask instead of groups
            self.mask = flex.document_mask(self.lengths, device)
            return
        starts = [0]
        for length in self.lengths:
            starts.append(starts[-1] + length)
        # Widths are multiples of 64 and tiles powers of two: oneDNN prepares a kernel for each new shape, at a price.
        order = sorted(range(len(lengths)), key=lambda i: -self.lengths[i])
        by_width: dict[int, list[int]] = {}
        for i in order:
            by_width.setdefault(max(_SHORT, -(-self.lengths[i] // 64) * 64), []).append(i)
        members: list[tuple[int, list[int]]] = []
        for width, rows in by_width.items():
            tile = _TILE
            while rows:
                while tile > len(rows):
                    tile //= 2
                members.append((width, rows[:tile]))
                rows = rows[tile:]
        inverse = torch.empty(self.total, dtype=torch.long)
        offset = 0
        for width, group in members:
            index = torch.zeros(len(group), width, dtype=torch.long)
            pad = torch.ones(len(group), width, dtype=torch.bool)
            for row, i in enumerate(group):
                flat = torch.arange(starts[i], starts[i + 1])
                index[row, : self.lengths[i]] = flat
                pad[row, : self.lengths[i]] = False
                inverse[flat] = offset + row * width + torch.arange(self.lengths[i])
            offset += index.numel()
            self.groups.append((index.to(device), pad.to(device) if bool(pad.any()) else None))
        self.inverse = inverse.to(device)


def _gather(flat: Tensor, index: Tensor, pad: Tensor | None = None) -> Tensor:
    """[T, N, D] and [B, L] -> contiguous [B*N, L, D], zero at `pad`."""
    batch, length = index.shape
    heads = flat.shape[1]
    rows = flat.index_select(0, index.reshape(-1)).view(batch, length, heads, -1)
    if pad is not None:
        rows.masked_fill_(pad[:, :, None, None], 0)
    return rows.transpose(1, 2).reshape(batch * heads, length, -1)


def _scatter(groups: list[Tensor], packing: Packing, heads: int) -> Tensor:
    """One [B*N, L, D] a group -> flat [T, N, D], padding dropped."""
    size = groups[0].shape[-1]
    rows = [
        g.view(index.shape[0], heads, index.shape[1], size).transpose(1, 2).reshape(-1, heads, size)
        for g, (index, _) in zip(groups, packing.groups, strict=True)
    ]
    joined = rows[0] if len(rows) == 1 else torch.cat(rows)
    return joined.index_select(0, packing.inverse)


def _blocks(length: int) -> list[tuple[int, int]]:
    return [(start, min(start + _QUERY_BLOCK, length)) for start in range(0, length, _QUERY_BLOCK)]


class _PackedAttention(torch.autograd.Function):
    """softmax(scale q kT) v, causal, each document alone. Keeps the probabilities for the backward pass."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float, packing: Packing, track: bool) -> Any:
        heads = q.shape[1]
        peak = torch.full((heads,), -torch.inf, device=q.device)
        saved: list[Tensor] = []
        outs = []
        q_scaled = q * scale
        for index, pad in packing.groups:
            qs, ks, vs = _gather(q_scaled, index, pad), _gather(k, index), _gather(v, index)
            length = index.shape[1]
            out = torch.empty_like(vs)
            for start, end in _blocks(length):
                scores = torch.bmm(qs[:, start:end], ks[:, :end].transpose(1, 2))
                future = torch.full((end - start, end - start), -torch.inf, dtype=q.dtype, device=q.device).triu_(1)
                scores[:, :, start:].add_(future)
                if track:
                    peak = torch.maximum(peak, scores.amax((1, 2)).view(-1, heads).amax(0).float())
                p = torch.softmax(scores, -1)
                torch.bmm(p, vs[:, :end], out=out[:, start:end])
                saved.append(p)
            saved += [qs, ks, vs]
            outs.append(out)
        ctx.save_for_backward(*saved)
        ctx.scale, ctx.packing, ctx.heads = scale, packing, heads
        ctx.mark_non_differentiable(peak)
        return _scatter(outs, packing, heads), peak

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        dout = grads[0]
        packing, heads = ctx.packing, ctx.heads
        saved = list(ctx.saved_tensors)
        dqs, dks, dvs = [], [], []
        for index, pad in packing.groups:
            blocks = _blocks(index.shape[1])
            probabilities, (qs, ks, vs) = saved[: len(blocks)], saved[len(blocks) : len(blocks) + 3]
            del saved[: len(blocks) + 3]
            dos = _gather(dout, index, pad)  # the output of padding was dropped: it has no gradient
            dq, dk, dv = torch.empty_like(qs), torch.empty_like(ks), torch.empty_like(vs)
            for step, ((start, end), p) in enumerate(reversed(list(zip(blocks, probabilities, strict=True)))):
                do = dos[:, start:end]
                ds = torch.ops.aten._softmax_backward_data(torch.bmm(do, vs[:, :end].transpose(1, 2)), p, -1, p.dtype)
                torch.bmm(ds, ks[:, :end], out=dq[:, start:end])
                if step == 0:  # the last block sees every key: it fills the buffers, the others add to them
                    torch.bmm(ds.transpose(1, 2), qs[:, start:end], out=dk)
                    torch.bmm(p.transpose(1, 2), do, out=dv)
                else:
                    dk[:, :end] += torch.bmm(ds.transpose(1, 2), qs[:, start:end])
                    dv[:, :end] += torch.bmm(p.transpose(1, 2), do)
            dqs.append(dq)
            dks.append(dk)
            dvs.append(dv)
        dq, dk, dv = (_scatter(g, packing, heads) for g in (dqs, dks, dvs))
        return dq * ctx.scale, dk, dv, None, None, None


def attend(
    q: Tensor, k: Tensor, v: Tensor, scale: float, packing: Packing, track: bool = False
) -> tuple[Tensor, Tensor]:
    """Causal attention of each packed document.

    q, k [T, N, D], v [T, N, V] -> output [T, N, V] and the largest scaled logit of each head [N] (for QK-Clip;
    -inf unless `track`). Differentiable in q, k and v.
    """
    if q.is_cuda:
        return flex.attend(q, k, v, scale, packing.mask, track)
    return _PackedAttention.apply(q, k, v, scale, packing, track)  # type: ignore[return-value]


class _RMSNorm(torch.autograd.Function):
    """x / rms(x) * weight in few passes: autograd's own takes twice as many over memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        x = x.float()
        inverse = (torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_() / x.shape[-1] + eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        return (x * inverse).mul_(weight).to(dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, weight, inverse = ctx.saved_tensors
        dx = grads[0] * inverse  # float32
        product = dx * x
        mean = (product @ weight)[:, None].mul_(inverse.square() / x.shape[-1])
        return dx.mul_(weight).addcmul_(x, mean, value=-1), product.sum(0), None, None


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension, in float32 (arXiv 1910.07467)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """x [T, size] -> [T, size] in `dtype` (default: x's)."""
        return _RMSNorm.apply(x, self.weight.float(), self.eps, dtype or x.dtype)  # type: ignore[return-value]


def linear(x: Tensor, layer: nn.Linear) -> Tensor:
    """x W^T with the master weight cast to x's type."""
    return F.linear(x, layer.weight.to(x.dtype))


class _Rotary(torch.autograd.Function):
    """Queries and keys of all heads with their last part rotated, and the values (a view).

    q [T, N, D], kv [T, N, D - R + V], k_rope [T, R], cos and sin [T, R/2] -> q, k [T, N, D], v [T, N, V].
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, kv: Tensor, k_rope: Tensor, cos: Tensor, sin: Tensor, nope: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        ctx.nope = nope
        shared = rotate(k_rope[:, None], cos, sin).expand(-1, q.shape[1], -1)
        q = torch.cat((q[..., :nope], rotate(q[..., nope:], cos, sin)), -1)
        return q, torch.cat((kv[..., :nope], shared), -1), kv[..., nope:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (cos, sin), nope = ctx.saved_tensors, ctx.nope
        dq, dk, dv = grads
        d_rope = rotate_back(dk[..., nope:].sum(1, keepdim=True), cos, sin)[:, 0]
        dq = torch.cat((dq[..., :nope], rotate_back(dq[..., nope:], cos, sin)), -1)
        return dq, torch.cat((dk[..., :nope], dv), -1), d_rope, None, None, None


class LatentAttention(nn.Module):
    """MLA: low-rank queries (optional), one compressed latent for keys and values, one shared rotary key."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        heads, hidden = config.num_attention_heads, config.hidden_size
        if config.q_lora_rank is None:
            self.q_proj = nn.Linear(hidden, heads * config.qk_head_dim, bias=False)
        else:
            self.q_a_proj = nn.Linear(hidden, config.q_lora_rank, bias=False)
            self.q_a_layernorm = RMSNorm(config.q_lora_rank, LATENT_EPS)
            self.q_b_proj = nn.Linear(config.q_lora_rank, heads * config.qk_head_dim, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(hidden, config.kv_lora_rank + config.qk_rope_head_dim, bias=False)
        self.kv_a_layernorm = RMSNorm(config.kv_lora_rank, LATENT_EPS)
        self.kv_b_proj = nn.Linear(
            config.kv_lora_rank, heads * (config.qk_nope_head_dim + config.v_head_dim), bias=False
        )
        self.o_proj = nn.Linear(heads * config.v_head_dim, hidden, bias=False)
        self.track_logits = False
        self.max_logits: Tensor | None = None  # [N] of all forwards since it was last cleared, while `track_logits`
        self._lock = threading.Lock()  # several threads may run the same network on parts of a batch

    def query_projection(self) -> nn.Linear:
        """The matrix whose rows are the heads' queries."""
        return self.q_proj if self.config.q_lora_rank is None else self.q_b_proj

    def forward(self, x: Tensor, packing: Packing, cos: Tensor, sin: Tensor) -> Tensor:
        """x [T, H] -> [T, H]. cos, sin [T, qk_rope_head_dim/2] from `rope_tables`."""
        c = self.config
        heads, nope = c.num_attention_heads, c.qk_nope_head_dim
        if c.q_lora_rank is None:
            q = linear(x, self.q_proj)
        else:
            q = linear(self.q_a_layernorm(linear(x, self.q_a_proj)), self.q_b_proj)
        q = q.unflatten(-1, (heads, -1))
        latent, k_rope = linear(x, self.kv_a_proj_with_mqa).split((c.kv_lora_rank, c.qk_rope_head_dim), -1)
        kv = linear(self.kv_a_layernorm(latent), self.kv_b_proj).unflatten(-1, (heads, -1))
        q, k, v = _Rotary.apply(q, kv, k_rope, cos, sin, nope)  # type: ignore[misc]
        out, peak = attend(q, k, v, c.softmax_scale, packing, self.track_logits)
        if self.track_logits:
            with self._lock:
                self.max_logits = peak if self.max_logits is None else torch.maximum(self.max_logits, peak)
        return linear(out.flatten(1), self.o_proj)
