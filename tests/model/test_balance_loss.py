"""The sequence-wise balance loss: its formula document by document, gradient, activation checkpointing, effect."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from openk2.model.attention import Packing
from openk2.model.balance import Balance
from openk2.model.config import ModelConfig
from openk2.model.moe import Router
from openk2.model.transformer import Block, Transformer

CONFIG = dataclasses.replace(
    ModelConfig.from_depth(3, vocab_size=64), n_routed_experts=8, num_experts_per_tok=2, first_k_dense_replace=1
)
LENGTHS = [7, 1, 30, 12, 14]
ROWS = torch.tensor([2, 3, 9, 20, 37, 40, 41])  # of documents 0, 2 and 3; the last one is filler


def _model(alpha: float) -> Transformer:
    model = Transformer(CONFIG, torch.float32)
    model.initialise(3)
    for moe in model.moe_layers():
        torch.nn.init.normal_(moe.gate.weight, std=1.0, generator=torch.Generator().manual_seed(1))
        moe.gate.e_score_correction_bias.copy_(torch.linspace(-0.5, 0.5, 8))  # the loss knows nothing of it
    model.alpha = alpha
    return model


def _formula(scores: Tensor, k: int) -> Tensor:
    """Equations 17 to 20 for one document's scores [T, N], without alpha, in loops."""
    tokens, experts = scores.shape
    total = scores.new_zeros(())
    largest = scores.topk(k, -1)[1].tolist()
    for i in range(experts):
        f = experts / (k * tokens) * sum(i in row for row in largest)
        total = total + f * (scores[:, i] / scores.sum(-1)).mean()
    return total


def _ids() -> Tensor:
    return torch.randint(0, 64, (sum(LENGTHS),), generator=torch.Generator().manual_seed(0))


def test_it_is_the_papers_formula_of_each_learned_document() -> None:
    torch.manual_seed(0)
    scores = torch.rand(sum(LENGTHS), 8, dtype=torch.float64).requires_grad_()
    parts = scores.split(LENGTHS)
    tokens = 7 + 30 + 12
    terms = [n * _formula(parts[i], 2) for i, n in ((0, 7), (2, 30), (3, 12))]
    expected = 0.01 * torch.stack(terms).sum() / tokens
    balance = Balance(Packing(LENGTHS), ROWS, 0.01)
    balance.add(scores, 2)
    found = balance.total()
    assert (
        float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-6) and found.detach() == balance.value
    )
    mine, theirs = (torch.autograd.grad(x, scores, retain_graph=True)[0] for x in (found, expected))
    torch.testing.assert_close(mine, theirs, atol=1e-9, rtol=1e-5)
    assert not bool(mine[7].any()) and not bool(mine[50:].any())  # nothing is learned there


def test_even_load_costs_alpha_and_one_expert_the_most() -> None:
    even = Balance(Packing([8]), torch.arange(1, 8), 1.0)
    even.add(torch.eye(8).roll(1, 1) * 0.5 + torch.eye(8) * 0.5, 2)
    crowded = Balance(Packing([8]), torch.arange(1, 8), 1.0)
    crowded.add(torch.tensor([[1.0, 1.0, 0, 0, 0, 0, 0, 0]]).expand(8, 8), 2)
    assert float(even.total()) == pytest.approx(1.0) and float(crowded.total()) == pytest.approx(4.0)


