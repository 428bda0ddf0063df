"""From the options of a command to a run: network, data, stages, and the loop."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import torch

from openk2.chat.tokenizer import Tokenizer
from openk2.errors import UserError
from openk2.model.checkpoint import TOKENIZER_FILES
from openk2.model.config import ModelConfig
from openk2.train import report
from openk2.train.checkpoint import initial_weights
from openk2.train.data import Source, Stream
from openk2.train.devices import choose
from openk2.train.loop import Pace, build, train
from openk2.train.options import source
from openk2.train.parallel import World
from openk2.train.recipe import Stage
from openk2.train.samples import Sampler

Weights = dict[str, torch.Tensor]


def opened(options: dict[str, Any]) -> tuple[World, Tokenizer | None, ModelConfig, Weights | None]:
    """The processes, and the network with its tokenizer, as the options name them. Raises UserError."""
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    world = World.from_env(choose(options["device"]), options["expert_ranks"])
    tokenizer = Tokenizer.load(options["tokenizer"]) if options["tokenizer"] else None
    return world, tokenizer, *network(options["init"], options["depth"], tokenizer, options["vocab_size"])


def network(
    init: Path | None, depth: int, tokenizer: Tokenizer | None, vocab_size: int | None
) -> tuple[ModelConfig, Weights | None]:
    """The network to train and, with `init`, the weights to start from. Raises UserError when they do not fit."""
    weights = None
    if init:
        config, weights = initial_weights(init)
    elif tokenizer or vocab_size:
        config = ModelConfig.from_depth(depth, vocab_size=tokenizer.n_vocab if tokenizer else vocab_size or 0)
    else:
        raise UserError("Say which vocabulary the shards use: --tokenizer FOLDER (or --vocab-size N).")
    if tokenizer:
        if config.vocab_size != tokenizer.n_vocab:
            raise UserError(
                f"The tokenizer has {tokenizer.n_vocab} entries but the network {config.vocab_size}; they must agree."
            )
        names = {"bos_token_id": "[BOS]", "eos_token_id": "<|im_end|>", "pad_token_id": "[PAD]"}
        config = dataclasses.replace(config, **{key: tokenizer.special[name] for key, name in names.items()})
    return config, weights


def launch(
    config: ModelConfig, weights: Weights | None, stages: Sequence[Stage], *, tokenizer: Tokenizer | None, world: World,
    chat: bool, options: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Check everything that can be checked before the work, then train. Raises UserError."""
    say = click.echo if world.is_main else _quiet
    data = [source(text) for text in options["data"]]
    for stage in stages:
        stage.config(config)
        say(_check_data(data, stage, config))
    count = config.count()
    say(f"{count.total / 1e6:.1f}M parameters, {count.active / 1e6:.1f}M active")
    out: Path = options["out"]
    if tokenizer and world.is_main:
        _keep_tokenizer(options["tokenizer"], out)
    model = build(config, stages[0].seed, options["mimetic"] and weights is None)
    if weights is not None:
        model.load_tensors(weights)
    pace = Pace(
        options["checkpoint_minutes"], options["keep"], options["log_every"], options["sample_every"],
        options["max_steps"], options["recompute"],
    )  # fmt: skip
    sampler = Sampler(tokenizer, options["prompt"], chat) if tokenizer and options["prompt"] else None
    try:
        last = train(model, data, stages, out, world, say, pace, sampler)
    finally:  # a run that went wrong is worth a look above all
        if world.is_main:
            _report(out, say)
    world.close()
    return last


def _keep_tokenizer(folder: Path, out: Path) -> None:
    """Copy the tokenizer into the run. Raises UserError when the run has another."""
    out.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        if (out / name).exists() and (out / name).read_bytes() != (folder / name).read_bytes():
            raise UserError(f"{out} was begun with another tokenizer than {folder}; give its own, or another --out.")
        shutil.copyfile(folder / name, out / name)


def _report(out: Path, say: Callable[[str], None]) -> None:
    """Write the page about the run, if it has made a step."""
    page = out / "report.html"
    with contextlib.suppress(UserError):
        report.write([out], page)
        say(f"report: {page}")


def _check_data(data: Sequence[Source], stage: Stage, config: ModelConfig) -> str:
    """A line about a stage's data. Raises UserError when the network cannot take it."""
    longest = min(stage.context, stage.part_tokens)
    stream = Stream(data, stage.name, stage.seed, longest)
    if (largest := stream.largest_id()) >= config.vocab_size:
        raise UserError(f"The data has token {largest}, but the vocabulary {config.vocab_size} entries; use its own.")
    left_out = f" ({stream.skipped} documents left out: over {longest} tokens, or one)" if stream.skipped else ""
    tokens, held = stage.tokens / 1e6, stream.tokens / 1e6
    return f"{stage.name}: {tokens:.2f}M tokens, {stage.batch} a step, from {held:.2f}M of data{left_out}"


def _quiet(line: str) -> None:
    """Another rank speaks."""
