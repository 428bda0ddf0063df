"""`k2 eval SUITE`: quality by executed answers on what training never saw."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("eval")
@click.argument("suite", nargs=-1, required=True)
@click.option("--model", help="nano (default), a checkpoint folder, or a name served at --base-url.")
@click.option("--base-url", help="An OpenAI-compatible server.")
@click.option("--data", type=click.Path(path_type=Path), envvar="OPENK2_DATA", help="Folder of the source files.")
@click.option("-n", "--count", type=click.IntRange(1), default=300, show_default=True, help="Tasks per suite.")
@click.option("--seed", default=0, show_default=True)
@click.option("--processes", type=click.IntRange(1), default=1, show_default=True, help="Answering side by side.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for report.json, report.md and every answer.")
def command(
    suite: tuple[str, ...], model: str | None, base_url: str | None, data: Path | None, count: int, seed: int,
    processes: int, out: Path | None,
) -> None:  # fmt: skip
    """Run suites (`all`, or `first`: all that begin with it) and report shares with 95% intervals."""
    from openk2.agent.setup import Setup
    from openk2.evals.run import STEPS, evaluate
    from openk2.evals.suites import SUITES, Material
    from openk2.paths import NANO

    groups = {"all": list(SUITES), "first": [name for name in SUITES if name.startswith("first-")]}
    names = [name for given in suite for name in groups.get(given, [given])]
    setup = Setup(model=model, base_url=base_url, steps=STEPS)
    material = Material(data, tokenizer=setup.folder or NANO)  # a served model's names are invented as nano's are
    evaluate(names, setup, material, count, seed, out, processes, say=click.echo)