def test_it_is_added_to_the_loss_once() -> None:
    """Each document gives the same loss, value and gradient packed as alone; alpha 0 gives the loss without."""
    ids, plain, model = _ids(), _model(0.0), _model(0.05)
    packing = Packing(LENGTHS)
    loss = model.loss(ids, packing, ROWS)
    assert packing.balance is not None
    bare = plain.loss(ids, Packing(LENGTHS), ROWS)
    assert float(loss.detach() - bare.detach()) == pytest.approx(float(packing.balance.value), abs=1e-5)
    scores: list[Tensor] = []
    for moe in model.moe_layers():
        hook = lambda module, args: scores.append((args[0] @ module.weight.T).sigmoid().detach())  # noqa: E731
        moe.gate.register_forward_pre_hook(hook)
    model.loss(ids, Packing(LENGTHS), ROWS)
    assert len(scores) == 2
    expected = sum(
        0.05 * n / 49 * _formula(layer.split(LENGTHS)[i], 2) for layer in scores for i, n in ((0, 7), (2, 30), (3, 12))
    )
    assert float(packing.balance.value) == pytest.approx(float(expected), rel=1e-5)


def test_a_second_computation_of_a_block_counts_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, results, forward = _ids(), [], Block.forward
    for again in (False, True):
        if again:
            monkeypatch.setattr(Block, "forward", lambda *args: checkpoint(forward, *args, use_reentrant=False))
        model, packing = _model(0.5), Packing(LENGTHS)
        loss = model.loss(ids, packing, ROWS)
        loss.backward()
        assert packing.balance is not None
        results.append((loss.detach(), packing.balance.value, [p.grad for p in model.parameters()]))
    (loss, value, grads), (loss2, value2, grads2) = results
    assert torch.equal(loss, loss2) and torch.equal(value, value2)
    for a, b in zip(grads, grads2, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-5)


def test_without_alpha_or_experts_there_is_none() -> None:
    packing = Packing(LENGTHS)
    _model(0.0).loss(_ids(), packing, ROWS)
    assert packing.balance is None
    dense = Transformer(dataclasses.replace(CONFIG, first_k_dense_replace=3), torch.float32)
    dense.initialise(0)
    dense.alpha = 0.1
    dense.loss(_ids(), packing, ROWS)
    assert packing.balance is None


def test_with_it_no_document_crowds_its_experts() -> None:
    """Documents of one topic each: the bias evens the whole batch, only the loss evens each document."""
    after = {alpha: _crowding(alpha) for alpha in (0.0, 1.0)}
    before = _crowding(0.0, steps=0)
    assert before["batch"] > 2 and after[0.0]["batch"] < 1.2  # the bias alone does that
    assert after[0.0]["document"] > 0.85 * before["document"]  # and cannot do this
    assert after[1.0]["document"] < 0.85 * after[0.0]["document"] and after[1.0]["batch"] < 0.75 * before["batch"]


def _crowding(alpha: float, steps: int = 150) -> dict[str, float]:
    """Largest over mean load, of the batch and of a document in the mean, after a router was trained on the loss."""
    torch.manual_seed(0)
    router = Router(CONFIG)
    torch.nn.init.normal_(router.weight, std=0.3)
    topics = torch.randn(16, CONFIG.hidden_size) * 0.5
    topics[:8] += torch.randn(CONFIG.hidden_size)  # half of the topics are akin: the batch is uneven too
    packing, rows = Packing([32] * 16), torch.arange(1, 512, 2)
    optimizer: Any = torch.optim.Adam(router.parameters(), 1e-3)
    index = torch.empty(0)
    for step in range(steps + 1):
        x = topics.repeat_interleave(32, 0) + 0.5 * torch.randn(512, CONFIG.hidden_size)
        balance = Balance(packing, rows, alpha)
        index, _ = router(x, balance)
        if step < steps:
            load = torch.bincount(index.flatten(), minlength=8).float()
            router.e_score_correction_bias += 0.003 * torch.sign(load.mean() - load)
            optimizer.zero_grad()
            balance.total().backward()
            optimizer.step()
    chosen = torch.nn.functional.one_hot(index, 8).sum(1).float()  # [T, N]
    batch, documents = chosen.mean(0), chosen.view(16, 32, 8).mean(1)
    crowded = (documents.amax(1) / documents.mean(1)).mean()
    return {"batch": float(batch.max() / batch.mean()), "document": float(crowded)}
