"""Start attention as a circuit that copies, instead of waiting for training to find one.

A small model that starts from random weights learns the form of its data first and can stay for millions of tokens
before induction heads form (Olsson et al., arXiv 2209.11895): the step from "what comes after a word like this" to
"what came after this very word a moment ago". Initial weights that imitate trained ones shorten this (mimetic
initialisation, Trockman and Kolter, arXiv 2305.09828). Here, for MLA:

- Every embedding has one direction `u` in common (it moves all logits alike, so the tied head does not see it); on it
  hang rotary queries and keys that look exactly one position back: the first layer's first heads are previous-token
  heads. They write what they see, turned by a fixed rotation R, so that "comes after t" and "is t" do not mix.
- The first heads of the layers above match R times the current token against that, and copy what stands there.

All other weights stay random, all of it is trained on, and nothing of it is in the architecture.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openk2.model.attention import LatentAttention
from openk2.model.transformer import Transformer

COMMON = 0.5  # length of the common direction, beside 1 for the token's own part
LOOK_BACK = 80.0  # |q||k| of a rotary pair of a previous-token head
PAIRS = 6  # the fastest rotary pairs take part
MATCH = 4.0  # gain of the query of a matching head
WRITE = 0.15  # gain of what such a head writes, for input of length sqrt(hidden)
QUIET = 0.25  # what is still random writes this much more softly, so that the token itself stays audible


def _orthonormal(rows: int, columns: int, generator: torch.Generator, without: Tensor | None = None) -> Tensor:
    """[rows, columns] with orthonormal rows, all orthogonal to the unit vector `without` [columns]."""
    draw = torch.randn(columns, rows, generator=generator)
    if without is not None:
        draw -= without[:, None] * (without @ draw)
    return torch.linalg.qr(draw).Q.T.contiguous()


@torch.no_grad()
def initialise_mimetic(model: Transformer, seed: int) -> None:
    """Overwrite embedding and half of each layer's heads. Raises ValueError for a network with low-rank queries."""
    config = model.config
    if config.q_lora_rank is not None:
        raise ValueError("mimetic initialisation is written for direct queries (q_lora_rank null)")
    generator = torch.Generator().manual_seed(seed + 1)
    hidden = config.hidden_size
    u = _orthonormal(1, hidden, generator)[0]
    turn = _orthonormal(hidden, hidden, generator)
    embedding = model.model.embed_tokens.weight
    embedding -= u * (embedding @ u)[:, None]
    embedding += COMMON * u
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight", "down_proj")):
            parameter *= QUIET
    own = (1 + COMMON**2) ** -0.5 * hidden**0.5  # length of the token's own part after RMSNorm
    for layer, attention in enumerate(model.attentions()):
        _head_pair(attention, u, turn, own, back=layer == 0, theta=config.rope_theta, generator=generator)


def _head_pair(
    attention: LatentAttention, u: Tensor, turn: Tensor, own: float, back: bool, theta: float,
    generator: torch.Generator,
) -> None:  # fmt: skip
    """The first half of a layer's heads: `back` makes previous-token heads, else heads that match and copy.

    u [H]: the common direction; turn [H, H]: the rotation R; own: length of a token's own part after RMSNorm.
    """
    config = attention.config
    hidden, rank, nope, rope, value = (
        config.hidden_size, config.kv_lora_rank, config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim,
    )  # fmt: skip
    heads = max(1, config.num_attention_heads // 2)
    read = _orthonormal(rank, hidden, generator, without=u)  # the latent: `rank` directions of the token's own part
    kv_a = attention.kv_a_proj_with_mqa.weight
    kv_a[:rank] = read
    q = attention.q_proj.weight.view(config.num_attention_heads, nope + rope, hidden)
    kv_b = attention.kv_b_proj.weight.view(config.num_attention_heads, nope + value, rank)
    out = attention.o_proj.weight.view(hidden, config.num_attention_heads, value)
    carry = _orthonormal(min(rank, heads * value), rank, generator)  # the heads share the latent's directions out
    if back:
        kv_a[rank:] = 0
    for head in range(heads):
        rows = torch.arange(head * value, (head + 1) * value) % carry.shape[0]
        v = carry[rows]
        kv_b[head, nope:] = v
        written = read.T @ v.T
        out[:, head] = WRITE * (turn @ written if back else written)
        if back:
            q[head] = 0
            length = (LOOK_BACK**0.5) / (COMMON * own)
            for pair in range(min(PAIRS, rope // 2)):
                angle = -torch.tensor(theta ** (-2 * pair / rope))
                kv_a[rank + 2 * pair] = length * u
                q[head, nope + 2 * pair] = length * torch.cos(angle) * u
                q[head, nope + 2 * pair + 1] = length * torch.sin(angle) * u
        else:
            keys = _orthonormal(nope, rank, generator)
            kv_b[head, :nope] = keys
            q[head, :nope] = MATCH * (keys @ read @ turn)
            q[head, nope:] = 0
