"""What a token costs at least: bytes that must be read, and floating-point operations.

A decoding step reads every matrix once for all its sequences, of the routed experts only those that some sequence has
chosen, and the cache of each sequence. No program can be faster than that many bytes at the speed of the memory, or,
where the whole model fits into the processor's last cache, at the speed of that cache.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from openk2.model import checkpoint
from openk2.model.config import ModelConfig
from openk2.model.safetensors import Entry

_EXPERT = re.compile(r"\.mlp\.experts\.\d+\.")
_EMBEDDING = "model.embed_tokens.weight"


@dataclass(frozen=True)
class Stored:
    """Bytes of a checkpoint's weights. `always`: read for every step; `routed`: all routed experts; `row`: one of the
    embedding. A tied head is read whole, as a head."""

    config: ModelConfig
    always: int
    routed: int
    row: int

    @classmethod
    def of(cls, folder: str | Path) -> Stored:
        """Count a checkpoint folder, from the headers of its files."""
        config = ModelConfig.from_folder(folder)
        return cls.count(config, checkpoint.load(folder, config).entries)

    @classmethod
    def count(cls, config: ModelConfig, entries: Mapping[str, Entry]) -> Stored:
        always = routed = row = 0
        for name, entry in entries.items():
            if name.endswith("weight_shape"):
                continue
            if _EXPERT.search(name):
                routed += entry.bytes
            elif name == _EMBEDDING:
                row = entry.bytes // config.vocab_size
                always += entry.bytes if config.tie_word_embeddings else 0
            elif not (config.tie_word_embeddings and name == "lm_head.weight"):
                always += entry.bytes
        return cls(config, always, routed, row)

    @property
    def working_set(self) -> int:
        """What a long text reads again and again: everything but the rows of the embedding."""
        return self.always + self.routed

    def experts_read(self, sequences: int) -> float:
        """Routed experts of a layer that a step over so many sequences reads, expected where each is as likely.

        E (1 - (1 - k/E)^sequences): one sequence reads its k.
        """
        experts, chosen = self.config.n_routed_experts, self.config.num_experts_per_tok
        return experts * (1 - (1 - chosen / experts) ** sequences)

    def bytes_per_token(self, sequences: int, context: float, cache_bytes_per_position: int) -> float:
        """Bytes that one token of a step over `sequences` texts reads, each behind `context` positions."""
        share = self.experts_read(sequences) / self.config.n_routed_experts
        own = self.row + context * cache_bytes_per_position
        return (self.always + share * self.routed) / sequences + own


def expanded_cache_bytes(config: ModelConfig, bytes_per_value: int) -> int:
    """Of one position where keys and values are kept for each head, in place of the latent they come from."""
    width = config.qk_head_dim + config.v_head_dim
    return config.num_hidden_layers * config.num_attention_heads * width * bytes_per_value


def prefill_operations(config: ModelConfig, tokens: int) -> int:
    """Floating-point operations of reading a text of `tokens` and of the logits behind it.

    Two for each weight of each token's matrices, the head once; and attention over what comes before, for each head
    two for each value of a query and of a result.
    """
    count = config.count()
    biases = config.moe_layers() * config.n_routed_experts
    weights = count.active - count.embedding - count.head - count.norms - biases
    positions = tokens * (tokens + 1) // 2
    attention = config.num_hidden_layers * config.num_attention_heads * (config.qk_head_dim + config.v_head_dim)
    return 2 * (weights * tokens + attention * positions + config.vocab_size * config.hidden_size)
