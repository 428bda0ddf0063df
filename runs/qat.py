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
from openk2.train.loop import build, quantise_experts, train
from openk2.train.recipe import Stage

SEEDS = (0, 1, 2)
TOKENS = 2_000_000
FRACTION = 0.2  # of the tokens, at the end, while the rate falls: with the experts seen through INT4, or not
RATE = 2e-2  # at the start of that part, as before it
CONFIG = network(layers=4, width=64, heads=2)


def stages(seed: int, int4: bool) -> list[Stage]:
    stable = Stage(
        name="stable", tokens=round((1 - FRACTION) * TOKENS), batch=BATCH, context=CONTEXT, lr=2e-2, decay=0.0,
        seed=seed,
    )  # fmt: skip
    last = {"tokens": round(FRACTION * TOKENS), "lr": RATE, "warmup": 0.0, "decay": 1.0, "floor": 0.0}
    return [stable, replace(stable, name="decay", qat=float(int4), seed=seed + 1000, **last)]


def run(int4: bool, seed: int, text: Path, held: Path, out: Path) -> dict[str, float]:
    """Train once; returns the held-out losses of the bf16 and the INT4 export, and what the export changed."""
    folder = out / f"{'int4' if int4 else 'bf16'}-{seed}"
    file = folder.with_suffix(".json")
    if not file.exists():
        both, begun = stages(seed, int4), out / f"stable-{seed}"
        if not folder.exists():  # the stage before is the same for both
            train(build(CONFIG, seed), [Source(text)], both[:1], begun)
            shutil.copytree(begun, folder)
        model = build(CONFIG, seed)
        train(model, [Source(text)], both, folder)
        losses = {}
        for name in ("bf16", "int4"):
            export(CONFIG, model.tensors(), folder / name, int4=name == "int4")
            losses[name] = held_out_loss(_read(folder / name), held)
        # What the forward pass of training sees: the rest in bf16, the experts through the one INT4 function.
        experts = dict(model.tensors())
        seen = _read(folder / "bf16")
        seen.load_tensors({n: t if ".experts." in n else seen.state_dict()[n] for n, t in experts.items()})
        for layer in seen.experts():
            quantise_experts(layer)
        losses["forward"] = held_out_loss(seen, held)
        stored = list(_read(folder / "int4").experts())
        losses["change"] = max(
            float((getattr(a, name) - value).detach().abs().max())
            for a, b in zip(stored, seen.experts(), strict=True)
            for name, value in zip(("gate_proj", "up_proj", "down_proj"), b.override or (), strict=True)
        )
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
