"""Attention logits under Muon and under MuonClip: the same network, text, seeds and rate, with and without QK-Clip.

OPENK2_DATA=/path/to/data .venv/bin/python runs/logits.py [OUT] [PICTURE]      # docs/muonclip.md says what it shows

A run that is there already is not made again.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from byte_text import BATCH, CONTEXT, held_out_loss, network, shards

from openk2.model.attention import LatentAttention
from openk2.optim.qk_clip import qk_clip_all_
from openk2.train import loop
from openk2.train.data import Source
from openk2.train.recipe import Stage

SEEDS = (0, 1, 2)  # of weights and data order; each is a line of the picture
THRESHOLD = 30.0  # as in the K2 report's own ablation
STEPS = 400
CONFIG = network(layers=4, width=128, heads=4)
NAMES = {"muon": "Muon", "muonclip": f"MuonClip, threshold {THRESHOLD:g}"}


def stage(optimizer: str, seed: int) -> Stage:
    return Stage(
        name="pretrain", tokens=STEPS * BATCH, batch=BATCH, context=CONTEXT, optimizer=optimizer, lr=4e-2,
        weight_decay=0.01, decay=0.2, qk_clip=THRESHOLD, seed=seed,
    )  # fmt: skip


def run(optimizer: str, seed: int, text: Path, held: Path, out: Path) -> dict[str, Any]:
    """Train once; returns each step's loss [steps], each head's largest logit [steps, heads], and the held-out loss."""
    file = out / f"{optimizer}-{seed}.json"
    if not file.exists():
        heads: list[list[float]] = []

        def watch(attentions: Iterable[LatentAttention], *rest: Any) -> tuple[list[float], list[int]]:
            attentions = list(attentions)
            peaks = [attention.max_logits for attention in attentions if attention.max_logits is not None]
            heads.append([round(float(peak), 2) for layer in peaks for peak in layer])
            return qk_clip_all_(attentions, *rest)

        loop.qk_clip_all_ = watch  # the loop keeps the largest of a layer; here every head is wanted
        folder = out / f"{optimizer}-{seed}"
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was stopped: its heads are not known any more
        model = loop.build(CONFIG, seed)
        loop.train(model, [Source(text)], [stage(optimizer, seed)], folder)
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        result = {"loss": [row["loss"] for row in rows], "heads": heads, "held_out": held_out_loss(model, held)}
        file.write_text(json.dumps(result), encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))


def draw(runs: dict[str, list[dict[str, Any]]], picture: Path) -> None:
    """Left: the largest logit of any head at each step. Right: the loss of each step, unsmoothed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for (optimizer, results), colour in zip(runs.items(), ("#d9611b", "#2a6fbb"), strict=True):
        for i, result in enumerate(results):
            style = {"color": colour, "linewidth": 1.0, "alpha": 0.9, "label": NAMES[optimizer] if i == 0 else None}
            left.plot(np.array(result["heads"]).max(1), **style)
            right.plot(result["loss"], **style | {"linewidth": 0.7})
    left.axhline(THRESHOLD, color="#555555", linestyle="--", linewidth=0.8)
    left.set(yscale="log", xlabel="step", ylabel="largest attention logit of any head")
    right.set(yscale="log", xlabel="step", ylabel="loss (nats a byte), every step", yticks=(1.5, 2, 3, 4, 5, 6))
    left.legend(frameon=False)
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=120)
    plt.close(figure)


def table(runs: dict[str, list[dict[str, Any]]]) -> str:
    """What docs/muonclip.md states, as lines of text."""
    lines = []
    for optimizer, results in runs.items():
        for seed, result in zip(SEEDS, results, strict=True):
            heads = np.array(result["heads"])
            over = heads > THRESHOLD
            last = int(np.flatnonzero(over.any(1))[-1]) + 1 if over.any() else 0
            lines.append(
                f"{NAMES[optimizer]}, seed {seed}: largest logit {heads.max():.1f}, at the end {heads[-1].max():.1f}; "
                f"{over.any(0).mean():.0%} of heads ever over {THRESHOLD:g}, last in step {last}; "
                f"held-out loss {result['held_out']:.4f}"
            )
    return "\n".join(lines)


def main() -> None:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "out/logits")
    picture = Path(sys.argv[2] if len(sys.argv) > 2 else "docs/muonclip.png")
    text, held = shards(Path(os.environ.get("OPENK2_DATA", "data")), out)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    runs: dict[str, list[dict[str, Any]]] = {optimizer: [] for optimizer in NAMES}
    for seed in SEEDS:
        for optimizer, results in runs.items():
            results.append(run(optimizer, seed, text, held, out))
    draw(runs, picture)
    print(table(runs))


if __name__ == "__main__":
    main()
