"""INT4 learned in training (QAT) against INT4 made afterwards: the same network, text and seeds, for the same tokens.

OPENK2_DATA=/path/to/data .venv/bin/python runs/qat.py [OUT]      # docs/int4.md says what it shows

Each run's weights are exported as `k2 model export` does and read back; every loss is that of an exported checkpoint.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import torch
from byte_text import BATCH, CONTEXT, held_out_loss, network, shards

from openk2.model.transformer import Transformer
from openk2.train.checkpoint import initial_weights
from openk2.train.data import Source
from openk2.train.export import export
from openk2.train.int4 import rounded
from openk2.train.loop import build, train
from openk2.train.recipe import Stage

SEEDS = (0, 1, 2)
STABLE, DECAY = 1_600_000, 400_000  # bytes before: a whole training, to the end of its rate
AFTER = 2_400_000  # bytes of the stage after it, with the experts seen through INT4, or not
RATE = 1e-3  # at the start of that stage; it falls to nothing. Before: 0.02
CONFIG = network(layers=4, width=64, heads=2)


def stages(seed: int, int4: bool) -> list[Stage]:
    """Training, its decay, and the stage after, as K2 Thinking was made INT4 in post-training."""
    stable = Stage(name="stable", tokens=STABLE, batch=BATCH, context=CONTEXT, lr=2e-2, decay=0.0, seed=seed)
    decay = replace(stable, name="decay", tokens=DECAY, warmup=0.0, decay=1.0, floor=0.0, seed=seed + 1000)
    return [stable, decay, replace(decay, name="after", tokens=AFTER, lr=RATE, qat=float(int4), seed=seed + 2000)]


def run(int4: bool, seed: int, text: Path, held: Path, out: Path) -> dict[str, float]:
    """Train once; returns the held-out losses of the bf16 and the INT4 export, and what the export changed."""
    folder = out / f"{'int4' if int4 else 'bf16'}-{seed}"
    file = folder.with_suffix(".json")
    if not file.exists():
        every, before = stages(seed, int4), out / f"before-{seed}"
        if not folder.exists():  # what was before is the same for both
            train(build(CONFIG, seed), [Source(text)], every[:2], before)
            shutil.copytree(before, folder)
        model = build(CONFIG, seed)
        train(model, [Source(text)], every, folder)
        losses = {}
        for name in ("bf16", "int4"):
            export(CONFIG, model.tensors(), folder / name, int4=name == "int4")
            losses[name] = held_out_loss(_read(folder / name), held)
        # What the forward pass of training sees: the rest in bf16, the experts through the one INT4 function.
        experts = dict(model.tensors())
        seen = _read(folder / "bf16")
        seen.load_tensors({n: t if ".experts." in n else seen.state_dict()[n] for n, t in experts.items()})
        with rounded(seen.experts()):
            losses["forward"] = held_out_loss(seen, held)
            stored = [p for layer in _read(folder / "int4").experts() for p in layer.parameters()]
            values = [p for layer in seen.experts() for p in layer.parameters()]
            losses["change"] = max(float((a - b).detach().abs().max()) for a, b in zip(stored, values, strict=True))
        file.write_text(json.dumps(losses), encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))


def _read(checkpoint: Path) -> Transformer:
    config, tensors = initial_weights(checkpoint)
    model = Transformer(config)
    model.load_tensors(tensors)
    return model


def _spread(values: list[float]) -> str:
    return f"{statistics.mean(values):+.5f} ± {statistics.stdev(values):.5f}"


def main() -> None:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "out/qat")
    text, held = shards(Path(os.environ.get("OPENK2_DATA", "data")), out)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    afterwards, learned, own = [], [], []
    print("| seed | bf16 | INT4 afterwards | INT4 learned | its own rounding | export |\n" + "|--:" * 6 + "|")
    for seed in SEEDS:
        plain, qat = (run(int4, seed, text, held, out) for int4 in (False, True))
        afterwards.append(plain["int4"] - plain["bf16"])
        learned.append(qat["int4"] - plain["bf16"])
        own.append(qat["int4"] - qat["bf16"])
        gaps = " | ".join(f"{gap[-1]:+.5f}" for gap in (afterwards, learned, own))
        changes = f"{qat['change']:g}, {abs(qat['int4'] - qat['forward']):g}"
        print(f"| {seed} | {plain['bf16']:.5f} | {gaps} | {changes} |")
    for name, gaps in (("learned", learned), ("its own rounding", own)):
        gains = [a - b for a, b in zip(afterwards, gaps, strict=True)]
        t = statistics.mean(gains) / (statistics.stdev(gains) / len(gains) ** 0.5)
        print(
            f"{name}: {_spread(gaps)} against {_spread(afterwards)}: {1 - sum(gaps) / sum(afterwards):.0%} of the gap "
            f"closed, paired t = {t:.1f} with {len(gains) - 1} degrees of freedom"
        )


if __name__ == "__main__":
    main()
