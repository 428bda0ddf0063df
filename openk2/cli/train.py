"""`k2 train`: each stage of the recipe."""

from __future__ import annotations

from pathlib import Path

import click

from openk2.cli.train_estimate import estimate
from openk2.cli.train_retrieval import retrieval
from openk2.train.options import amount
from openk2.train.pretrain import pretrain
from openk2.train.sft import sft


@click.group()
def command() -> None:
    """Run each stage of the recipe."""


command.add_command(pretrain)
command.add_command(sft)
command.add_command(estimate)
command.add_command(retrieval)


@command.command()
@click.argument("corpus", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--vocab-size", type=int, default=4096, show_default=True, help="Entries, special tokens included.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for tiktoken.model.")
def tokenizer(corpus: tuple[Path, ...], vocab_size: int, out: Path) -> None:
    """Learn a byte-level BPE with Kimi's splitting pattern from what `prepare` takes: files, or folders of them."""
    from openk2.chat.train_tokenizer import train
    from openk2.train.prepare import texts

    made = train(texts(corpus), vocab_size, out)
    click.echo(f"{out}: {made.n_vocab} entries")


@command.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--tokenizer", type=click.Path(path_type=Path), required=True, help="Folder of tiktoken.model.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the shards; gone on with.")
@click.option("--shard-tokens", default="10M", show_default=True, help="Tokens of a shard.")
def prepare(files: tuple[Path, ...], tokenizer: Path, out: Path, shard_tokens: str) -> None:
    """Make token shards of FILES (or folders): .txt, and .jsonl or .jsonl.gz whose lines have `text` or `messages`."""
    from openk2.train.prepare import prepare as write

    made = write(files, tokenizer, out, shard_tokens=amount(shard_tokens), say=click.echo)
    click.echo(f"{out}: {made.records} records, {made.tokens / 1e6:.2f}M tokens in {made.shards} shards")


@command.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default=Path("report.html"), show_default=True)
def report(runs: tuple[Path, ...], out: Path) -> None:
    """Show RUNS on one page: loss, logits, expert load, speed, samples."""
    from openk2.train.report import write

    write(runs, out)
    click.echo(out)
