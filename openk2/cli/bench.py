"""`k2 bench`: speed, side by side with peers in the same run; a table, or `--json`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from openk2.errors import UserError
from openk2.paths import install

if TYPE_CHECKING:
    from openk2.bench.report import Cell, Report


@click.group()
def command() -> None:
    """Measure speed beside peers, with the limit of the machine beside each figure."""


def _numbers(ctx: click.Context, option: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in value.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise UserError(f"{option.opts[0]} takes numbers from 1 on, separated by commas, as in 1,2; not {value!r}.")
    return found


def _names(ctx: click.Context, option: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _form(function: Callable[..., None]) -> Callable[..., None]:
    """How the result is given."""
    function = click.option("--out", type=click.Path(path_type=Path), help="Write the JSON object to this file too.")(
        function
    )
    return click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")(function)


def _weights(function: Callable[..., None]) -> Callable[..., None]:
    """What is measured, and beside what."""
    for option in (
        click.option("--folder", type=click.Path(path_type=Path), help="Where models are made and kept."),
        click.option("--seconds", type=float, default=1.0, show_default=True, help="Of a round, at least."),
        click.option("--rounds", type=click.IntRange(1), default=5, show_default=True),
        click.option("--peers", default="llama.cpp,transformers", show_default=True, callback=_names),
        click.option("--threads", default="1,2", show_default=True, callback=_numbers),
        click.option("--model", type=click.Path(path_type=Path), help="A checkpoint folder instead of sizes."),
        click.option("--sizes", default="5M,50M,300M", show_default=True, callback=_names, help="Also: moonlight."),
    ):
        function = option(function)
    return function


@command.command()
@_weights
@click.option("--batch", default="1,8", show_default=True, callback=_numbers, help="Texts written at once.")
@click.option("--tokens", type=click.IntRange(1), default=32, show_default=True, help="Written in a pass.")
@click.option("--context", type=click.IntRange(1), default=128, show_default=True, help="Tokens before them.")
@_form
def decode(as_json: bool, out: Path | None, **options: Any) -> None:
    """Tokens a second when texts are written; the limit is the bytes a token must read."""
    from openk2.bench import report as show

    columns: list[tuple[str, Cell]] = [
        *_common(),
        ("batch", lambda row: str(row["batch"])),
        *_speeds(),
        ("read a token", lambda row: show.size(row["bytes_per_token"])),
        ("limit", lambda row: f"{show.number(row['limit_tokens_per_second'])} ({row['limited_by']})"),
        ("of it", lambda row: show.percent(row["share"])),
    ]
    _measure("decode", options, columns, ("size", "threads", "batch"), as_json, out)


@command.command()
@_weights
@click.option("--prompts", default="128,512,2048", show_default=True, callback=_numbers, help="Lengths to read.")
@_form
def prefill(as_json: bool, out: Path | None, **options: Any) -> None:
    """Tokens a second when a prompt is read; the limit is the arithmetic, against numpy's fp32 product."""
    from openk2.bench import report as show

    columns: list[tuple[str, Cell]] = [
        *_common(),
        ("prompt", lambda row: str(row["prompt"])),
        *_speeds(),
        ("GFLOP a token", lambda row: show.number(row["operations_per_token"] / 1e9)),
        ("fp32 limit", lambda row: show.number(row["limit_tokens_per_second"])),
        ("of it", lambda row: show.percent(row["share"])),
    ]
    _measure("prefill", options, columns, ("size", "threads", "prompt"), as_json, out)


@command.command()
@_form
def parity(as_json: bool, out: Path | None) -> None:
    """The same networks in torch, transformers, the engine, its twin and llama.cpp: the largest differences."""
    try:
        from openk2.bench import parity as bench
    except ImportError as error:
        raise UserError(f"{error.name} is missing, with which is compared; {install('bench')}.") from None
    found = bench.run(progress=_progress)
    from openk2.bench.report import Report

    report = Report("parity", {}, rows=found["rows"], failed=not found["holds"])
    report.systems = {name: version or "not installed" for name, version in found["compared_with"].items()}
    cells = [dict(zip(bench.HEADER, row, strict=True)) for row in bench.table(found["rows"])]
    columns: list[tuple[str, Cell]] = [(title, lambda row, title=title: row[title]) for title in bench.HEADER]
    _give(report, columns, (), as_json, out, replace(report, rows=cells))


