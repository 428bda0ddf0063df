"""Muon for matrices and AdamW for the rest, in one optimizer (Moonlight, arXiv 2502.16982; Kimi K2, 2507.20534).

Matrices of one shape are orthogonalised together in one batched product, stacks of experts [E, out, in] included.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from typing import Any

import torch
from torch import Tensor, nn

from openk2.optim.distributed import OwnerCompute, local, sharded

_NS = (3.4445, -4.7750, 2.0315)  # quintic whose slope at 0 is steepest (Keller Jordan, Muon)
_CPU_ELEMENTS = 1 << 19  # of matrices orthogonalised at once: bf16 products of these stay in a core's cache
_DEVICE_ELEMENTS = 1 << 27  # on an accelerator: large batches, of which the temporary copies still take little memory


def orthogonalise(matrices: Tensor, steps: int = 5, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Push the singular values of each matrix [..., n, m] towards 1 by Newton-Schulz: X <- aX + b(XX^T)X + c(XX^T)^2 X.

    Computed in `dtype` and returned in it. Singular values end within about [0.7, 1.2], not at 1.
    """
    a, b, c = _NS
    x = matrices.to(dtype)
    shape = x.shape
    x = x.reshape(-1, *shape[-2:])
    tall = shape[-2] > shape[-1]
    if tall:
        x = x.transpose(1, 2)
    x = x / (torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True, dtype=torch.float32) + 1e-7).to(dtype)
    for _ in range(steps):
        gram = torch.bmm(x, x.transpose(1, 2))
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    if tall:
        x = x.transpose(1, 2)
    return x.reshape(shape)


_Matrix = tuple[Tensor, Tensor, Tensor]  # weight, gradient, momentum: each a matrix, or this rank's rows of one


