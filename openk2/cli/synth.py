"""`k2 synth`: training data made by running tools, no model needed."""

from __future__ import annotations

from pathlib import Path

import click

from openk2.cli import synth_search, synth_tools

source_files = click.option(
    "--data", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True, envvar="OPENK2_DATA",
    help="Folder of the source files (docs/recipe.md).",
)  # fmt: skip


@click.group("synth")
def command() -> None:
    """Make and check training data."""


for made in (*synth_tools.COMMANDS, synth_search.search):
    command.add_command(made)


@command.command()
@source_files
@click.option("--tokenizer", type=click.Path(path_type=Path), required=True, help="Folder of tiktoken.model.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Shards; finished ones are kept.")
@click.option("--count", type=click.IntRange(1), default=60_000, show_default=True, help="Examples to make.")
@click.option("--seed", default=1, show_default=True)
@click.option("--kinds", default="", metavar="KIND,...", help="Only these, in their shares (default: all).")
def trajectories(data: Path, tokenizer: Path, out: Path, count: int, seed: int, kinds: str) -> None:
    """Trajectories of the embedded model: searched, computed and answered by executing our own tools."""
    from openk2.synth.make import make

    make(data, tokenizer, out, count, seed, kinds=kinds.split(",") if kinds else (), say=click.echo)


@command.command()
@click.option("--tokenizer", type=click.Path(path_type=Path), required=True, help="Folder of tiktoken.model.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the shards.")
@click.option("--tokens", type=click.IntRange(1), default=1_600_000, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--few", type=click.FloatRange(0, 1), default=0.0, show_default=True, help="Share made of few tokens.")
def copying(tokenizer: Path, out: Path, tokens: int, seed: int, few: float) -> None:
    """Random tokens to copy and to recall: the first stage of training, and a part of the later ones."""
    from openk2.synth.copying import make

    make(tokenizer, out, tokens, seed, few, say=click.echo)


@command.command()
@source_files
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Text file to write.")
@click.option("--seed", default=0, show_default=True)
def corpus(data: Path, out: Path, seed: int) -> None:
    """Text for `k2 train tokenizer`."""
    from openk2.synth.corpus import corpus as texts

    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(out.name + ".part")  # a killed run must not leave half a corpus that looks whole
    with part.open("w", encoding="utf-8") as file:
        file.writelines(text + "\n" for text in texts(data, seed))
    part.replace(out)
    click.echo(f"{out.stat().st_size / 1e6:.1f} MB of text in {out}")


@command.command()
@source_files
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for one file a kind of text.")
def text(data: Path, out: Path) -> None:
    """Real text to pre-train on, and a part held out."""
    from openk2.synth.text import make

    make(data, out, say=click.echo)


@command.command()
@click.argument("texts", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--tokenizer", type=click.Path(path_type=Path), required=True, help="Folder of tiktoken.model.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the shards.")
@click.option("--tokens", type=click.IntRange(1), default=1_600_000, show_default=True)
@click.option("--longest", type=click.IntRange(128), default=512, show_default=True, help="Tokens of a document.")
@click.option("--seed", default=0, show_default=True)
def recall(texts: tuple[Path, ...], tokenizer: Path, out: Path, tokens: int, longest: int, seed: int) -> None:
    """Codes hidden in the real text of TEXTS (as `k2 synth text` writes them) and asked for at its end."""
    from openk2.synth.recall import make

    make(tokenizer, texts, out, tokens, longest, seed, say=click.echo)
