"""Attention that starts as a copying circuit."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from openk2.model.attention import Packing  # noqa: E402
from openk2.model.config import ModelConfig  # noqa: E402
from openk2.train.loop import build  # noqa: E402

CONFIG = ModelConfig.from_depth(4, vocab_size=600)


def copy_loss(mimetic: bool) -> float:
    """Mean loss of a random sequence that comes again, at the start of training; ln(600) = 6.4 is knowing nothing."""
    model = build(CONFIG, 0, mimetic)
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(8):
        tokens = torch.randint(0, 600, (24,), generator=generator)
        ids = torch.cat((tokens, torch.randint(0, 600, (6,), generator=generator), tokens))
        with torch.no_grad():
            logits = model(ids, Packing([len(ids)])).float()
        losses.append(torch.nn.functional.cross_entropy(logits[-24:-1], ids[-23:]).item())
    return sum(losses) / len(losses)


def test_it_copies_before_any_training() -> None:
    random, mimetic = copy_loss(False), copy_loss(True)
    assert random > 6.3
    assert mimetic < random - 0.5


def test_the_common_direction_does_not_move_probabilities() -> None:
    """All embeddings share one part, so through the tied head it adds the same to each logit."""
    embedding = build(CONFIG, 0, True).model.embed_tokens.weight.detach()
    common = embedding.mean(0)
    along = embedding @ (common / common.norm())
    assert along.std() < 0.02 * along.mean().abs()


def test_low_rank_queries_are_refused() -> None:
    with pytest.raises(ValueError, match="direct queries"):
        build(ModelConfig.from_depth(4, vocab_size=600, q_lora_rank=32), 0, True)
