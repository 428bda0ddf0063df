"""The whole network in torch, for training and for GPUs. Its state dict has Hugging Face's names and shapes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openk2.model.attention import LatentAttention, Packing, RMSNorm
from openk2.model.balance import Balance
from openk2.model.config import ModelConfig
from openk2.model.moe import MLP, Experts, MoE
from openk2.model.recompute import recompute
from openk2.model.rope import rope_tables

_LOSS_CHUNK = 256  # rows of logits held at once: few enough to stay in the cache


class Block(nn.Module):
    """x + attention(norm x), then x + feed-forward(norm x). The residual stream is float32."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.self_attn = LatentAttention(config)
        self.mlp: nn.Module = MoE(config) if config.is_moe(layer) else MLP(config.hidden_size, config.intermediate_size)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.recompute = False  # trade a second forward pass for the memory of the activations

    def forward(self, x: Tensor, packing: Packing, cos: Tensor, sin: Tensor, dtype: torch.dtype) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            return recompute(self._forward, x, packing, cos, sin, dtype)
        return self._forward(x, packing, cos, sin, dtype)

    def _forward(self, x: Tensor, packing: Packing, cos: Tensor, sin: Tensor, dtype: torch.dtype) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x, dtype), packing, cos, sin)
        normed = self.post_attention_layernorm(x, dtype)
        return x + (self.mlp(normed, packing.balance) if isinstance(self.mlp, MoE) else self.mlp(normed))


class Body(nn.Module):
    """Embedding, blocks, last norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Transformer(nn.Module):
    """Decoder over flat packed batches. Weights are float32 masters; products run in `dtype` (bf16 to train)."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        self.config = config
        self.dtype = dtype
        self.alpha = 0.0  # of the sequence-wise balance loss
        self.model = Body(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def hidden(self, ids: Tensor, packing: Packing) -> Tensor:
        """ids [T] -> last normed hidden states [T, H] (float32)."""
        cos, sin = rope_tables(self.config, packing.positions)
        x = self.model.embed_tokens(ids).float()
        for block in self.model.layers:
            x = block(x, packing, cos, sin, self.dtype)
        return self.model.norm(x)

    def forward(self, ids: Tensor, packing: Packing) -> Tensor:
        """ids [T] -> logits [T, vocabulary] (float32)."""
        return F.linear(self.hidden(ids, packing), self.lm_head.weight.float())

    def loss(self, ids: Tensor, packing: Packing, rows: Tensor) -> Tensor:
        """Mean cross-entropy of predicting ids[r] from the position before, over `rows` [M] (never a document's first).

        Only those rows meet the head. With `alpha` the balance loss is in it, and alone in `packing.balance.value`.
        Returns a scalar; raises ValueError when `rows` is empty.
        """
        if not len(rows):
            raise ValueError("no token of the batch is to be learned")
        packing.balance = Balance(packing, rows, self.alpha) if self.alpha and self.config.moe_layers() else None
        states = self.hidden(ids, packing).index_select(0, rows - 1)
        loss: Tensor = _ChunkedCrossEntropy.apply(states, self.lm_head.weight, ids.index_select(0, rows), self.dtype)  # type: ignore[assignment]
        return loss if packing.balance is None else loss + packing.balance.total()

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Normal weights of `initializer_range`, the matrices that write to the residual divided by sqrt(2 layers)."""
        generator = torch.Generator().manual_seed(seed)
        std = self.config.initializer_range
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(1.0)
                continue
            writes = name.endswith(("o_proj.weight", "down_proj.weight", "down_proj"))
            scale = std / (2 * self.config.num_hidden_layers) ** 0.5 if writes else std
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
        for moe in self.moe_layers():
            moe.gate.e_score_correction_bias.zero_()

    def attentions(self) -> Iterator[LatentAttention]:
        return (m for m in self.modules() if isinstance(m, LatentAttention))

    def moe_layers(self) -> Iterator[MoE]:
        return (m for m in self.modules() if isinstance(m, MoE))

    def experts(self) -> Iterator[Experts]:
        return (m for m in self.modules() if isinstance(m, Experts))

    def tensors(self) -> dict[str, Tensor]:
        """The state dict as a checkpoint stores it: a tied head is left out."""
        state = self.state_dict()
        if self.config.tie_word_embeddings:
            state.pop("lm_head.weight", None)
        return state

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Load what `tensors` gives. Raises RuntimeError naming missing, unexpected or misshapen tensors."""
        if self.config.tie_word_embeddings:
            tensors = {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}
        self.load_state_dict(tensors)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy with logits made and used a chunk at a time, gradients included (as in Liger Kernel).

    Logits are float32: near zero loss bf16 logits are as coarse as the loss. The gradients' products use `dtype`.
    Everything is in powers of two, whose exponential costs a CPU a quarter of e's; probabilities are divided by their
    sum where they have become few: on the states' side of the products.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, head: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
        states, head = states.float(), head.float()
        low = head.to(dtype)
        d_states = torch.empty_like(states)
        d_head = torch.zeros_like(head)
        total = torch.zeros((), device=states.device)
        count = len(targets)
        for start in range(0, count, _LOSS_CHUNK):
            rows = slice(start, start + _LOSS_CHUNK)
            target = targets[rows, None]
            logits = F.linear(states[rows] * math.log2(math.e), head)
            peak = logits.amax(-1, keepdim=True)
            chosen = logits.gather(1, target)
            p = logits.sub_(peak).exp2_()
            norm = p.sum(-1, keepdim=True)
            total += (peak - chosen + norm.log2()).sum()
            p = p.scatter_add_(1, target, -norm).to(dtype)
            norm *= count
            torch.div(p @ low, norm, out=d_states[rows])
            d_head += p.T @ (states[rows] / norm).to(dtype)
        ctx.save_for_backward(d_states, d_head)
        return total * (math.log(2) / count)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        d_states, d_head = ctx.saved_tensors
        return d_states * grads[0], d_head * grads[0], None, None