class MuonAdamW(torch.optim.Optimizer):
    """Muon on the groups with `muon: True`, AdamW on the others. Both share the learning rate and the decay.

    Muon: M = mu M + (1 - mu) G; W = W (1 - lr decay) - lr 0.2 sqrt(max(n, m)) NS((1 - mu) G + mu M). The factor
    0.2 sqrt(max(n, m)) gives the update the RMS of AdamW's. The papers' sum M = mu M + G is 1 / (1 - mu) times this
    average, which NS takes out again. A parameter without gradient is left alone.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], lr: float = 2e-3, weight_decay: float = 0.1, momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95), eps: float = 1e-8, ns_steps: int = 5,
        ns_dtype: torch.dtype = torch.bfloat16,
    ) -> None:  # fmt: skip
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": betas, "eps": eps}
        super().__init__(groups, defaults | {"muon": False, "ns_steps": ns_steps})
        self.ns_dtype = ns_dtype  # not a group value: torch dtypes do not belong in a state dict
        self._owners: OwnerCompute | None = None
        self.executor: Executor | None = None  # orthogonalises several parts at once, where one is given

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            live = [p for p in group["params"] if p.grad is not None]
            if group["muon"]:
                self._muon(group, live)
            else:
                self._adamw(group, live)

    def _muon(self, group: dict[str, Any], live: list[Tensor]) -> None:
        whole: list[_Matrix] = []  # those that lie here
        rows: list[_Matrix] = []  # this rank's rows of those that several ranks share
        shapes: list[tuple[int, int]] = []  # of the latter, whole
        for p in live:
            assert p.grad is not None
            state = self.state[p]
            if not state:
                state["momentum"] = torch.zeros_like(p)
            weight, gradient, momentum = local(p), local(p.grad), local(state["momentum"])
            n, m = p.shape[-2:]
            if p.ndim == 2 and sharded(p):
                rows.append((weight, gradient, momentum))
                shapes.append((n, m))
            elif weight.numel():
                whole += zip(*(t.view(-1, n, m) for t in (weight, gradient, momentum)), strict=True)

        def direction(updates: list[Tensor]) -> Tensor:
            return orthogonalise(torch.stack(updates), group["ns_steps"], self.ns_dtype)

        def step(part: list[int]) -> None:
            """All of it for a few matrices of one shape, while they lie in the cache."""
            with torch.no_grad():  # the mode belongs to a thread
                matrices = [whole[i] for i in part]
                _apply(group, matrices, direction(_updates(group, matrices)).unbind(), matrices[0][0].shape)

        def directions(matrices: list[Tensor]) -> list[Tensor]:
            result = list(matrices)

            def put(part: list[int]) -> None:
                with torch.no_grad():
                    for i, found in zip(part, direction([matrices[i] for i in part]), strict=True):
                        result[i] = found

            self._each(put, _parts(matrices))
            return result

        self._each(step, _parts([weight for weight, _, _ in whole]))
        if rows:
            found = self._exchange(live, shapes)(_updates(group, rows), directions, self.ns_dtype)
            for matrix, its, shape in zip(rows, found, shapes, strict=True):
                _apply(group, [matrix], [its], shape)

    def _each(self, function: Callable[[list[int]], None], parts: list[list[int]]) -> None:
        list((self.executor.map if self.executor else map)(function, parts))

    def _exchange(self, live: list[Tensor], shapes: list[tuple[int, int]]) -> OwnerCompute:
        """Who owns which of the matrices that ranks share: the same as long as the same ones are trained."""
        if self._owners is None or self._owners.shapes != shapes:
            mesh: Any = next(p for p in live if p.ndim == 2 and sharded(p))
            self._owners = OwnerCompute(mesh.device_mesh.get_group(), shapes)
        return self._owners

    def _adamw(self, group: dict[str, Any], live: list[Tensor]) -> None:
        lr, (beta1, beta2) = group["lr"], group["betas"]
        for p in live:
            assert p.grad is not None
            state = self.state[p]
            if not state:
                state.update(step=0, mean=torch.zeros_like(p), square=torch.zeros_like(p))
            weight, gradient, mean, square = (local(t) for t in (p, p.grad, state["mean"], state["square"]))
            state["step"] += 1
            mean.lerp_(gradient, 1 - beta1)
            square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            denominator = (square / (1 - beta2 ** state["step"])).sqrt_().add_(group["eps"])
            weight.mul_(1 - lr * group["weight_decay"])
            weight.addcdiv_(mean, denominator, value=-lr / (1 - beta1 ** state["step"]))


def _parts(matrices: list[Tensor]) -> list[list[int]]:
    """Numbers of those of one shape, as many as are orthogonalised together."""
    by_shape: dict[torch.Size, list[int]] = defaultdict(list)
    for i, matrix in enumerate(matrices):
        by_shape[matrix.shape].append(i)
    parts: list[list[int]] = []
    most = _CPU_ELEMENTS if matrices and matrices[0].device.type == "cpu" else _DEVICE_ELEMENTS
    for shape, members in by_shape.items():
        count = max(1, most // shape.numel())
        parts += [members[start : start + count] for start in range(0, len(members), count)]
    return parts


def _updates(group: dict[str, Any], matrices: list[_Matrix]) -> list[Tensor]:
    """Take the gradients into the momenta; what is to be orthogonalised."""
    mu = group["momentum"]
    return [gradient.lerp(momentum.lerp_(gradient, 1 - mu), mu) for _, gradient, momentum in matrices]


def _apply(group: dict[str, Any], matrices: list[_Matrix], directions: Sequence[Tensor], shape: Sequence[int]) -> None:
    """Decay the weights (matrices of `shape`, or rows of one) and go a step against the directions."""
    lr = group["lr"]
    for (weight, _, _), direction in zip(matrices, directions, strict=True):
        weight.mul_(1 - lr * group["weight_decay"]).add_(direction, alpha=-lr * 0.2 * math.sqrt(max(shape)))


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Muon for every matrix and stack of matrices but the embedding, head and router; AdamW for these and the norms.

    The router goes to AdamW: its rows are experts' directions, and orthogonal rows are no better a router.
    """
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        adam = parameter.ndim < 2 or "embed_tokens" in name or "lm_head" in name or name.endswith("mlp.gate.weight")
        (others if adam else matrices).append(parameter)
    return [{"params": matrices, "muon": True}, {"params": others, "muon": False}]
