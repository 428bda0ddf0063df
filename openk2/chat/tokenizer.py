"""Text to token ids and back: a tiktoken BPE in Kimi's layout, for Kimi's own files and for our small ones.

Ordinary text never becomes a special token: `encode("<|im_end|>")` gives the ids of those characters, so nothing
that a user, a page or a tool writes can forge markup. Specials are reached by name only, through `special`.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import tiktoken

from openk2.errors import UserError

# How Kimi splits text before byte-pair merging (tokenization_kimi.py, Kimi-K2 repository).
PATTERN = "|".join(
    [
        r"[\p{Han}]+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*"
        r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
        r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)

# Names of Kimi's special tokens by their distance from the first special id; the last two ids are [UNK] and [PAD].
SPECIAL_OFFSETS = {
    0: "[BOS]",
    1: "[EOS]",
    2: "<|im_end|>",
    3: "<|im_user|>",
    4: "<|im_assistant|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    9: "[EOT]",
    10: "<|im_system|>",
    11: "<|tool_calls_section_begin|>",
    12: "<|tool_calls_section_end|>",
    13: "<|tool_call_begin|>",
    14: "<|tool_call_argument_begin|>",
    15: "<|tool_call_end|>",
    17: "<|im_middle|>",
    18: "<|media_begin|>",
    19: "<|media_content|>",
    20: "<|media_end|>",
    21: "<|media_pad|>",
    22: "<think>",
    23: "</think>",
}

# The Rust regex engine backtracks on giant inputs; Kimi cuts text at these lengths, so the ids depend on them.
MAX_CHARS = 400_000
MAX_RUN = 25_000
_LONG_RUN = re.compile(rf"\s{{{MAX_RUN + 1},}}|\S{{{MAX_RUN + 1},}}")


class Tokenizer:
    """A byte-level BPE: `ranks` maps token bytes to ids 0..N-1, `special` maps names to the ids from N on."""

    def __init__(self, ranks: dict[bytes, int], special: dict[str, int]) -> None:
        self.special = special
        self.n_base = len(ranks)
        self.n_vocab = max(len(ranks), max(special.values(), default=-1) + 1)
        self._encoding = tiktoken.Encoding("kimi", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special)

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Load a folder that holds `tiktoken.model` and `tokenizer_config.json` (or the path of that model file).

        Raises UserError when a file is missing or damaged.
        """
        folder = Path(path)
        model = folder if folder.is_file() else folder / "tiktoken.model"
        config = model.parent / "tokenizer_config.json"
        try:
            ranks = _read_ranks(model)
            special = _read_special(json.loads(config.read_text(encoding="utf-8")), len(ranks))
            return cls(ranks, special)
        except FileNotFoundError as error:
            raise UserError(
                f"No tokenizer at {folder}: {Path(error.filename).name} is missing; "
                "give a folder with tiktoken.model and tokenizer_config.json."
            ) from None
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise UserError(f"The tokenizer at {folder} cannot be read ({error}); fetch or train it again.") from error

    def encode(self, text: str) -> list[int]:
        """The ids of ordinary text; never a special id."""
        if len(text) <= MAX_RUN:
            return self._encoding.encode_ordinary(text)
        ids: list[int] = []
        for piece in split_giant(text):
            ids += self._encoding.encode_ordinary(piece)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, special tokens by their names; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes of ids. Raises KeyError for an id outside the vocabulary."""
        return self._encoding.decode_bytes(list(ids))

    def is_special(self, token: int) -> bool:
        return token >= self.n_base


def split_giant(text: str) -> Iterator[str]:
    """Cut text as Kimi's tokenizer does: every MAX_CHARS characters, and inside longer runs of (non-)whitespace."""
    for start in range(0, len(text), MAX_CHARS):
        part = text[start : start + MAX_CHARS]
        cut = 0
        for run in _LONG_RUN.finditer(part):
            for end in range(run.start() + MAX_RUN, run.end(), MAX_RUN):
                yield part[cut:end]
                cut = end
        yield part[cut:]


def special_names(first: int, count: int) -> dict[int, str]:
    """Kimi's names for the `count` special ids from `first` on; gaps are `<|reserved_token_ID|>`."""
    names = {first + i: SPECIAL_OFFSETS.get(i, f"<|reserved_token_{first + i}|>") for i in range(count)}
    names[first + count - 2] = "[UNK]"
    names[first + count - 1] = "[PAD]"
    return names


def _read_ranks(model: Path) -> dict[bytes, int]:
    lines = model.read_bytes().split(b"\n")
    pairs = (line.split() for line in lines if line)
    ranks = {b64decode(token): int(rank) for token, rank in pairs}
    if list(ranks.values()) != list(range(len(ranks))) or len(ranks) < 256:
        raise ValueError("tiktoken.model does not hold ranks 0, 1, 2, ... of at least the 256 bytes")
    return ranks


def _read_special(config: dict[str, Any], n_base: int) -> dict[str, int]:
    """Special names and ids of a `tokenizer_config.json`; ids between them are reserved ones."""
    named = {int(i): entry["content"] for i, entry in config["added_tokens_decoder"].items()}
    if not named or min(named) < n_base:
        raise ValueError("tokenizer_config.json names no special ids after those of tiktoken.model")
    # Early Kimi K2 Thinking configurations leave the thinking tokens unnamed (or call them [extra_id_N]).
    for offset, name in SPECIAL_OFFSETS.items():
        current = named.get(n_base + offset)
        if name not in named.values() and (current is None or current.startswith("[extra_id_")):
            named[n_base + offset] = name
    return {named.get(i, f"<|reserved_token_{i}|>"): i for i in range(n_base, max(named) + 1)}
