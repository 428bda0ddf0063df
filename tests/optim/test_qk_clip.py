"""QK-Clip against its definition: what is clipped ends at the threshold, what is not stays to the bit."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("torch")
import torch
from torch import Tensor

from openk2.model.attention import LatentAttention, Packing
from openk2.model.config import ModelConfig
from openk2.model.rope import rope_tables
from openk2.optim.qk_clip import qk_clip_, qk_clip_all_

YARN = {"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64, "mscale": 1.0, "mscale_all_dim": 1.0}


def attention_of(rank: int | None = None, yarn: bool = False) -> LatentAttention:
    config = ModelConfig.from_depth(4, vocab_size=64, q_lora_rank=rank, rope_scaling=YARN if yarn else None)
    torch.manual_seed(4)
    attention = LatentAttention(config)
    attention.track_logits = True
    with torch.no_grad():
        attention.query_projection().weight.mul_(30)
    return attention


def largest_logits(attention: LatentAttention, seed: int = 0) -> Tensor:
    """The maxima [N] that one forward pass over random inputs leaves, added to those before."""
    packing = Packing([50, 30])
    x = torch.randn(80, attention.config.hidden_size, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        attention(x, packing, *rope_tables(attention.config, packing.positions))
    assert attention.max_logits is not None
    return attention.max_logits.clone()


@pytest.mark.parametrize(("rank", "yarn"), [(None, False), (24, False), (24, True)])
def test_clipped_heads_end_at_the_threshold_and_others_stay(rank: int | None, yarn: bool) -> None:
    attention = attention_of(rank, yarn)
    before = largest_logits(attention)
    threshold = float(before.mean())
    weights = {name: w.clone() for name, w in attention.named_parameters()}
    largest, clipped = qk_clip_all_([attention], threshold)
    over = before > threshold
    assert largest == [float(before.max())] and clipped == [int(over.sum())] and 0 < clipped[0] < len(before)
    assert attention.max_logits is None  # the next step starts anew
    # Non-rotary parts are scaled by gamma together and rotary ones by gamma: all logits of the head shrink by gamma.
    assert torch.allclose(largest_logits(attention), before.clamp_max(threshold), rtol=1e-5)
    for name, weight in attention.named_parameters():
        heads = (weight != weights[name]).view(len(before), -1) if name.startswith(("q_b", "q_proj", "kv_b")) else None
        changed = bool((weight != weights[name]).any()) if heads is None else heads.any(1)
        assert torch.equal(changed, over) if isinstance(changed, Tensor) else not changed, name


def test_the_values_are_left_alone() -> None:
    attention = attention_of()
    c = attention.config
    heads = attention.kv_b_proj.weight.detach().view(c.num_attention_heads, -1, c.kv_lora_rank)
    values = heads[:, c.qk_nope_head_dim :]
    before = values.clone()
    assert qk_clip_(attention, torch.full((c.num_attention_heads,), 400.0), 100.0) == c.num_attention_heads
    assert torch.equal(values, before)


@pytest.mark.parametrize("logit", [-5.0, 0.0, 99.0, -math.inf, math.nan, math.inf])
def test_logits_that_need_no_clip_change_nothing(logit: float) -> None:
    attention = attention_of()
    before = [p.clone() for p in attention.parameters()]
    logits = torch.full((attention.config.num_attention_heads,), logit)
    assert qk_clip_(attention, logits, 100.0) == 0
    logits[0] = 200.0  # beside a head that is clipped
    assert qk_clip_(attention, logits, 100.0) == 1
    for old, new in zip(before, attention.parameters(), strict=True):
        assert new.isfinite().all()
        if new.shape == attention.kv_b_proj.weight.shape:
            rows = len(new) // len(logits)
            assert torch.equal(old[rows:], new[rows:]) and not torch.equal(old[:rows], new[:rows])


def test_the_largest_of_all_micro_batches_and_ranks_counts() -> None:
    attention = attention_of()
    first = largest_logits(attention)
    both = largest_logits(attention, seed=1)
    assert (both > first).any() and (both >= first).all()
    elsewhere = both + 7  # what another rank saw
    largest, _ = qk_clip_all_([attention], 1e9, lambda peaks: torch.maximum(peaks, elsewhere))
    assert largest == [float(elsewhere.max())]
    assert qk_clip_all_([attention], 1.0) == ([-math.inf], [0])  # nothing tracked since


def test_no_layers() -> None:
    assert qk_clip_all_([], 100.0) == ([], [])
