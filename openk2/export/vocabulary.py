"""Kimi's tokenizer as other programs write theirs: byte-level BPE of GPT-2's kind, with merges.

tiktoken has ranks and no merges: it joins whichever neighbours give the token of the lowest rank. A token's merge is
the pair it falls into when only tokens of lower rank may be joined; in the order of ranks these merges act alike. A
token that no such pair gives is reached only where it is a whole piece of text (`ignore_merges` of tokenizers).
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from openk2.chat.tokenizer import PATTERN, Tokenizer, template_of

_VISIBLE = (  # markup that Kimi's tokenizer_config.json does not call special, so that servers decode and parse it
    "<think>", "</think>", "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>",
    "<|tool_call_argument_begin|>", "<|tool_call_end|>",
)  # fmt: skip


def byte_letters() -> list[str]:
    """GPT-2's letter for each byte: itself where it is printable, else the next unused letter from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def tokens(tokenizer: Tokenizer) -> list[bytes]:
    """The bytes of every ordinary token, by id."""
    return [tokenizer.decode_bytes([i]) for i in range(tokenizer.n_base)]


def merges(vocabulary: list[bytes]) -> list[tuple[bytes, bytes]]:
    """The pairs that tokens are merged from, in the order of the tokens' ranks."""
    ranks = {token: rank for rank, token in enumerate(vocabulary)}
    found = []
    for rank, token in enumerate(vocabulary):
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            pairs = [ranks.get(a + b, rank) for a, b in pairwise(parts)]
            best = min(pairs)
            if best >= rank:
                break
            at = pairs.index(best)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if len(parts) == 2:
            found.append((parts[0], parts[1]))
    return found


def spelled(token: bytes, letters: list[str]) -> str:
    return "".join(letters[byte] for byte in token)


def tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """tokenizer.json of Hugging Face's tokenizers, which splits and merges text as tiktoken does with Kimi's files."""
    letters, vocabulary = byte_letters(), tokens(tokenizer)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, **_added(name)} for name, i in tokenizer.special.items()],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}, byte_level,
        ]},
        "post_processor": byte_level, "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": True,
            "vocab": {spelled(token, letters): i for i, token in enumerate(vocabulary)},
            "merges": [[spelled(a, letters), spelled(b, letters)] for a, b in merges(vocabulary)],
        },
    }  # fmt: skip


def tokenizer_config(folder: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    """The folder's tokenizer_config.json without the reference to code that only Moonshot's repository has."""
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    for name in ("auto_map", "chat_template", "additional_special_tokens", "extra_special_tokens"):
        config.pop(name, None)
    added = {str(i): _added(name) for name, i in tokenizer.special.items()}
    return {**config, "added_tokens_decoder": added, "tokenizer_class": "PreTrainedTokenizerFast"}


def chat_template(folder: Path) -> str:
    """The folder's own chat template, else that of K2 Thinking or K2 Instruct, whichever the tokenizer is of."""
    own = folder / "chat_template.jinja"
    if own.exists():
        return own.read_text(encoding="utf-8")
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    if isinstance(config.get("chat_template"), str):
        return config["chat_template"]
    return (Path(__file__).parent / f"{template_of(folder)}.jinja").read_text(encoding="utf-8")


def _added(name: str) -> dict[str, Any]:
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    return {"content": name, **flags, "special": name not in _VISIBLE}
