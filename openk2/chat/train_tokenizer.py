"""Train a small byte-level BPE in Kimi's layout: tiktoken ranks plus `tokenizer_config.json`.

Order of the ranks: the 256 bytes, all numbers of two and three digits (so a number is always tokens of 1-3 digits),
then what is learned. A learned token is letters with at most one leading space, or it has no letters: `"Kenya`,
`(Kenya` and `Kenya` share the token `Kenya`, which is what lets a small model copy a name out of any context.
Encoding still uses Kimi's own split pattern; no merge crosses such a border because none was ever learned.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from openk2.chat.tokenizer import PATTERN, SPECIAL_OFFSETS, Tokenizer, special_names
from openk2.errors import UserError
from openk2.paths import install

N_SPECIAL = 64
NUMBERS = [f"{i:02d}" for i in range(100)] + [f"{i:03d}" for i in range(1000)]
MIN_VOCAB = 256 + len(NUMBERS) + N_SPECIAL
MAX_TOKEN_CHARS = 20

# Inside one of Kimi's chunks, words stand apart from the punctuation that the chunk carries before or after them.
WORD = r" ?[\p{L}\p{M}]+"
# Kimi's config says special=false for the markup that a model writes, so that decoding does not drop it.
_WRITTEN_BY_MODEL = {name for name in SPECIAL_OFFSETS.values() if name.startswith("<|tool_call") or "think" in name}


def train(texts: Iterable[str], vocab_size: int, folder: str | Path) -> Tokenizer:
    """Learn merges from texts and save `tiktoken.model` and `tokenizer_config.json` in folder.

    `vocab_size` counts everything: bytes, numbers, learned tokens and the 64 special ids at the top. Raises UserError
    when it is too small, when the texts hold too few words to fill it, or when `tokenizers` is not installed.
    """
    n_learned = vocab_size - MIN_VOCAB
    if n_learned < 1:
        raise UserError(f"A vocabulary of {vocab_size} is too small; take at least {MIN_VOCAB + 1}.")
    learned = _learn(texts, n_learned)
    if len(learned) < n_learned:
        raise UserError(
            f"The texts hold only {len(learned)} tokens worth learning, {n_learned} are wanted; "
            "give more text or a smaller vocabulary."
        )
    tokens = [*_byte_order(), *(number.encode() for number in NUMBERS), *learned]
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    config = tokenizer_config(len(tokens), N_SPECIAL)
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
    lines = (b64encode(token).decode() + f" {rank}\n" for rank, token in enumerate(tokens))
    part = out / "tiktoken.model.part"
    part.write_text("".join(lines), encoding="ascii")
    part.replace(out / "tiktoken.model")  # last and at once: where it stands, the tokenizer is whole
    return Tokenizer.load(out)


def tokenizer_config(first: int, count: int) -> dict[str, Any]:
    """A `tokenizer_config.json` in Kimi's layout for `count` special ids from `first` on."""
    names = special_names(first, count)
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    named = {i: name for i, name in names.items() if not name.startswith("<|reserved_token_")}
    additional = [name for name in named.values() if name not in _WRITTEN_BY_MODEL]
    return {
        "added_tokens_decoder": {
            str(i): {"content": name, **flags, "special": name not in _WRITTEN_BY_MODEL} for i, name in named.items()
        },
        "additional_special_tokens": [n for n in additional if n not in ("[BOS]", "[EOS]", "[UNK]", "[PAD]")],
        "bos_token": "[BOS]",
        "clean_up_tokenization_spaces": False,
        "eos_token": "[EOS]",
        "extra_special_tokens": {},
        "model_max_length": 1000000000000000019884624838656,
        "pad_token": "[PAD]",
        "tokenizer_class": "TikTokenTokenizer",
        "unk_token": "[UNK]",
        "auto_map": {"AutoTokenizer": ["tokenization_kimi.TikTokenTokenizer", None]},
    }


def _learn(texts: Iterable[str], count: int) -> list[bytes]:
    """The first `count` merged tokens of a BPE over texts, digits left out."""
    try:
        from tokenizers import Regex, models, pre_tokenizers, trainers
        from tokenizers import Tokenizer as Trainable
    except ImportError:
        raise UserError(f"Training a tokenizer needs the `tokenizers` package: {install('train')}.") from None
    trainable = Trainable(models.BPE())
    trainable.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.Split(Regex(r"[0-9]+"), "removed"),
            pre_tokenizers.Split(Regex(WORD), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=256 + count,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=MAX_TOKEN_CHARS,
        show_progress=False,
    )
    trainable.train_from_iterator(texts, trainer)
    to_byte = {char: byte for byte, char in _byte_chars().items()}
    by_id = sorted(trainable.get_vocab().items(), key=lambda item: item[1])
    return [bytes(to_byte[char] for char in token) for token, _ in by_id if len(token) > 1]


def _byte_chars() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte, which the trainer's byte-level alphabet uses."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {**{b: chr(b) for b in printable}, **{b: chr(256 + i) for i, b in enumerate(rest)}}


def _byte_order() -> list[bytes]:
    """The 256 bytes in the order of Kimi's first 256 ranks."""
    return [bytes([byte]) for byte in _byte_chars()]