@command.command()
@click.option("--seconds", type=float, default=120.0, show_default=True)
@click.option("--clients", type=click.IntRange(1), default=64, show_default=True)
@click.option("--model", type=click.Path(path_type=Path), help="A checkpoint folder; else a small random network.")
@click.option("--cache-mib", type=float, default=8.0, show_default=True, help="Memory of the engine's cache.")
@click.option("--sequential", is_flag=True, help="Also one client alone, for the same time.")
@_form
def load(as_json: bool, out: Path | None, **options: Any) -> None:
    """Many requests at once with random cancels: none lost, none wrong (each as alone), memory flat."""
    from openk2.bench import load as bench

    _give_fields(bench.measure(**options), as_json, out)


@command.command()
@click.option("--model", type=click.Path(path_type=Path), help="A folder with a tokenizer; else nano's.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@_form
def grammar(as_json: bool, out: Path | None, model: Path | None, rounds: int) -> None:
    """What valid calls cost: compiling tools of many schemas, masks, forced ids."""
    from openk2.bench import grammar as bench
    from openk2.bench import report as show

    columns: list[tuple[str, Cell]] = [
        ("what", lambda row: row["what"]),
        ("times", lambda row: f"{row['times']:,}"),
        *((f"{name} us", lambda row, name=name: show.number(row[f"{name}_us"])) for name in ("median", "p99", "worst")),
    ]
    _give(bench.measure(model, rounds), columns, (), as_json, out)


@command.command()
@click.option("--count", type=click.IntRange(1), default=100_000, show_default=True, help="Sequences.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--parser", "kind", type=click.Choice(["ids", "text"]), default="ids", show_default=True)
@click.option("--tokenizer", type=click.Path(path_type=Path), help="A folder with a tokenizer; else nano's.")
@click.option("--seconds", type=float, default=float("inf"), help="Stop earlier, after so long.")
@_form
def parser(as_json: bool, out: Path | None, **options: Any) -> None:
    """Random and mutated replies through the parser: no exception, no text lost, no call invented."""
    from openk2.bench import parser_fuzz as bench

    _give_fields(bench.measure(**options, progress=_progress), as_json, out)


@command.command()
@click.option("--model", type=click.Path(path_type=Path), help="A checkpoint folder; else nano.")
@click.option("--steps", type=click.IntRange(2), default=300, show_default=True, help="Tool calls of the session.")
@_form
def session(as_json: bool, out: Path | None, **options: Any) -> None:
    """A long tool session: what is computed twice, forks, saving and restoring, time a step."""
    from openk2.bench import session as bench

    report = bench.measure(**options)
    _give(report, [("what", lambda row: row["what"]), ("value", lambda row: row["shown"])], (), as_json, out)


@command.command()
@click.option("--steps", type=click.IntRange(20), default=300, show_default=True, help="Tool calls of a session.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--peers", default="pydantic-ai,openai-agents", show_default=True, callback=_names)
@_form
def agent(as_json: bool, out: Path | None, **options: Any) -> None:
    """What the agent costs a step beside a plain loop and other runtimes; whether thoughts are sent back."""
    from openk2.bench import agent as bench
    from openk2.bench import report as show

    steps = options["steps"]
    columns: list[tuple[str, Cell]] = [
        ("system", lambda row: row["system"]),
        ("ms at step 1", lambda row: show.number(row["first_ms"])),
        (f"at {steps // 3}", lambda row: show.number(row["third_ms"])),
        (f"at {steps}", lambda row: show.number(row["last_ms"])),
        ("all, s", lambda row: show.number(row["seconds"])),
        ("memory", lambda row: show.size(row["peak_bytes"])),
        ("thoughts sent back", lambda row: f"{row['back']} of {row['steps']}"),
    ]
    _give(bench.measure(**options, progress=_progress), columns, (), as_json, out)


@command.command()
@click.option("--sizes", default="5M,14M", show_default=True, callback=_names, help="Active parameters.")
@click.option("--tokens", type=click.IntRange(1024), default=16_384, show_default=True, help="Of a step.")
@click.option("--lengths", default="100-500", show_default=True, callback=_names, help="Tokens of a document.")
@click.option("--threads", type=click.IntRange(1), default=len(os.sched_getaffinity(0)), help="Default: every core.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="After one that is not timed.")
@_form
def train(as_json: bool, out: Path | None, lengths: tuple[str, ...], **options: Any) -> None:
    """Tokens a second in training, beside transformers with AdamW: same weights, same documents."""
    from openk2.bench import report as show
    from openk2.bench import train as bench

    columns: list[tuple[str, Cell]] = [
        ("size", lambda row: row["size"]),
        ("system", lambda row: row["system"]),
        ("documents", lambda row: "-".join(str(n) for n in sorted(set(row["lengths"])))),
        *_speeds(),
        ("mfu", lambda row: show.percent(row["mfu"])),
        ("optimizer", lambda row: f"{100 * row['optimizer_share']:.1f}%"),
        ("memory", lambda row: show.size(row["peak_bytes"])),
    ]
    plan = bench.Plan(lengths=[_range(text) for text in lengths], **options)
    _give(bench.measure(plan, _progress), columns, ("size", "lengths"), as_json, out)


def _range(text: str) -> tuple[int, int]:
    """100-500, or one number."""
    low, _, high = text.partition("-")
    if not low.isdecimal() or not (high or low).isdecimal() or not 2 <= int(low) <= int(high or low) <= 3000:
        raise UserError(f"--lengths takes tokens from 2 to 3000 as in 100-500 or 2048, not {text!r}.")
    return int(low), int(high or low)


def _common() -> list[tuple[str, Cell]]:
    return [
        ("size", lambda row: row["size"]),
        ("system", lambda row: row["system"]),
        ("threads", lambda row: str(row["threads"])),
    ]


def _speeds() -> list[tuple[str, Cell]]:
    from openk2.bench import report as show

    return [
        ("tok/s", lambda row: show.number(row["tokens_per_second"]["median"])),
        (
            "least - most",
            lambda row: " - ".join(show.number(row["tokens_per_second"][key]) for key in ("min", "max")),
        ),
        ("ours is", lambda row: "" if row["system"] == "openk2" else f"{row['ours_relative']:.2f}x"),
    ]


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r\033[K{text}", err=True, nl=False)


def _measure(
    kind: Any,
    options: dict[str, Any],
    columns: Sequence[tuple[str, Cell]],
    groups: Sequence[str],
    as_json: bool,
    out: Path | None,
) -> None:
    from openk2.bench import speed

    _give(speed.measure(speed.Plan(kind, **options), _progress), columns, groups, as_json, out)


def _give_fields(report: Report, as_json: bool, out: Path | None) -> None:
    """Rows of many fields, upright: a column for each row."""

    def shown(value: Any) -> str:
        return f"{value:,}" if isinstance(value, int) else str(value)

    measured = report.rows
    fields = [{"name": name, **{str(i): shown(row[name]) for i, row in enumerate(measured)}} for name in measured[0]]
    columns: list[tuple[str, Cell]] = [("", lambda row: row["name"].replace("_", " "))]
    columns += [("", lambda row, i=str(i): row[i]) for i in range(len(measured))]
    _give(report, columns, (), as_json, out, replace(report, rows=fields))


def _give(
    report: Report, columns: Sequence[tuple[str, Cell]], groups: Sequence[str], as_json: bool, out: Path | None,
    table: Report | None = None,
) -> None:  # fmt: skip
    _progress("")
    if out is not None:
        report.write(out)
    if as_json:
        click.echo(json.dumps(report.to_json()))
    else:
        (table or report).show(columns, groups)
    if report.failed:
        sys.exit(1)
