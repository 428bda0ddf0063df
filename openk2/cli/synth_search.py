"""`k2 synth search`: questions over real documents, answered with search, open, find and computing."""

from __future__ import annotations

from pathlib import Path

import click

from openk2.cli import synth_orders


@click.command()
@click.option(
    "--data", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True, envvar="OPENK2_DATA",
    help="Folder of the source files (docs/search-data.md).",
)  # fmt: skip
@synth_orders.order_options
@click.option(
    "--split", type=click.Choice(("train", "entities", "wordings", "structures", "hops")), default="train",
    show_default=True, help="To train on, or what training has not seen.",
)  # fmt: skip
@click.option(
    "--verify", type=click.Path(path_type=Path), metavar="FILE", help="Instead: execute every record of FILE again."
)
def search(
    data: Path, out: Path | None, count: int, seed: int, size: int, workers: int, ray: bool, split: str,
    verify: Path | None,
) -> None:  # fmt: skip
    """Questions of 1 to 4 hops over collections of real documents, each answered with the tools and verified."""
    from openk2.synth.search.make import SPLITS, Order, check

    if verify is not None:
        synth_orders.verify(verify, lambda record: check(record, data))
        return
    order = Order(str(data.resolve()), count, seed, size, next(s for s in SPLITS if s == split))
    synth_orders.make(order, out, workers, ray)
