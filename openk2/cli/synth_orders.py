"""How records are ordered on the command line: one way for dialogues, word problems and search questions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from openk2.cli.options import together
from openk2.errors import UserError

if TYPE_CHECKING:
    from openk2.synth.shards import Order
    from openk2.synth.trajectory import Record

_OPTIONS = (
    click.option("--out", type=click.Path(path_type=Path), help="Folder for the shards; finished ones are kept."),
    click.option("--count", type=click.IntRange(1), default=1000, show_default=True, help="Records to make."),
    click.option("--seed", default=0, show_default=True),
    click.option("--shard", "size", type=click.IntRange(1), default=1000, show_default=True, help="Records a shard."),
    click.option("--workers", type=click.IntRange(0), default=1, show_default=True, help="Processes; 0: one a core."),
    click.option("--ray", is_flag=True, help="On the Ray cluster that this machine belongs to (extra `ray`)."),
)


order_options = together(_OPTIONS)


def folder(out: Path | None) -> Path:
    """--out. Raises UserError where it is not given (verifying needs none)."""
    if out is None:
        raise UserError("The shards need a folder; give --out.")
    return out


def make(order: Order, out: Path | None, workers: int, ray: bool) -> None:
    """Make the shards and say how many records they hold. Raises UserError where no folder is named for them."""
    from openk2.synth import shards

    manifest = shards.make(order, folder(out), workers, ray, say=click.echo)
    count = len(manifest["shards"])
    click.echo(f"{manifest['records']:,} records in {count} shard{'s' * (count != 1)}, each verified: {out}")


def verify(file: Path, problems: Callable[[Record], list[str]], show: int = 5) -> None:
    """Say which records of FILE, or a folder of shards, are not true; exits with 1 where some are not."""
    from openk2.synth.shards import read_records

    good = bad = 0
    for number, record in enumerate(read_records(file)):
        found = problems(record)
        good, bad = good + (not found), bad + bool(found)
        if found and bad <= show:
            click.echo(f"{record.get('n', number)}: {'; '.join(found)}")
    click.echo(f"{good:,} true, {bad:,} not")
    if bad:
        raise SystemExit(1)
