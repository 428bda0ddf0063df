"""A Hugging Face folder that transformers, vLLM and SGLang read without remote code.

Beside the weights (config.json of `model_type: deepseek_v3`, compressed-tensors' quantization_config for INT4, index,
generation_config.json): tokenizer.json, a tokenizer_config.json that names no code, and chat_template.jinja. The
tiktoken.model stays, for openk2 itself and for Kimi's own tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from openk2.chat.tokenizer import Tokenizer
from openk2.errors import UserError
from openk2.export import vocabulary
from openk2.model.checkpoint import PROFILE, TOKENIZER_FILES, copy_tokenizer, write_json
from openk2.model.config import read_object
from openk2.model.convert import FolderSource, Progress, Untied, convert
from openk2.model.expected import storage


def export(
    source: Path,
    out: Path,
    form: str | None = None,
    *,
    tokenizer: Path | None = None,
    profile: Path | None = None,
    untie: bool = False,
    shard_bytes: int,
    progress: Progress,
) -> int:
    """Write checkpoint `source` as folder `out`, in `form` (None: INT4 stays, all else is bf16); returns the bytes.

    `untie` writes a head that is tied to the embedding a second time, as a matrix of its own.
    Raises UserError as `convert` does, and when the tokenizer does not fit the model.
    """
    opened = FolderSource(source)
    said = read_object(profile or source / PROFILE) if profile or (source / PROFILE).exists() else None
    if tokenizer is None and all((source / name).exists() for name in TOKENIZER_FILES):
        tokenizer = source
    if tokenizer:
        fits(Tokenizer.load(tokenizer), opened.config.vocab_size, tokenizer)
    form = form or ("int4" if storage(opened.config) == "int4" else "bf16")
    extras: Callable[[Path], None] = lambda folder: _extras(folder, tokenizer, said)  # noqa: E731
    written = Untied(opened) if untie else opened
    return convert(written, out, form, shard_bytes=shard_bytes, extras=extras, progress=progress)


def add_tokenizer(folder: Path, source: Path) -> None:
    """Write what other programs need of the tokenizer in folder `source` to `folder`."""
    tokenizer = Tokenizer.load(source)
    template, config = vocabulary.chat_template(source), vocabulary.tokenizer_config(source, tokenizer)
    if folder.resolve() != source.resolve():
        copy_tokenizer(source, folder)
    write_json(folder / "tokenizer_config.json", config)
    text = json.dumps(vocabulary.tokenizer_json(tokenizer), ensure_ascii=False)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def fits(tokenizer: Tokenizer, vocab_size: int, folder: Path) -> None:
    """Raises UserError when a tokenizer has ids that the model has no row for."""
    if tokenizer.n_vocab > vocab_size:
        raise UserError(
            f"The tokenizer at {folder} has {tokenizer.n_vocab:,} ids, the model only {vocab_size:,}; name its own."
        )


def _extras(folder: Path, tokenizer: Path | None, profile: dict[str, object] | None) -> None:
    if tokenizer:
        add_tokenizer(folder, tokenizer)
    if profile is not None:
        write_json(folder / PROFILE, profile)
