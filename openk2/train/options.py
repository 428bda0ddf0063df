"""What `k2 train pretrain` and `k2 train sft` take: an option for each field of a stage, and what a run needs."""

from __future__ import annotations

import contextlib
import tomllib
import types
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import click

from openk2.errors import UserError
from openk2.train.data import Source
from openk2.train.recipe import Stage, stage

_Command = TypeVar("_Command", bound=Callable[..., Any])
_AMOUNTS = {"tokens", "batch", "context"}
_OTHER_NAMES = {"qat": ["--qat-fraction"]}
_COUNT, _POSITIVE = click.IntRange(1), click.FloatRange(0, min_open=True)


def amount(text: str) -> int:
    """`20M`, `1.5k`, `3B`, `15T` or a plain number, above 0. Raises UserError on anything else."""
    unit = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}.get(text[-1:].lower())
    try:
        number = round(float(text[:-1]) * unit) if unit else int(text.replace("_", ""))
    except (ValueError, OverflowError):
        number = 0
    if number < 1:
        raise UserError(f"{text!r} is not an amount; write for example 20M, 500k or 8192.")
    return number


def source(text: str) -> Source:
    """`[STAGE=]DIR[:WEIGHT]`."""
    stage, equals, rest = text.partition("=")
    name, place = (stage, rest) if equals and not Path(text).exists() else (None, text)
    folder, _, weight = place.rpartition(":")
    if folder and not Path(place).exists():
        with contextlib.suppress(ValueError):
            return Source(Path(folder), float(weight), name)
    return Source(Path(place), None, name)


def stage_options(**defaults: Any) -> Callable[[_Command], _Command]:
    """Options for all fields of Stage but its name; those not among `defaults` are None unless given."""
    hints = get_type_hints(Stage)

    def add(command: _Command) -> _Command:
        for field in reversed(fields(Stage)):
            if field.name == "name":
                continue
            kind = hints[field.name]
            kind = (
                next((k for k in get_args(kind) if k is not type(None)), kind)
                if isinstance(kind, types.UnionType)
                else kind
            )
            default = defaults.get(field.name)
            command = click.option(
                f"--{field.name.replace('_', '-')}", *_OTHER_NAMES.get(field.name, []), field.name,
                type=str if field.name in _AMOUNTS else kind, default=default, show_default=default is not None,
                help=field.metadata["help"],
            )(command)  # fmt: skip
        return command

    return add


def run_options(command: _Command) -> _Command:
    """What a run needs beside its stages."""
    path = click.Path(path_type=Path)
    for option in reversed(
        [
            click.option("--data", multiple=True, required=True, metavar="[STAGE=]DIR[:WEIGHT]", help="Token shards."),
            click.option("--out", type=path, required=True, help="Folder of the run; gone on with if it exists."),
            click.option("--tokenizer", type=path, help="Folder of tiktoken.model; gives the vocabulary."),
            click.option("--vocab-size", type=_COUNT, help="Vocabulary size when there is no --tokenizer."),
            click.option("--init", type=path, help="Run, checkpoint or model whose weights to start from."),
            click.option("--depth", type=int, default=8, show_default=True, help="Layers; width is 32 times that."),
            click.option("--mimetic", is_flag=True, help="Start attention as a copying circuit instead of at random."),
            click.option("--recipe", type=path, help="TOML file of [[stage]] tables with these options' names."),
            click.option("--device", default="auto", show_default=True, help="cpu, cuda, mps, or auto."),
            click.option(
                "--expert-ranks",
                type=_COUNT,
                default=1,
                show_default=True,
                help="Under torchrun: processes that divide a layer's experts among them.",
            ),
            click.option(
                "--recompute",
                type=click.IntRange(0),
                default=0,
                show_default=True,
                help="Compute every n-th block again in the backward pass: less memory, more time.",
            ),
            click.option("--threads", type=_COUNT, help="CPU threads (default: torch's choice)."),
            click.option("--checkpoint-minutes", type=_POSITIVE, default=5.0, show_default=True),
            click.option("--keep", type=_COUNT, default=2, show_default=True, help="Checkpoints that stay."),
            click.option("--log-every", type=_COUNT, default=10, show_default=True, help="Steps between lines."),
            click.option("--sample-every", type=_COUNT, default=200, show_default=True, help="Steps between samples."),
            click.option("--prompt", multiple=True, help="Text to continue while training, into samples.jsonl."),
            click.option("--max-steps", type=_COUNT, help="Pause after this step."),
        ]
    ):
        command = option(command)
    return command


def taken(options: dict[str, Any]) -> dict[str, Any]:
    """The fields of a stage that are among a command's options, which are taken out of them; amounts as numbers."""
    values = {field.name: options.pop(field.name) for field in fields(Stage) if field.name in options}
    return {name: amount(value) if name in _AMOUNTS else value for name, value in values.items() if value is not None}


def read_recipe(file: Path, values: dict[str, Any]) -> list[Stage]:
    """The stages of a TOML file; `values` stand in for fields that it leaves out. Raises UserError."""
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))["stage"]
        return [
            stage({k: amount(v) if k in _AMOUNTS and isinstance(v, str) else v for k, v in table.items()}, **values)
            for table in tables
        ]
    except (OSError, KeyError, AttributeError, TypeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{file} is no recipe ({error}); write a [[stage]] table for each stage.") from None
