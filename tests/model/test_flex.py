"""FlexAttention against the CPU path: by its reference here, by its compiled kernel where there is an accelerator."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.attention.flex_attention
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from openk2.model import flex
from openk2.model.attention import Packing, attend

HEADS, QK, V, SCALE = 3, 24, 16, 0.31
LENGTHS = [[5], [128], [129, 1, 126], [1] * 7 + [300, 40, 128, 256, 3], [700], [64] * 9 + [33]]


def _inputs(total: int, device: str = "cpu") -> list[Tensor]:
    torch.manual_seed(total)
    return [torch.randn(total, HEADS, size, device=device) for size in (QK, QK, V)]


@pytest.mark.parametrize("lengths", LENGTHS)
def test_the_mask_by_blocks_is_the_mask(lengths: list[int]) -> None:
    mask, total = flex.document_mask(lengths, "cpu"), sum(lengths)
    document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    rows = torch.arange(total)
    seen = (document[:, None] == document[None]) & (rows[:, None] >= rows[None])
    assert torch.equal(mask.mask_mod(rows, rows, rows[:, None], rows[None]), seen)
    # Blocks that are skipped hold nothing, blocks that are taken unmasked hold nothing else.
    blocks = -(-total // 128)
    kinds = torch.zeros(blocks, blocks, dtype=torch.int)
    listed = ((1, mask.kv_num_blocks, mask.kv_indices), (2, mask.full_kv_num_blocks, mask.full_kv_indices))
    for kind, counts, indices in listed:
        assert counts is not None and indices is not None
        for i in range(blocks):
            kinds[i, indices[0, 0, i, : counts[0, 0, i]].long()] = kind
    for i in range(blocks):
        for j in range(blocks):
            part = seen[i * 128 : (i + 1) * 128, j * 128 : (j + 1) * 128]
            assert bool(part.any()) == bool(kinds[i, j] > 0)
            assert kinds[i, j] != 2 or bool(part.all())


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch's own reference of the operator, T x T and with a backward pass, run on the CPU too.

    Its front refuses gradients and maxima there, because the compiled CPU kernel has none; the reference has both.
    """
    module: Any = torch.nn.attention.flex_attention
    options = module._apply_kernel_options

    def allowed(query: Tensor, *rest: Any) -> dict[str, Any]:
        return options(query, *rest[:-1], None) | {"OUTPUT_LOGSUMEXP": True, "OUTPUT_MAX": rest[-1] is not None}

    monkeypatch.setattr(module, "_validate_device", lambda *tensors: None)
    monkeypatch.setattr(module, "_apply_kernel_options", allowed)


@pytest.mark.usefixtures("reference")
@pytest.mark.parametrize("lengths", LENGTHS)
def test_outputs_maxima_and_gradients_are_those_of_the_cpu_path(lengths: list[int]) -> None:
    here = [x.requires_grad_() for x in _inputs(sum(lengths))]
    there = [x.detach().clone().requires_grad_() for x in here]
    weight = torch.randn(sum(lengths), HEADS, V)
    expected, peak = attend(here[0], here[1], here[2], SCALE, Packing(lengths), track=True)
    out, found = flex.attend(there[0], there[1], there[2], SCALE, flex.document_mask(lengths, "cpu"), track=True)
    (expected * weight).sum().backward()
    (out * weight).sum().backward()
    torch.testing.assert_close(out, expected, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(found, peak, atol=2e-6, rtol=1e-5)
    assert not found.requires_grad
    for mine, other in zip(here, there, strict=True):
        torch.testing.assert_close(other.grad, mine.grad, atol=1e-5, rtol=1e-5)


def test_without_maxima() -> None:
    lengths = LENGTHS[3]
    q, k, v = _inputs(sum(lengths))
    with torch.no_grad():  # the front allows this much on a CPU
        out, nothing = flex.attend(q, k, v, SCALE, flex.document_mask(lengths, "cpu"))
    torch.testing.assert_close(out, attend(q, k, v, SCALE, Packing(lengths))[0], atol=2e-6, rtol=1e-5)
    assert bool((nothing == -torch.inf).all())


def test_other_documents_are_no_other_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes many seconds on an accelerator: it must happen once, not for each batch."""
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(torch.nn.attention.flex_attention.flex_attention, dynamic=False, backend=counter)
    monkeypatch.setattr(flex, "_kernel", lambda on: compiled)
    for lengths in ([100, 200, 84], [384], [1] * 84 + [300], [300, 84]):
        q, k, v = _inputs(384)
        with torch.no_grad():
            out, _ = flex.attend(q, k, v, SCALE, flex.document_mask(lengths, "cpu"))
        torch.testing.assert_close(out, attend(q, k, v, SCALE, Packing(lengths))[0], atol=2e-6, rtol=1e-5)
    assert counter.frame_count == 1


def test_the_masks_size_is_that_of_blocks() -> None:
    mask = flex.document_mask([4096] * 16, "cpu")  # 65,536 tokens: 4 GiB as a mask of tokens
    assert sum(x.nbytes for x in mask.as_tuple() if isinstance(x, Tensor)) < 16 * 2**20
    assert mask.sparsity() > 95


@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention's backward pass needs an accelerator")
@pytest.mark.parametrize("lengths", LENGTHS[2:])
def test_gradients_on_an_accelerator_are_those_of_the_cpu_path(lengths: list[int]) -> None:
    here = [x.requires_grad_() for x in _inputs(sum(lengths))]
    there = [x.detach().cuda().requires_grad_() for x in here]
    weight = torch.randn(sum(lengths), HEADS, V)
    expected, peak = attend(here[0], here[1], here[2], SCALE, Packing(lengths), track=True)
    out, found = attend(there[0], there[1], there[2], SCALE, Packing(lengths, "cuda"), track=True)
    (expected * weight).sum().backward()
    (out * weight.cuda()).sum().backward()
    torch.testing.assert_close(found.cpu(), peak, atol=1e-2, rtol=1e-2)
    for mine, other in zip(here, there, strict=True):
        assert mine.grad is not None and other.grad is not None
        torch.testing.assert_close(other.grad.cpu(), mine.grad, atol=2e-2, rtol=2e-2)
