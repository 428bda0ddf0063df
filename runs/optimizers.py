"""MuonClip against AdamW at the size of nano: a grid for each, then three seeds of the best, then fewer tokens.

    export OPENK2_DATA=/path/to/data     # the source files of docs/recipe.md
    python runs/optimizers.py prepare    # token shards: half real text, half trajectories, and a held-out set
    python runs/optimizers.py grid       # every rate on a quarter; finished runs are kept, a killed one goes on
    python runs/optimizers.py full       # the best of each to the end, for each seed; or the runs that are named
    python runs/optimizers.py table      # what docs/optimizers.md says
    python runs/optimizers.py draw       # docs/optimizers.png
    python runs/optimizers.py speed      # seconds a step

Results are JSON files in OPENK2_STUDY (out/optimizers), one a run.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import random
import shutil
import statistics
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openk2.chat.shards import Tokens, write_tokens
from openk2.chat.tokenizer import Tokenizer
from openk2.model.attention import Packing
from openk2.model.config import ModelConfig
from openk2.model.transformer import Transformer
from openk2.synth.make import make
from openk2.synth.rows import read_rows
from openk2.train.data import Source, Stream
from openk2.train.loop import Pace, build, train
from openk2.train.packing import Packer
from openk2.train.recipe import Stage

OUT = Path(os.environ.get("OPENK2_STUDY", "out/optimizers"))
RECORDS = Path("docs/optimizers.json")
TOKENIZER = Path("openk2/weights/nano")
CONTEXT = 1024  # tokens of a piece of text
TEXT = {"wikipedia": 0.5, "python": 0.2, "pepys": 0.15, "passages": 0.15}  # shares of the text's tokens
TRAIN_TOKENS, HELD_TOKENS = 1_800_000, 30_000  # of text; as many of trajectories
BATCH, TOKENS, GRID_TOKENS, SHORT_TOKENS = 4096, 800_000, 400_000, 480_000
SEEDS = (0, 1, 2)  # the grid used the first
PAUSES = (49, 78, 98, 117, 137)  # steps, of 195, after which a run is evaluated; after the last the rate falls


@dataclass(frozen=True)
class Run:
    """One training run from fresh weights: the seed decides the weights and the order of the data, for both alike."""

    optimizer: str
    lr: float
    seed: int = 0
    adam_scale: float = 0.3
    tokens: int = TOKENS

    @property
    def name(self) -> str:
        dials = f"{self.lr:g}-{self.adam_scale:g}" if self.optimizer == "muonclip" else f"{self.lr:g}"
        return f"{self.optimizer}-{dials}-s{self.seed}" + f"-{self.tokens // 1000}k" * (self.tokens != TOKENS)

    @property
    def stage(self) -> Stage:
        return Stage(**asdict(self), batch=BATCH, context=4096, warmup=0.1, decay=0.3, floor=0.0)


RATES = {"adamw": (5e-4, 1e-3, 2e-3, 4e-3), "muonclip": (2.5e-3, 5e-3, 1e-2, 2e-2)}
GRID = [Run(name, lr, tokens=GRID_TOKENS) for name, rates in RATES.items() for lr in rates]
BEST = {"adamw": Run("adamw", 2e-3), "muonclip": Run("muonclip", 5e-3)}  # of the grid
FINAL = [replace(BEST[name], seed=seed) for seed in SEEDS for name in BEST]
NEAR = [  # whether it stays the best
    *(Run("adamw", lr) for lr in (1e-3, 4e-3)),
    *(Run("muonclip", lr) for lr in (2.5e-3, 1e-2)),
]
# The whole schedule on fewer tokens.
SHORT = [replace(BEST["muonclip"], seed=seed, tokens=SHORT_TOKENS) for seed in SEEDS]


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
            written = write_tokens(folder / kind, taken, tokenizer.n_vocab)
            print(f"{name}: {written:,} tokens of {kind} in {len(taken)} pieces")
    # 262 tokens an example; other seeds draw other worlds, names and figures
    make(data, TOKENIZER, OUT / "data" / "trajectories", TRAIN_TOKENS // 262, seed=77)
    make(data, TOKENIZER, OUT / "data" / "held-trajectories", HELD_TOKENS // 262, seed=78)


def run(one: Run, pauses: Sequence[int | None]) -> None:
    """Train `one` and evaluate it after each of `pauses` (None: at its end), into OUT/NAME.json; goes on from there."""
    result, folder = OUT / f"{one.name}.json", OUT / "running" / one.name
    held = json.loads(result.read_text(encoding="utf-8"))["held"] if result.exists() else []
    model = build(ModelConfig.from_depth(8, Tokenizer.load(TOKENIZER).n_vocab), one.seed)
    data = [Source(OUT / "data" / kind) for kind in ("text", "trajectories")]
    for pause in pauses[len(held) :]:
        train(model, data, [one.stage], folder, pace=Pace(checkpoint_minutes=3, max_steps=pause))
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        held.append({"step": len(rows), "tokens": rows[-1]["tokens"], **held_out(model)})
        record = {
            **asdict(one), "held": held, "curve": [[row["tokens"], round(row["loss"], 4)] for row in rows],
            "max_logit": max(max(r["max_logits"]) for r in rows), "clipped": sum(sum(r["clipped"]) for r in rows),
        }  # fmt: skip
        result.write_text(json.dumps(record) + "\n", encoding="utf-8")
        print(one.name, held[-1], flush=True)


@torch.no_grad()
def held_out(model: Transformer) -> dict[str, float]:
    """Mean loss (nats a token) on the held-out tokens of each kind and of both together, as in training."""
    model.eval()
    total, count = dict[str, float](), dict[str, int]()
    for kind in ("text", "trajectories"):
        stream = Stream([Source(OUT / "data" / f"held-{kind}")], "held-out", 0, 4096)
        packer = Packer(stream, BATCH)
        batches = [packer.step().batches[0] for _ in range(math.ceil(stream.tokens / BATCH))]
        count[kind] = sum(len(batch.rows) for batch in batches)
        losses = (float(model.loss(b.ids, Packing(b.lengths), b.rows)) * len(b.rows) for b in batches)
        total[kind] = sum(losses)
    means = {kind: round(total[kind] / count[kind], 4) for kind in total}
    return {"both": round(sum(total.values()) / sum(count.values()), 4), **means}


def gather() -> dict[str, dict[str, Any]]:
    """All results by name, kept with the page, so that it can be made again without the runs."""
    records = json.loads(RECORDS.read_text(encoding="utf-8")) if RECORDS.exists() else {}
    for one in (*GRID, *NEAR, *FINAL, *SHORT):
        if (file := OUT / f"{one.name}.json").exists():
            records[one.name] = json.loads(file.read_text(encoding="utf-8"))
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(record)}" for name, record in sorted(records.items()))
    RECORDS.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    return records


def paired_t(differences: list[float]) -> tuple[float, float, float]:
    """Mean, t, and the two-sided p of Student's paired test, n - 1 degrees of freedom.

    With t = sqrt(f) tan(x) the density is proportional to cos(x)^(f - 1), which is summed here.
    """
    n, mean = len(differences), statistics.fmean(differences)
    t = mean / (statistics.stdev(differences) / math.sqrt(n))
    x = np.linspace(0, math.pi / 2, 100_001)
    density = np.cos(x) ** (n - 2)
    return mean, t, float(density[x > math.atan(abs(t) / math.sqrt(n - 1))].sum() / density.sum())


def tokens_to(loss: float, points: Sequence[tuple[float, float]]) -> float | None:
    """Tokens at which a line through (tokens, loss), straight in both logarithms, falls to `loss`; None outside it."""
    for (before, high), (after, low) in itertools.pairwise(points):
        if high >= loss >= low:
            share = math.log(high / loss) / math.log(high / low)
            return before * (after / before) ** share
    return None


def table(records: dict[str, dict[str, Any]]) -> None:
    """Print what the page says."""
    print(f"Seed 0: held-out loss (both, text, trajectories) at the end of {GRID_TOKENS:,} tokens")
    for one in (one for one in GRID if one.name in records):
        held = records[one.name]["held"][-1]
        print(f"  {one.name:28}", held["both"], held["text"], held["trajectories"])
    print("Seed 0: the best rates and their neighbours to the end")
    for one in (one for one in (*FINAL[:2], *NEAR) if one.name in records):
        print(f"  {one.name:28}", records[one.name]["held"][-1])
    pairs = {
        seed: [records[name]["held"] for best in BEST.values() if (name := replace(best, seed=seed).name) in records]
        for seed in SEEDS
    }  # of AdamW and of MuonClip, as far as each has got
    for kind, (at, step) in itertools.product(("both", "text", "trajectories"), enumerate((*PAUSES, "last"))):
        losses = [(a[at][kind], m[at][kind]) for a, m in pairs.values() if min(len(a), len(m)) > at]
        print(f"{kind}, step {step}: (AdamW, MuonClip) {losses}")
        if len(losses) > 1:
            print("  difference {:+.4f}, t {:.2f}, p {:.4f}".format(*paired_t([m - a for a, m in losses])))
    for seed, (a, m) in pairs.items():
        for at in range(1, min(len(a), len(m))):
            share = (equal := tokens_to(a[at]["both"], [(h["tokens"], h["both"]) for h in m])) and equal / a[at][
                "tokens"
            ]
            print(
                f"seed {seed}: MuonClip on its way has AdamW's loss of step {a[at]['step']} after {share} of its tokens"
            )
        short = records.get(replace(BEST["muonclip"], seed=seed, tokens=SHORT_TOKENS).name)
        if short and min(len(a), len(m)) > len(PAUSES):
            ends = [(h["tokens"], h["both"]) for h in (short["held"][-1], m[-1])]
            equal = tokens_to(a[-1]["both"], ends)
            print(f"  ends: MuonClip {ends}, AdamW {a[-1]['both']}: equal after {equal and equal / a[-1]['tokens']}")


def speed() -> None:
    """Seconds of gradients and of the optimizer in a step, both optimizers by turns, on two cores."""
    torch.set_num_threads(2)
    data = [Source(OUT / "data" / kind) for kind in ("text", "trajectories")]
    for batch in (4096, 8192, 16384):
        rows: dict[str, list[dict[str, Any]]] = {}
        for steps in (3, 5, 7):
            for best in BEST.values():
                folder = OUT / "speed" / f"{best.optimizer}-{batch}"
                stage = replace(best.stage, batch=batch, parts=2, context=min(4096, batch // 2))
                model = build(ModelConfig.from_depth(8, Tokenizer.load(TOKENIZER).n_vocab), 0)
                train(model, data, [stage], folder, say=lambda _: None, pace=Pace(max_steps=steps))
                lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
                rows[best.optimizer] = [json.loads(line) for line in lines]
        shutil.rmtree(OUT / "speed")
        for name, steps in rows.items():
            seconds = [now["seconds"] - before["seconds"] for before, now in itertools.pairwise(steps)]
            optimizer = [s * row["optimizer_share"] for s, row in zip(seconds, steps[1:], strict=True)]
            rest = statistics.median(s - o for s, o in zip(seconds, optimizer, strict=True))
            print(f"batch {batch:>6} {name:8} gradients {rest:.3f} s, optimizer {statistics.median(optimizer):.3f} s")


def draw(records: dict[str, dict[str, Any]]) -> None:
    """docs/optimizers.png: losses of all seeds over tokens, and the grid."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), width_ratios=(2, 1), layout="constrained")
    for name, colour in (("adamw", "tab:orange"), ("muonclip", "tab:blue")):
        for one in (one for one in FINAL if one.optimizer == name and one.name in records):
            tokens, losses = zip(*records[one.name]["curve"], strict=True)
            label = name if one.seed == FINAL[0].seed else None
            mean = [statistics.fmean(losses[max(0, at - 4) : at + 5]) for at in range(len(losses))]
            left.plot([t / 1e3 for t in tokens], mean, color=colour, linewidth=0.8, label=label)
            held = records[one.name]["held"]
            left.plot([h["tokens"] / 1e3 for h in held], [h["both"] for h in held], "o", color=colour, markersize=4)
        grid = [(one.lr, records[one.name]["held"][-1]["both"]) for one in GRID if one.optimizer == name]
        right.plot(*zip(*sorted(grid), strict=True), "o-", color=colour)
    left.legend()
    left.set(
        xlabel="thousand tokens",
        ylabel="loss (nats a token)",
        title="lines: training, mean of 9 steps; points: held out",
    )
    right.set(xlabel="learning rate", xscale="log", title=f"grid: held-out loss after {GRID_TOKENS:,} tokens")
    figure.savefig(RECORDS.with_suffix(".png"), dpi=120)


if __name__ == "__main__":
    command, *names = sys.argv[1:] or ["help"]
    if command == "prepare":
        prepare(Path(os.environ["OPENK2_DATA"]))
    elif command == "grid":
        for one in GRID:
            if one.name in names or not names:
                run(one, (None,))
    elif command == "full":
        named = {one.name: one for one in (*GRID, *NEAR, *FINAL, *SHORT)}
        for one in [named[name] for name in names] or (*FINAL, *NEAR, *SHORT):
            run(one, (*PAUSES, None) if one.tokens == TOKENS else (None,))
    elif command == "table":
        table(gather())
    elif command == "draw":
        draw(gather())
    elif command == "speed":
        speed()
    else:
        print(__doc__)
