"""The torch network against transformers' DeepSeek-V3, against itself, and against finite differences."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
import torch
import torch.nn.functional as F
from twins import TWINS, config, network

from openk2.model.attention import Packing, attend
from openk2.model.moe import Experts


@pytest.mark.parametrize("name", TWINS)
def test_logits_and_gradients_equal_transformers(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    model = network(name)
    hf_config = transformers.DeepseekV3Config(**model.config.to_hf())
    hf_config._attn_implementation = "eager"
    reference = transformers.DeepseekV3ForCausalLM(hf_config).float().eval()
    _load_reference(reference, model)
    ids = torch.randint(0, 128, (150,), generator=torch.Generator().manual_seed(3))
    logits = model(ids, Packing([150]))
    expected = reference(ids[None]).logits[0]
    assert (logits - expected).abs().max() < 1e-5
    rows = torch.arange(1, 150)
    model.loss(ids, Packing([150]), rows).backward()
    F.cross_entropy(reference(ids[None]).logits[0, :-1], ids[1:]).backward()
    theirs = dict(reference.named_parameters())
    for ours, other in (
        ("model.layers.0.self_attn.kv_b_proj.weight", None),
        ("model.layers.2.self_attn.o_proj.weight", None),
        ("model.embed_tokens.weight", None),
        ("model.layers.2.mlp.gate.weight", None),
        ("model.layers.2.mlp.experts.down_proj", None),
    ):
        mine, reference_gradient = dict(model.named_parameters())[ours].grad, theirs[other or ours].grad
        assert mine is not None and reference_gradient is not None
        assert (mine - reference_gradient).abs().max() < 2e-5 * max(1, float(reference_gradient.abs().max()))


def _load_reference(reference: torch.nn.Module, model: torch.nn.Module) -> None:
    """Copy our state dict into transformers' module, whose experts are fused stacks in memory."""
    state = {k: v.clone() for k, v in model.state_dict().items() if ".experts." not in k}
    for name, module in model.named_modules():
        if isinstance(module, Experts):
            state[f"{name}.gate_up_proj"] = torch.cat((module.gate_proj, module.up_proj), 1).detach().clone()
            state[f"{name}.down_proj"] = module.down_proj.detach().clone()
    reference.load_state_dict(state)


def test_packed_documents_do_not_see_each_other() -> None:
    model = network("q_lora")
    lengths = [70, 3, 300, 64, 65, 1, 90]
    ids = torch.randint(0, 128, (sum(lengths),), generator=torch.Generator().manual_seed(4))
    packed = model(ids, Packing(lengths)).split(lengths)
    for document, logits in zip(ids.split(lengths), packed, strict=True):
        assert torch.allclose(model(document, Packing([len(document)])), logits, atol=2e-5)


def test_packed_gradient_is_the_sum_of_separate_ones() -> None:
    model = network("plain")
    lengths = [40, 300, 7]
    ids = torch.randint(0, 128, (sum(lengths),), generator=torch.Generator().manual_seed(5))
    starts = [0, 40, 340]
    rows = torch.tensor([r for s, n in zip(starts, lengths, strict=True) for r in range(s + 1, s + n)])
    model.loss(ids, Packing(lengths), rows).backward()
    packed = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for document in ids.split(lengths):
        n = len(document) - 1
        (model.loss(document, Packing([n + 1]), torch.arange(1, n + 1)) * n / len(rows)).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(parameter.grad, packed[name], atol=1e-5), name


def test_attention_equals_the_formula_and_reports_the_largest_logit() -> None:
    g = torch.Generator().manual_seed(6)
    lengths = [5, 600, 64, 130]
    q, k, v = (torch.randn(sum(lengths), 3, d, generator=g, dtype=torch.float64, requires_grad=True) for d in (8, 8, 6))
    out, peak = attend(q, k, v, 0.3, Packing(lengths), track=True)
    target = torch.randn(out.shape, generator=g, dtype=torch.float64)
    mine = torch.autograd.grad((out * target).sum(), (q, k, v))
    parts, largest = [], torch.full((3,), -torch.inf)
    for a, b, c in zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True):
        scores = torch.einsum("inD,jnD->nij", a, b) * 0.3
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
        largest = torch.maximum(largest, scores.amax((1, 2)).float())
        parts.append(torch.einsum("nij,jnD->inD", scores.softmax(-1), c))
    expected = torch.cat(parts)
    theirs = torch.autograd.grad((expected * target).sum(), (q, k, v))
    assert torch.allclose(out, expected)
    assert (peak >= largest - 1e-5).all() and (peak <= largest.clamp_min(0) + 1e-5).all()
    for a, b in zip(mine, theirs, strict=True):
        assert torch.allclose(a, b)


def test_routed_experts_pass_gradcheck() -> None:
    torch.manual_seed(0)
    experts = Experts(config("plain", hidden_size=6, moe_intermediate_size=4, n_routed_experts=3)).double()
    x = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    index = torch.tensor([[0, 2], [2, 0], [0, 2], [2, 0], [0, 2]])  # expert 1 gets nothing
    stacks = [torch.randn(p.shape, dtype=torch.float64, requires_grad=True) for p in experts.parameters()]
    logits = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)

    def run(x: torch.Tensor, weights: torch.Tensor, *stacks: torch.Tensor) -> torch.Tensor:
        names = ("gate_proj", "up_proj", "down_proj")
        return torch.func.functional_call(experts, dict(zip(names, stacks, strict=True)), (x, index, weights))[0]

    # Weights and their gradient pass through float32, so that only the rest is checked to double precision.
    assert torch.autograd.gradcheck(run, (x, logits.detach().float(), *stacks))
    weights = logits.detach().float().requires_grad_()
    run(x, weights, *stacks).sum().backward()
    assert weights.grad is not None
    bumped = weights.detach().clone()
    bumped[1, 0] += 1
    slope = (run(x, bumped, *stacks) - run(x, weights, *stacks)).sum().detach()
    assert abs(float(weights.grad[1, 0] - slope)) < 1e-4 * max(1, abs(float(slope)))


def test_bf16_is_close_to_float32() -> None:
    ids = torch.randint(0, 128, (200,), generator=torch.Generator().manual_seed(7))
    exact, rough = network("plain"), network("plain", torch.bfloat16)
    rows = torch.arange(1, 200)
    a, b = exact.loss(ids, Packing([200]), rows), rough.loss(ids, Packing([200]), rows)
    assert abs(float(a) - float(b)) < 0.05 * float(a)


def test_state_dict_has_one_matrix_an_expert() -> None:
    model = network("tied")
    tensors = model.tensors()
    assert "lm_head.weight" not in tensors
    assert tensors["model.layers.1.mlp.experts.5.gate_proj.weight"].shape == (32, 64)
    assert tensors["model.layers.1.mlp.gate.e_score_correction_bias"].shape == (8,)
    assert sum(t.numel() for t in tensors.values()) == model.config.count().total
    other = network("tied")
    other.initialise(9)
    other.load_tensors(tensors)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    tensors.pop("model.layers.1.mlp.experts.5.gate_proj.weight")
    with pytest.raises(RuntimeError, match=r"experts\.5\.gate_proj"):
        other.load_tensors(tensors)


def test_balance_raises_the_bias_of_idle_experts() -> None:
    moe = next(network("plain").moe_layers())
    before = moe.gate.e_score_correction_bias.clone()
    moe.load = torch.tensor([10, 0, 0, 0, 0, 0, 0, 0])
    assert moe.balance(0.1) == 8
    change = moe.gate.e_score_correction_bias - before
    assert change[0] < 0 < change[1] and abs(float(change.sum())) < 1e-5
