"""MuonClip against AdamW at the size of nano: a grid for each, then three seeds of the best, then fewer tokens.

    export OPENK2_DATA=/path/to/data     # the source files of docs/recipe.md
    python runs/optimizers.py prepare    # token shards: half real text, half trajectories, and a held-out set
    python runs/optimizers.py run grid   # or `final`, or runs by name; finished ones are kept, a killed one goes on
    python runs/optimizers.py table      # what docs/optimizers.md says
    python runs/optimizers.py draw       # docs/optimizers.png

Results are JSON files in OPENK2_STUDY (out/optimizers), one a run.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from openk2.chat.tokenizer import Tokenizer
from openk2.model.attention import Packing
from openk2.model.config import ModelConfig
from openk2.model.transformer import Transformer
from openk2.synth.make import make
from openk2.synth.rows import read_rows
from openk2.synth.shards import Tokens, write_tokens
from openk2.train.data import Source, Stream
from openk2.train.loop import Pace, build, train
from openk2.train.packing import Packer
from openk2.train.recipe import Stage

OUT = Path(os.environ.get("OPENK2_STUDY", "out/optimizers"))
TOKENIZER = Path("openk2/weights/nano")
CONTEXT = 1024  # tokens of a piece of text
TEXT = {"wikipedia": 0.5, "python": 0.2, "pepys": 0.15, "passages": 0.15}  # shares of the text's tokens
TRAIN_TOKENS, HELD_TOKENS = 1_800_000, 24_000  # of text; as many of trajectories
BATCH, GRID_TOKENS, TOKENS = 8192, 320_000, 800_000
PAUSES = (0.3, 0.5, 0.7)  # shares of a long run after which it is evaluated; the rate falls from the last one on


@dataclass(frozen=True)
class Run:
    """One training run from fresh weights: the seed decides the weights and the order of the data, for both alike."""

    optimizer: str
    lr: float
    tokens: int = TOKENS
    seed: int = 0
    adam_scale: float = 0.3

    @property
    def name(self) -> str:
        dials = f"{self.lr:g}-{self.adam_scale:g}" if self.optimizer == "muonclip" else f"{self.lr:g}"
        return f"{self.optimizer}-{dials}-{self.tokens // 1000}k-s{self.seed}"

    @property
    def stage(self) -> Stage:
        return Stage(**asdict(self), batch=BATCH, context=4096, warmup=0.1, decay=0.3, floor=0.0)


GRID = [
    *(Run("adamw", lr, GRID_TOKENS) for lr in (1e-3, 2e-3, 4e-3, 8e-3)),
    *(Run("muonclip", lr, GRID_TOKENS) for lr in (2.5e-3, 5e-3, 1e-2, 2e-2)),
]


def texts(kind: str, data: Path) -> list[str]:
    """All documents of a kind, in a fixed random order."""
    match kind:
        case "wikipedia":
            found = [row["text"] for row in read_rows(data / "wikipedia_pages.jsonl.gz")]
        case "passages":
            found = [f"{row['title']}\n{row['text']}" for row in read_rows(data / "wikipedia_passages.jsonl.gz")]
        case "pepys":  # an entry a document
            rows = read_rows(data / "pepys.jsonl.gz")
            found = [entry for row in rows for entry in row["text"].split("\n\n") if len(entry) > 200]
        case _:
            library = Path(sysconfig.get_paths()["stdlib"])
            files = [p for p in sorted(library.rglob("*.py")) if not {"test", "tests", "site-packages"} & {*p.parts}]
            found = [path.read_text(encoding="utf-8", errors="replace") for path in files]
    random.Random(f"order of {kind}").shuffle(found)
    return found


def pieces(tokenizer: Tokenizer, documents: list[str]) -> Iterator[tuple[bool, Tokens]]:
    """(held out?, ids and mask) of pieces of at most CONTEXT tokens; a document is held out whole, by its hash."""
    for text in documents:
        held = hashlib.sha256(text.encode()).digest()[0] < 16
        ids = tokenizer.encode(text[:20_000])  # no page outweighs the others
        for start in range(0, len(ids), CONTEXT):
            piece = ids[start : start + CONTEXT]
            yield held, (piece, [1] * len(piece))


def prepare(data: Path) -> None:
    """Shards in OUT/data: text, trajectories, and their held-out counterparts, of which no document is trained on."""
    tokenizer = Tokenizer.load(TOKENIZER)
    for held, name, total in ((False, "text", TRAIN_TOKENS), (True, "held-text", HELD_TOKENS)):
        folder = OUT / "data" / name
        folder.mkdir(parents=True, exist_ok=True)
        for kind, share in TEXT.items():
            taken, left = [], total * share
            for piece in (tokens for is_held, tokens in pieces(tokenizer, texts(kind, data)) if is_held == held):
                if left <= 0:
                    break
                taken.append(piece)
                left -= len(piece[0])
            print(f"{name}: {write_tokens(folder / kind, taken):,} tokens of {kind} in {len(taken)} pieces")
    # 262 tokens an example; other seeds draw other worlds, names and figures
    make(data, TOKENIZER, OUT / "data" / "trajectories", TRAIN_TOKENS // 262, seed=77)
    make(data, TOKENIZER, OUT / "data" / "held-trajectories", HELD_TOKENS // 262, seed=78)


def run(one: Run) -> None:
    """Train `one` and evaluate it at PAUSES and at its end, into OUT/NAME.json, unless that is there."""
    result, folder = OUT / f"{one.name}.json", OUT / "running" / one.name
    if result.exists():
        return
    model = build(ModelConfig.from_depth(8, Tokenizer.load(TOKENIZER).n_vocab), one.seed)
    data = [Source(OUT / "data" / kind) for kind in ("text", "trajectories")]
    pauses = [round(share * one.tokens / BATCH) for share in PAUSES] if one.tokens > GRID_TOKENS else []
    held_file = folder / "held.json"
    held = json.loads(held_file.read_text(encoding="utf-8")) if held_file.exists() else []
    for pause in [*pauses, None][len(held) :]:
        train(model, data, [one.stage], folder, pace=Pace(checkpoint_minutes=3, max_steps=pause))
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        held.append({"step": len(rows), "tokens": rows[-1]["tokens"], **held_out(model)})
        held_file.write_text(json.dumps(held), encoding="utf-8")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    record = {
        **asdict(one), "held": held, "curve": [[row["tokens"], round(row["loss"], 4)] for row in rows],
        "max_logit": max(max(row["max_logits"]) for row in rows), "clipped": sum(sum(row["clipped"]) for row in rows),
    }  # fmt: skip
    result.write_text(json.dumps(record) + "\n", encoding="utf-8")
    shutil.rmtree(folder)
    print(one.name, held[-1], flush=True)


@torch.no_grad()
def held_out(model: Transformer) -> dict[str, float]:
    """Mean loss (nats a token) on the held-out tokens of each kind and of both together, as in training."""
    model.eval()
    total, count = dict[str, float](), dict[str, int]()
    for kind in ("text", "trajectories"):
        stream = Stream([Source(OUT / "data" / f"held-{kind}")], "held-out", 0, 4096)
        packer = Packer(stream, BATCH)
        batches = [packer.next() for _ in range(math.ceil(stream.tokens / BATCH))]
        count[kind] = sum(len(batch.rows) for batch in batches)
        losses = (float(model.loss(b.ids, Packing(b.lengths), b.rows)) * len(b.rows) for b in batches)
        total[kind] = sum(losses)
    means = {kind: round(total[kind] / count[kind], 4) for kind in total}
    return {"both": round(sum(total.values()) / sum(count.values()), 4), **means}


if __name__ == "__main__":
    command, *names = sys.argv[1:] or ["help"]
    if command == "prepare":
        prepare(Path(os.environ["OPENK2_DATA"]))
    elif command == "names":
        print(*(one.name for one in GRID), sep="\n")
    elif command == "run":
        for one in GRID:
            if one.name in names or "grid" in names:
                run(one)
