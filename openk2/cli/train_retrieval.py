"""`k2 train retrieval`: accuracy by where the code lies and how long the document is."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from openk2.errors import UserError
from openk2.paths import install


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("texts", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--tokenizer", type=click.Path(path_type=Path), required=True, help="Folder of tiktoken.model.")
@click.option("--lengths", default="256,512,1024,2048,4096", show_default=True, help="Tokens of the documents.")
@click.option("--depths", type=click.IntRange(2), default=10, show_default=True, help="Places from first to last.")
@click.option("--probes", type=click.IntRange(1), default=20, show_default=True, help="Documents a place and length.")
@click.option("--yarn", type=click.FloatRange(1, min_open=True), help="Stretch positions by this factor first.")
@click.option("--context", type=click.IntRange(1), default=512, show_default=True, help="Context before --yarn.")
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", type=click.IntRange(1), help="CPU threads (default: torch's choice).")
@click.option("--out", type=click.Path(path_type=Path), help="JSON file for the table.")
def retrieval(
    run: Path, texts: tuple[Path, ...], tokenizer: Path, lengths: str, depths: int, probes: int, yarn: float | None,
    context: int, seed: int, threads: int | None, out: Path | None,
) -> None:  # fmt: skip
    """Ask RUN for codes hidden in the real text of TEXTS: the share found, by length and place."""
    try:
        import torch
    except ImportError:
        raise UserError(f"Measuring a training run needs torch; install it with: {install('train')}") from None

    from openk2.chat.tokenizer import Tokenizer
    from openk2.model.transformer import Transformer
    from openk2.synth.recall import ANSWER, Recall, read_texts
    from openk2.train.checkpoint import initial_weights
    from openk2.train.retrieval import answered

    try:
        sizes = [int(length) for length in lengths.split(",")]
    except ValueError:
        raise UserError(f"--lengths {lengths!r} is not a list of numbers; write for example 512,1024.") from None
    if threads:
        torch.set_num_threads(threads)
    config, weights = initial_weights(run)
    if yarn:
        config = dataclasses.replace(config, rope_scaling={
            "type": "yarn", "factor": yarn, "original_max_position_embeddings": context,
            "beta_fast": 1.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
        })  # fmt: skip
    model = Transformer(config)
    model.load_tensors(weights)
    recall = Recall(Tokenizer.load(tokenizer), read_texts(texts), seed)
    places = [place / (depths - 1) for place in range(depths)]
    click.echo("tokens " + "".join(f"{place:5.0%}" for place in places) + "  all")
    table: dict[str, list[float]] = {}
    for size in sizes:
        documents = [recall.probe(size, place)[0] for place in places for _ in range(probes)]
        found = answered(model, documents, ANSWER)
        shares = [sum(found[at : at + probes]) / probes for at in range(0, len(found), probes)]
        table[str(size)] = shares
        click.echo(f"{size:>6} " + "".join(f"{share:5.0%}" for share in shares) + f"{sum(found) / len(found):5.0%}")
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({"run": str(run), "yarn": yarn, "probes": probes, "places": places, "found": table}))
