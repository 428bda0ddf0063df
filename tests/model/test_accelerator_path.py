"""A whole training step by the code of an accelerator, run on this CPU and held against the CPU's own code."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.attention.flex_attention as front
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from openk2.model import flex
from openk2.model.attention import Packing
from openk2.model.config import ModelConfig
from openk2.model.transformer import Transformer
from openk2.train.int4 import rounded

CONFIG = dataclasses.replace(
    ModelConfig.from_depth(3, vocab_size=64), q_lora_rank=32, num_experts_per_tok=3, first_k_dense_replace=1,
    num_hidden_layers=2, hidden_size=64, moe_intermediate_size=32,
)  # fmt: skip
LENGTHS = [70, 3, 200, 27]
IDS = torch.randint(0, 64, (300,), generator=torch.Generator().manual_seed(0))
ROWS = torch.tensor([i for i in range(1, 273) if i not in (70, 73)])


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tensor says that it is on an accelerator; FlexAttention runs torch's own reference of its operator."""
    options: Any = front._apply_kernel_options  # type: ignore[attr-defined]

    def allowed(query: Tensor, *rest: Any) -> dict[str, Any]:
        return options(query, *rest[:-1], None) | {"OUTPUT_LOGSUMEXP": True, "OUTPUT_MAX": rest[-1] is not None}

    monkeypatch.setattr(front, "_validate_device", lambda *tensors: None)
    monkeypatch.setattr(front, "_apply_kernel_options", allowed)
    monkeypatch.setattr(flex, "_kernel", lambda compiled: front.flex_attention)
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: True))


def _step() -> dict[str, Tensor]:
    """Loss, all gradients, largest logits and loads, with the experts seen through INT4."""
    model = Transformer(CONFIG, torch.float32)
    model.initialise(2)
    model.alpha = 0.01
    for attention in model.attentions():
        attention.track_logits = True
    packing = Packing(LENGTHS)
    with rounded(model.experts()):
        loss = model.loss(IDS, packing, ROWS)
        loss.backward()
    found = {"groups": torch.tensor(len(packing.groups))}
    found |= {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    found |= {f"logits {i}": m.max_logits for i, m in enumerate(model.attentions()) if m.max_logits is not None}
    found |= {f"load {i}": m.load for i, m in enumerate(model.moe_layers()) if m.load is not None}
    return found | {"loss": loss.detach()}


def test_a_step_is_that_of_the_cpu(request: pytest.FixtureRequest) -> None:
    expected = _step()
    request.getfixturevalue("pretended")
    found = _step()
    assert expected.pop("groups") > 0 and found.pop("groups") == 0  # the other code it was
    assert found.keys() == expected.keys() and {"load 0", "logits 1"} <= found.keys()
    for name, value in expected.items():
        size = max(1e-3, float(value.abs().max()))
        torch.testing.assert_close(found[name], value, atol=2e-5 * size, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.usefixtures("pretended")
def test_no_operation_waits_for_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake tensors have no values: what needs one on the host raises. The mask and the ids are the host's own."""
    attended: list[int] = []

    def kernel(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Any:
        attended.append(1)
        out = (q @ k.mT) @ v  # of the right shape, with gradients to all three
        return out, front.AuxOutput(max_scores=q.detach().float().sum(-1))

    monkeypatch.setattr(flex, "_kernel", lambda compiled: kernel)
    packing = Packing(LENGTHS)
    model = Transformer(CONFIG)
    for attention in model.attentions():
        attention.track_logits = True
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for module in model.modules():
            for name, p in module._parameters.items():
                if p is not None:
                    module._parameters[name] = torch.nn.Parameter(mode.from_tensor(p.detach()))
        model.alpha = 0.01
        loss = model.loss(IDS, packing, ROWS)
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        for moe in model.moe_layers():
            assert moe.load is not None and moe.load.shape == (CONFIG.n_routed_experts,)
    assert len(attended) == CONFIG.num_hidden_layers
