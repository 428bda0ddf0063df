"""`k2 synth search`: questions over real documents, answered with search, open, find and computing."""

from __future__ import annotations

from pathlib import Path

import click

_FOLDER = click.Path(path_type=Path)


@click.command()
@click.option(
    "--data", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True, envvar="OPENK2_DATA",
    help="Folder of the source files (docs/search-data.md).",
)  # fmt: skip
@click.option("--out", type=_FOLDER, help="Folder for the shards; finished ones are kept.")
@click.option("--count", type=click.IntRange(1), default=1000, show_default=True, help="Records to draw.")
@click.option("--seed", default=0, show_default=True)
@click.option("--shard", type=click.IntRange(1), default=1000, show_default=True, help="Records a shard.")
@click.option("--workers", type=click.IntRange(0), default=1, show_default=True, help="Processes; 0 is one a core.")
@click.option(
    "--split", type=click.Choice(("train", "entities", "wordings", "structures", "hops")), default="train",
    show_default=True, help="To train on, or what training has not seen.",
)  # fmt: skip
@click.option("--verify", type=_FOLDER, metavar="FILE", help="Instead: execute every record of FILE or folder again.")
def search(
    data: Path, out: Path | None, count: int, seed: int, shard: int, workers: int, split: str, verify: Path | None
) -> None:
    """Questions of 1 to 4 hops over collections of real documents, each answered with the tools and verified."""
    from openk2.synth.search.make import SPLITS, Order, check, make
    from openk2.synth.task.make import read_records

    if verify is not None:
        good = bad = 0
        for record in read_records(verify):
            found = check(record, data)
            good, bad = good + (not found), bad + bool(found)
            if found and bad <= 5:
                click.echo(f"{record.get('n', good + bad)}: {'; '.join(found)}")
        click.echo(f"{good:,} true, {bad:,} not")
        if bad:
            raise SystemExit(1)
        return
    if out is None:
        raise click.UsageError("Give --out for the shards, or --verify with what to check.")
    order = Order(str(data.resolve()), count, seed, shard, next(s for s in SPLITS if s == split))
    manifest = make(order, out, workers, say=click.echo)
    click.echo(f"{manifest['records']:,} records in {len(manifest['shards'])} shards, each verified: {out}")
