"""Supervised training on token shards.

k2 train sft --data out/data --tokenizer out/tokenizer --out out/run1 --depth 8 --tokens 20M
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from pathlib import Path

import click

from openk2.errors import UserError
from openk2.paths import install
from openk2.train.data import Source
from openk2.train.recipe import Stage

_SMALLEST_PART = 2048  # tokens: no document may be longer than a part
_COUNT, _SHARE, _SECONDS = click.IntRange(1), click.FloatRange(0, 1), click.FloatRange(0, min_open=True)


def amount(text: str) -> int:
    """`20M`, `1.5k`, `3B` or a plain number, above 0. Raises UserError on anything else."""
    unit = {"k": 1e3, "m": 1e6, "b": 1e9}.get(text[-1:].lower())
    try:
        number = round(float(text[:-1]) * unit) if unit else int(text.replace("_", ""))
    except (ValueError, OverflowError):
        number = 0
    if number < 1:
        raise UserError(f"{text!r} is not an amount; write for example 20M, 500k or 8192.")
    return number


def source(text: str) -> Source:
    """`DIR` or `DIR:WEIGHT`."""
    folder, _, weight = text.rpartition(":")
    if folder and not Path(text).exists():
        with contextlib.suppress(ValueError):
            return Source(Path(folder), float(weight))
    return Source(Path(text))


@click.command()
@click.option("--data", "data", multiple=True, required=True, metavar="DIR[:WEIGHT]", help="Folder of token shards.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the run; resumed if it exists.")
@click.option("--tokenizer", type=click.Path(path_type=Path), help="Folder of tiktoken.model; gives the vocabulary.")
@click.option("--vocab-size", type=int, help="Vocabulary size when there is no --tokenizer.")
@click.option("--init", type=click.Path(path_type=Path), help="Run or checkpoint whose weights to start from.")
@click.option("--mimetic", is_flag=True, help="Start attention as a copying circuit instead of at random.")
@click.option("--depth", type=int, default=8, show_default=True, help="The size dial: layers; width is 32 times that.")
@click.option("--tokens", default="20M", show_default=True, help="Tokens to train on.")
@click.option("--seconds", type=_SECONDS, help="End after so much training time, if that comes first.")
@click.option("--batch", default="8192", show_default=True, help="Tokens a step.")
@click.option("--lr", type=float, default=1e-2, show_default=True)
@click.option("--adam-scale", type=float, default=0.3, show_default=True, help="AdamW's share of the rate.")
@click.option("--balance", type=float, default=1e-2, show_default=True, help="Step of the router's selection bias.")
@click.option("--weight-decay", type=float, default=0.1, show_default=True)
@click.option("--qk-clip", type=float, default=100.0, show_default=True, help="Largest attention logit allowed.")
@click.option("--qat-fraction", type=_SHARE, default=0.2, show_default=True, help="Last part trained through INT4.")
@click.option("--warmup", type=_SHARE, default=0.02, show_default=True, help="First part with rising rate.")
@click.option("--decay", type=_SHARE, default=0.25, show_default=True, help="Last part with falling rate.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--threads", type=_COUNT, help="CPU threads (default: torch's choice).")
@click.option("--parts", type=_COUNT, help="Parts of a batch, side by side (default: one a core); sets last digits.")
@click.option("--checkpoint-minutes", type=float, default=5.0, show_default=True)
@click.option("--log-every", type=_COUNT, default=10, show_default=True)
@click.option("--max-steps", type=_COUNT, help="Pause after this step.")
def sft(
    data: tuple[str, ...], out: Path, tokenizer: Path | None, vocab_size: int | None, init: Path | None,
    mimetic: bool, depth: int, tokens: str, seconds: float | None, batch: str, lr: float, adam_scale: float,
    balance: float,
    weight_decay: float, qk_clip: float, qat_fraction: float, warmup: float, decay: float, seed: int,
    threads: int | None, parts: int | None, checkpoint_minutes: float, log_every: int, max_steps: int | None,
) -> None:  # fmt: skip
    """Train on the tokens that a mask marks as the model's own."""
    try:
        import torch
    except ImportError:
        raise UserError(f"Training needs torch; install it with: {install('train')}") from None

    from openk2.model.checkpoint import TOKENIZER_FILES
    from openk2.model.config import ModelConfig
    from openk2.train.data import Stream
    from openk2.train.loop import Pace, build, train
    from openk2.train.state import initial_weights

    if threads:
        torch.set_num_threads(threads)
    if init:
        config, weights = initial_weights(init)
    else:
        config, weights = ModelConfig.from_depth(depth, vocab_size=_vocabulary(tokenizer, vocab_size)), None
    if tokenizer:
        if config.vocab_size != (size := _vocabulary(tokenizer, None)):
            raise UserError(f"{tokenizer} has {size} entries but the network {config.vocab_size}; they must agree.")
        config = dataclasses.replace(config, **_special_ids(tokenizer))
        out.mkdir(parents=True, exist_ok=True)
        for name in TOKENIZER_FILES:
            shutil.copyfile(tokenizer / name, out / name)
    size = amount(batch)
    parts = parts or max(1, min(torch.get_num_threads(), size // _SMALLEST_PART))
    stage = Stage(
        name="sft", tokens=amount(tokens), seconds=seconds, batch=size, parts=parts, context=size // parts, lr=lr,
        adam_scale=adam_scale, balance=balance, weight_decay=weight_decay, warmup=warmup, decay=decay, qk_clip=qk_clip,
        qat=qat_fraction, seed=seed,
    )  # fmt: skip
    stage.config(config)
    sources = [source(text) for text in data]
    stream = Stream(sources, stage.name, seed, stage.context)
    if (largest := stream.largest_id()) >= config.vocab_size:
        raise UserError(f"The data has token {largest}, but the vocabulary {config.vocab_size} entries; use its own.")
    click.echo(
        f"{stream.tokens / 1e6:.1f}M tokens of data ({stream.skipped} documents too long for {size // parts}), "
        f"{config.count().total / 1e6:.1f}M parameters, {config.count().active / 1e6:.1f}M active"
    )
    model = build(config, seed, mimetic and weights is None)
    if weights is not None:
        model.load_tensors(weights)
    pace = Pace(checkpoint_minutes, log_every, max_steps)
    train(model, sources, [stage], out, say=lambda line: click.echo(line), pace=pace)


def _vocabulary(tokenizer: Path | None, vocab_size: int | None) -> int:
    if tokenizer:
        from openk2.chat.tokenizer import Tokenizer

        return Tokenizer.load(tokenizer).n_vocab
    if vocab_size is None:
        raise UserError("Say which vocabulary the shards use: --tokenizer FOLDER (or --vocab-size N).")
    return vocab_size


def _special_ids(tokenizer: Path) -> dict[str, int]:
    from openk2.chat.tokenizer import Tokenizer

    special = Tokenizer.load(tokenizer).special
    names = {"bos_token_id": "[BOS]", "eos_token_id": "<|im_end|>", "pad_token_id": "[PAD]"}
    return {field: special[name] for field, name in names.items()}
