"""Muon against torch's own, AdamW against torch's own, and the schedule's shape."""

from __future__ import annotations

import pytest

from openk2.optim.schedule import WSD

pytest.importorskip("torch")
import torch

from openk2.model.config import ModelConfig
from openk2.model.transformer import Transformer
from openk2.optim.muon import MuonAdamW, orthogonalise, parameter_groups


@pytest.mark.parametrize("shape", [(48, 96), (96, 48), (64, 64), (5, 32, 64), (3, 96, 40)])
def test_muon_equals_torch(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    mine = torch.nn.Parameter(torch.randn(shape))
    theirs = [torch.nn.Parameter(m.clone()) for m in mine.detach().reshape(-1, *shape[-2:])]  # it takes no stacks
    ours = MuonAdamW([{"params": [mine], "muon": True}], lr=0.02, weight_decay=0.1)
    reference = torch.optim.Muon(
        theirs, lr=0.02, weight_decay=0.1, momentum=0.95, nesterov=True, adjust_lr_fn="match_rms_adamw"
    )
    for step in range(4):
        mine.grad = torch.randn(shape, generator=torch.Generator().manual_seed(step))
        for matrix, gradient in zip(theirs, mine.grad.reshape(-1, *shape[-2:]), strict=True):
            matrix.grad = gradient.clone()
        ours.step()
        reference.step()
    difference = (mine.view(-1, *shape[-2:]) - torch.stack(list(theirs))).abs().max()
    assert difference == 0


def test_a_stack_of_experts_is_stepped_matrix_by_matrix() -> None:
    torch.manual_seed(1)
    stack = torch.nn.Parameter(torch.randn(5, 32, 64))
    single = [torch.nn.Parameter(m.clone()) for m in stack.detach()]
    gradient = torch.randn(5, 32, 64)
    stack.grad = gradient.clone()
    for parameter, g in zip(single, gradient, strict=True):
        parameter.grad = g.clone()
    MuonAdamW([{"params": [stack], "muon": True}]).step()
    MuonAdamW([{"params": single, "muon": True}]).step()
    assert torch.allclose(stack, torch.stack(list(single)), atol=1e-5)


def test_orthogonalise_levels_the_singular_values() -> None:
    x = orthogonalise(torch.randn(3, 40, 90, generator=torch.Generator().manual_seed(2)), dtype=torch.float32)
    values = torch.linalg.svdvals(x)
    assert values.min() > 0.6 and values.max() < 1.3


def test_adamw_equals_torch() -> None:
    torch.manual_seed(3)
    mine = torch.nn.Parameter(torch.randn(17))
    theirs = torch.nn.Parameter(mine.detach().clone())
    ours = MuonAdamW([{"params": [mine], "muon": False}], lr=0.01, weight_decay=0.1)
    reference = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.1, betas=(0.9, 0.95), eps=1e-8)
    for _ in range(5):
        gradient = torch.randn(17)
        mine.grad, theirs.grad = gradient.clone(), gradient.clone()
        ours.step()
        reference.step()
    assert torch.allclose(mine, theirs, atol=1e-6)


def test_groups_cover_every_parameter_once() -> None:
    model = Transformer(ModelConfig.from_depth(2, vocab_size=64))
    groups = parameter_groups(model)
    ids = [id(p) for g in groups for p in g["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    muon = {id(p) for p in groups[0]["params"]}
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim > 1 and not any(s in name for s in ("embed", "lm_head", "mlp.gate.weight"))
        assert (id(parameter) in muon) == matrix, name


def test_schedule_warms_up_stays_and_decays() -> None:
    schedule = WSD(warmup=0.1, decay=0.4, floor=0.1)
    assert schedule.at(0) == 0 and schedule.at(0.05) == pytest.approx(0.5)
    assert schedule.at(0.1) == schedule.at(0.6) == 1
    assert schedule.at(0.8) == pytest.approx(0.55) and schedule.at(1) == schedule.at(2) == pytest.approx(0.1)
    assert WSD(0, 0).at(0) == 1 == WSD(0, 0).at(1)
    with pytest.raises(ValueError, match="fractions"):
        WSD(0.6, 0.6)
