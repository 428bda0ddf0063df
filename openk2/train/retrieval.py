"""Retrieval by position: does the network find what was said, wherever it lies and however long the context is?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F

from openk2.model.attention import Packing
from openk2.model.transformer import Transformer

_BATCH = 8192  # tokens of one forward pass


@torch.no_grad()
def answered(model: Transformer, documents: Iterable[Sequence[int]], answer: int) -> list[bool]:
    """For each document of token ids: whether greedy decoding writes its last `answer` tokens, every one of them.

    One forward pass a document decides it: greedy decoding gives the answer exactly when each of its tokens has the
    largest logit after the true ones before it. Leaves the network in its mode; raises ValueError for a document that
    is all answer.
    """
    training = model.training
    model.eval()
    results: list[bool] = []
    batch: list[Sequence[int]] = []
    for document in documents:
        if len(document) <= answer:
            raise ValueError(f"a document of {len(document)} tokens leaves no question before {answer} of answer")
        if batch and sum(map(len, batch)) + len(document) > _BATCH:
            results += _batch(model, batch, answer)
            batch = []
        batch.append(document)
    if batch:
        results += _batch(model, batch, answer)
    model.train(training)
    return results


def _batch(model: Transformer, documents: list[Sequence[int]], answer: int) -> list[bool]:
    device = model.lm_head.weight.device
    lengths = [len(document) for document in documents]
    ids = torch.tensor([t for document in documents for t in document], device=device)
    ends = torch.tensor(lengths, device=device).cumsum(0)
    rows = (ends[:, None] - torch.arange(answer, 0, -1, device=device)).flatten()
    states = model.hidden(ids, Packing(lengths, device)).index_select(0, rows - 1)
    best = F.linear(states, model.lm_head.weight.float()).argmax(-1)
    return (best == ids[rows]).view(-1, answer).all(-1).tolist()
