"""The mixture of experts of DeepSeek-V3 and Kimi K2: sigmoid router with a selection-only bias, SwiGLU experts.

Shape letters: T tokens, H hidden, E experts, K experts a token, I expert width, S = T*K token copies sorted by expert.
On a CPU, one matrix product a contiguous slice of sorted tokens beats padded batches: no work is wasted on an
unbalanced router, and a slice stays in the cache from the first product to the last. Slices are padded to a multiple
of 64 rows, because oneDNN prepares a kernel for each new shape at several times the cost of the product itself.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openk2.model import grouped
from openk2.model.balance import Balance
from openk2.model.config import ModelConfig
from openk2.model.expert_parallel import ExpertExchange, held
from openk2.model.recompute import recomputing

_ROWS = 64


class MLP(nn.Module):
    """SwiGLU: down(silu(gate x) * up x)."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, width, bias=False)
        self.up_proj = nn.Linear(hidden, width, bias=False)
        self.down_proj = nn.Linear(width, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return _SwiGLU.apply(x, self.gate_proj.weight, self.up_proj.weight, self.down_proj.weight)  # type: ignore[return-value]


def _activate(h: Tensor, width: int) -> Tensor:
    """gate and up [S, 2I] -> silu(gate) * up [S, I]."""
    return F.silu(h[:, :width]).mul_(h[:, width:])


def _activate_backward(da: Tensor, h: Tensor, silu: Tensor) -> Tensor:
    """Gradient [S, I] after the activation -> gradient [S, 2I] of gate and up, silu(gate) given. Overwrites `da`."""
    width = silu.shape[1]
    dh = torch.empty_like(h)
    torch.mul(da, silu, out=dh[:, width:])
    torch.ops.aten.silu_backward.grad_input(da.mul_(h[:, width:]), h[:, :width], grad_input=dh[:, :width])
    return dh


class _SwiGLU(torch.autograd.Function):
    """down(silu(gate x) * up x) with gate and up in one product, forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        gate_up, down = torch.cat((gate, up)).to(x.dtype), down.to(x.dtype)
        h = F.linear(x, gate_up)
        ctx.save_for_backward(x, h, gate_up, down)
        return F.linear(_activate(h, len(gate)), down)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, h, gate_up, down = ctx.saved_tensors
        width = down.shape[1]
        silu = F.silu(h[:, :width])
        d_down = grads[0].T @ (silu * h[:, width:])
        dh = _activate_backward(grads[0] @ down, h, silu)
        d_gate_up = (dh.T @ x).float()
        return dh @ gate_up, d_gate_up[:width], d_gate_up[width:], d_down.float()


class Router(nn.Module):
    """Which experts a token goes to, and with which weights (noaux_tc, arXiv 2412.19437 §2.1.2)."""

    e_score_correction_bias: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))
        self.register_buffer("e_score_correction_bias", torch.zeros(config.n_routed_experts))

    def forward(self, x: Tensor, balance: Balance | None = None) -> tuple[Tensor, Tensor]:
        """x [T, H] -> expert ids [T, K] (int64) and weights [T, K] (float32, from the scores without the bias).

        `balance` is told the scores.
        """
        c = self.config
        scores = F.linear(x.float(), self.weight).sigmoid()
        if balance is not None:
            balance.add(scores, c.num_experts_per_tok)
        choice = scores.detach() + self.e_score_correction_bias
        if c.n_group > 1:
            groups = choice.unflatten(-1, (c.n_group, -1))
            best = groups.topk(min(2, groups.shape[-1]), -1)[0].sum(-1).topk(c.topk_group, -1, sorted=False)[1]
            outside = torch.ones_like(groups[..., 0], dtype=torch.bool).scatter_(-1, best, False)
            choice = groups.masked_fill(outside[..., None], -torch.inf).flatten(-2)
        index = choice.topk(c.num_experts_per_tok, -1, sorted=False)[1]
        weights = scores.gather(-1, index)
        if c.norm_topk_prob:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return index, weights * c.routed_scaling_factor


class _Routing:
    """Where each token copy lies in a buffer sorted by expert: sizes [E], source [S] (token), slot [T, K] (row)."""

    def __init__(self, index: Tensor, experts: int) -> None:
        k = index.shape[1]
        flat = index.reshape(-1)
        order = flat.to(torch.int16).argsort(stable=True)
        self.counts = torch.bincount(flat, minlength=experts)
        sizes = (self.counts + _ROWS - 1) // _ROWS * _ROWS
        before = (sizes - self.counts).cumsum(0) - (sizes - self.counts)  # padding in front of each expert's slice
        row = torch.arange(len(flat), device=index.device) + before[flat[order]]
        self.sizes: list[int] = sizes.tolist()
        self.source = torch.zeros(sum(self.sizes), dtype=torch.long, device=index.device)
        self.source[row] = torch.div(order, k, rounding_mode="floor")
        self.slot = torch.empty_like(row)
        self.slot[order] = row
        self.slot = self.slot.view(-1, k)

    def combine(self, rows: Tensor) -> Tensor:
        """Sum over a token's copies: [S, H] -> [T, H]."""
        out = rows.index_select(0, self.slot[:, 0])
        for k in range(1, self.slot.shape[1]):
            out += rows.index_select(0, self.slot[:, k])
        return out


class _RoutedSwiGLU(torch.autograd.Function):
    """sum_k w_k down_e(silu(gate_e x) * up_e x), e = index[:, k], with its own backward pass.

    Padding rows repeat token 0 with weight 0, so that they reach neither the output nor any gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weights: Tensor, gate: Tensor, up: Tensor, down: Tensor, routing: _Routing
    ) -> Tensor:  # fmt: skip
        dtype = x.dtype
        gate_up = torch.cat((gate, up), 1).to(dtype)  # [E, 2I, H]
        down = down.to(dtype)
        xs = x.index_select(0, routing.source)  # [S, H]
        w = torch.zeros(len(xs), dtype=torch.float32, device=x.device)
        w[routing.slot.view(-1)] = weights.reshape(-1).float()
        w = w.to(dtype)[:, None]
        width = down.shape[2]
        hidden = xs.new_empty(len(xs), 2 * width)  # gate and up before the activation
        out = torch.empty_like(xs)
        start = 0
        for expert, size in enumerate(routing.sizes):
            if size:
                rows = slice(start, start + size)
                h = torch.mm(xs[rows], gate_up[expert].T, out=hidden[rows])
                torch.mm(_activate(h, width).mul_(w[rows]), down[expert].T, out=out[rows])
                start += size
        ctx.save_for_backward(xs, w, hidden, gate_up, down)
        ctx.routing = routing
        return routing.combine(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        xs, w, hidden, gate_up, down = ctx.saved_tensors
        routing, width = ctx.routing, down.shape[2]
        dout = grads[0].index_select(0, routing.source)  # [S, H]
        dx = torch.empty_like(xs)
        dw = torch.empty(len(xs), dtype=torch.float32, device=xs.device)
        d_gate_up, d_down = torch.zeros_like(gate_up), torch.zeros_like(down)
        start = 0
        for expert, size in enumerate(routing.sizes):
            if not size:
                continue
            rows = slice(start, start + size)
            h = hidden[rows]
            silu = F.silu(h[:, :width])
            a = silu * h[:, width:]
            da = torch.mm(dout[rows], down[expert])  # gradient of a * w
            torch.sum(da * a, -1, dtype=torch.float32, out=dw[rows])
            torch.mm(dout[rows].T, a.mul_(w[rows]), out=d_down[expert])
            dh = _activate_backward(da.mul_(w[rows]), h, silu)
            torch.mm(dh, gate_up[expert], out=dx[rows])
            torch.mm(dh.T, xs[rows], out=d_gate_up[expert])
            start += size
        dw = dw.index_select(0, routing.slot.view(-1)).view_as(routing.slot)
        d_gate_up = d_gate_up.float()
        return routing.combine(dx), dw, d_gate_up[:, :width], d_gate_up[:, width:], d_down.float(), None


class Experts(nn.Module):
    """All routed experts of a layer, stacked: gate_proj, up_proj [E, I, H], down_proj [E, H, I].

    In a state dict each expert has its own matrices under Hugging Face's names (`3.gate_proj.weight`), so that
    saving and loading copy without renaming.
    """

    _NAMES = ("gate_proj", "up_proj", "down_proj")

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        e, h, i = config.n_routed_experts, config.hidden_size, config.moe_intermediate_size
        self.gate_proj = nn.Parameter(torch.empty(e, i, h))
        self.up_proj = nn.Parameter(torch.empty(e, i, h))
        self.down_proj = nn.Parameter(torch.empty(e, h, i))
        self.exchange: ExpertExchange | None = None  # set where the experts are divided among ranks

    def forward(self, x: Tensor, index: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """x [T, H], index and weights [T, K] -> [T, H] and the tokens each expert got [E] (int64)."""
        if self.exchange is not None:
            return self.exchange(lambda *copies: self._own(*copies)[0], x, index, weights)
        return self._own(x, index, weights)

    def _own(self, x: Tensor, index: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """The same for the experts that lie here, `index` counting from the first of them."""
        gate, up, down = (held(stack) for stack in (self.gate_proj, self.up_proj, self.down_proj))
        if x.is_cuda:
            return grouped.routed(x, index, weights, gate, up, down)
        routing = _Routing(index, len(gate))
        out = _RoutedSwiGLU.apply(x, weights, gate, up, down, routing)
        return out, routing.counts  # type: ignore[return-value]

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        for name in self._NAMES:
            stack = getattr(self, name)
            for expert, matrix in enumerate(stack if keep_vars else stack.detach()):
                destination[f"{prefix}{expert}.{name}.weight"] = matrix

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, strict: bool,
        missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        for name in self._NAMES:
            for expert, matrix in enumerate(getattr(self, name).detach()):
                key = f"{prefix}{expert}.{name}.weight"
                if key not in state_dict:
                    missing_keys.append(key)
                elif state_dict[key].shape != matrix.shape:
                    error_msgs.append(f"{key} has shape {tuple(state_dict[key].shape)}, not {tuple(matrix.shape)}")
                else:
                    matrix.copy_(state_dict[key])


class MoE(nn.Module):
    """Routed experts plus shared experts that see every token."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = Router(config)
        self.experts = Experts(config)
        self.shared_experts = MLP(config.hidden_size, config.moe_intermediate_size * config.n_shared_experts)
        self.load: Tensor | None = None  # [E] tokens since the last `balance`
        self._lock = threading.Lock()  # several threads may run the same network on parts of a batch

    def forward(self, x: Tensor, balance: Balance | None = None) -> Tensor:
        """x [T, H] -> [T, H]."""
        index, weights = self.gate(x, balance)
        out, counts = self.experts(x, index, weights)
        if self.training and not recomputing():
            with self._lock:
                self.load = counts if self.load is None else self.load + counts
        return out + self.shared_experts(x)

    @torch.no_grad()
    def balance(self, speed: float) -> float:
        """Move the selection bias towards even load: b += u (sign(e) - mean sign(e)), e = mean load - load.

        Once an optimizer step (Moonlight, arXiv 2502.16982 App. C). Returns the largest load over the mean.
        """
        if self.load is None:
            return 1.0
        load, self.load = self.load.float(), None
        sign = torch.sign(load.mean() - load)
        self.gate.e_score_correction_bias += speed * (sign - sign.mean())
        return float(load.max() / load.mean())
