"""The sequence-wise balance loss: no document may crowd its tokens onto few experts (arXiv 2412.19437 eq. 17 to 20).

The router's bias evens the load of whole batches; this small loss (K2: alpha 0.001) prevents extremes in a document.
For a document of T tokens, with N experts of which K are used, s the sigmoid affinities of its tokens:

    L = alpha sum_i f_i P_i,  f_i = N / (K T) sum_t [s_ti is among the K largest of token t],
                              P_i = 1 / T sum_t s_ti / sum_j s_tj

f has no gradient. It is 1 for even load, and up to N / K. Documents of a batch count by their tokens; those without a
token to learn (the filler at a batch's end) do not count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from openk2.model.attention import Packing


class Balance:
    """Collects the loss of every mixture-of-experts layer of one forward pass over a packed batch.

    One of these lives as long as the batch. A layer that is computed a second time in the backward pass (activation
    checkpointing) adds its term again when the sum is taken already: nothing counts twice.
    """

    def __init__(self, packing: Packing, rows: Tensor, alpha: float) -> None:
        """`rows` [M] are the tokens that are learned."""
        device = rows.device
        lengths = torch.tensor(packing.lengths, device=device)
        self.document = torch.repeat_interleave(
            torch.arange(len(lengths), device=device), lengths, output_size=packing.total
        )
        counted = torch.zeros(len(lengths), device=device).index_fill_(0, self.document[rows], 1.0)
        self.lengths = lengths
        self.share = counted / (counted * lengths).sum()  # of each token of a document in the mean over all
        self.alpha = alpha
        self.terms: list[Tensor] = []

    def add(self, scores: Tensor, per_token: int) -> None:
        """A layer's affinities before any bias: scores [T, N] in (0, 1), of which each token uses `per_token`."""
        experts = scores.shape[1]
        chosen = torch.zeros_like(scores).scatter_(1, scores.detach().topk(per_token, -1, sorted=False)[1], 1.0)
        load = scores.new_zeros(len(self.lengths), experts).index_add_(0, self.document, chosen)
        load *= (experts / per_token) * (self.share / self.lengths)[
            :, None
        ]  # f, times the document's share of the mean
        affinity = scores / (scores.sum(-1, keepdim=True) + 1e-20)
        self.terms.append((load.index_select(0, self.document) * affinity).sum())

    def total(self) -> Tensor:
        """The loss, alpha included, summed over layers. `value` keeps it."""
        total = self.alpha * torch.stack(self.terms).sum()
        self.value = total.detach()
        return total
