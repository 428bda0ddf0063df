"""What a pre-training run shows, as two pictures and a few sentences; runs/pretrain.sh calls it at its end.

.venv/bin/python runs/pretraining.py RUN BEFORE.json YARN.json AFTER.json PICTURES

A spike is a step whose loss lies more than six deviations above the median of the 200 steps before it. The deviation
is 1.4826 times the median distance from that median: a standard deviation that a spike cannot raise. Of normal noise
one step in a billion lies so far out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

WINDOW, LIMIT = 200, 6.0
EVEN = 2.0  # largest load of an expert over the mean that counts as even
BALANCED, TOGETHER = 100, 20  # steps


def deviations(losses: np.ndarray) -> np.ndarray:
    """How many deviations each loss [steps] lies above the median of the 200 before it; NaN for the first 200."""
    out = np.full(len(losses), np.nan)
    for step in range(WINDOW, len(losses)):
        before = losses[step - WINDOW : step]
        median = np.median(before)
        out[step] = (losses[step] - median) / (1.4826 * np.median(np.abs(before - median)))
    return out


def even(load: np.ndarray) -> str:
    """What load [steps, layers] (largest expert over the mean) says, by layer from step BALANCED on.

    One step's documents are too few to be even: a batch of one kind needs that kind's experts. So also over 20 steps.
    """
    load = load[BALANCED:]
    means = np.stack([np.convolve(layer, np.full(TOGETHER, 1 / TOGETHER), "valid") for layer in load.T])
    return (
        f"load from step {BALANCED} by layer: median {np.median(load, 0).round(2).tolist()}, steps above {EVEN:g}: "
        f"{[f'{share:.1%}' for share in (load > EVEN).mean(0)]}, "
        f"largest mean of {TOGETHER} steps {means.max(1).round(2).tolist()}"
    )


def about(rows: list[dict[str, Any]]) -> str:
    """The figures that docs/pretraining.md states."""
    far = deviations(np.array([row["loss"] for row in rows]))
    load = np.array([row["load"] for row in rows])
    logits = np.array([row["max_logits"] for row in rows])
    clipped = np.array([row["clipped"] for row in rows]).sum(1)
    norms = np.array([row["grad_norm"] for row in rows])
    lines = [
        f"{rows[-1]['tokens'] / 1e6:.2f}M tokens in {len(rows)} steps, {rows[-1]['seconds'] / 60:.0f} minutes",
        f"spikes: {int((far > LIMIT).sum())}; the furthest step lies {np.nanmax(far):.1f} deviations above the median",
        f"gradient norm from step {WINDOW}: median {np.median(norms[WINDOW:]):.2f}, most {norms[WINDOW:].max():.2f}",
        f"largest attention logit: {logits.max():.1f}; steps with a clipped head: {int((clipped > 0).sum())}",
        even(load),
    ]
    for stage in dict.fromkeys(row["stage"] for row in rows):
        part = [row for row in rows if row["stage"] == stage]
        losses = [row["loss"] for row in part[-50:]]
        lines.append(f"{stage}: {len(part)} steps, mean loss of the last {len(losses)}: {np.mean(losses):.3f}")
    return "\n".join(lines)


def _axes(axes: Any, **labels: Any) -> None:
    axes.set(**labels)
    axes.spines[["top", "right"]].set_visible(False)


def curves(rows: list[dict[str, Any]], picture: Path) -> None:
    """Every step, unsmoothed: loss, gradient norm, largest logit and expert load by layer."""
    import matplotlib.pyplot as plt

    tokens = [row["tokens"] / 1e6 for row in rows]
    figure, panels = plt.subplots(
        4, 1, figsize=(9, 9.5), sharex=True, height_ratios=(3, 1.2, 1.2, 1.6), layout="constrained"
    )
    panels[0].plot(tokens, [row["loss"] for row in rows], linewidth=0.5, color="#2a6fbb")
    panels[1].plot(tokens, [row["grad_norm"] for row in rows], linewidth=0.5, color="#2a6fbb")
    for panel, name, first in ((panels[2], "max_logits", 0), (panels[3], "load", 1)):
        values = np.array([row[name] for row in rows]).T
        for layer, line in enumerate(values, first):
            panel.plot(tokens, line, linewidth=0.5, color=plt.get_cmap("viridis")(layer / 4), label=f"layer {layer}")
        panel.legend(frameon=False, ncols=len(values), fontsize=8, loc="upper right")
    panels[3].axhline(EVEN, color="#555555", linestyle="--", linewidth=0.8)
    ends = [tokens[i] for i in range(1, len(rows)) if rows[i]["stage"] != rows[i - 1]["stage"]]
    for panel in panels:
        for end in ends:
            panel.axvline(end, color="#999999", linestyle=":", linewidth=0.8)
    names = list(dict.fromkeys(row["stage"] for row in rows))
    for start, name in zip([0.0, *ends], names, strict=True):
        panels[0].text(start, 1.01, f" {name}", transform=panels[0].get_xaxis_transform(), fontsize=8, color="#555555")
    _axes(panels[0], ylabel="loss (nats), every step")
    _axes(panels[1], ylabel="gradient norm", yscale="log")
    _axes(panels[2], ylabel="largest logit")
    _axes(panels[3], ylabel="load, largest / mean", xlabel="million tokens")
    figure.savefig(picture, dpi=120)
    plt.close(figure)


def positions(tables: list[tuple[str, dict[str, Any]]], picture: Path) -> None:
    """One map a table: length of the document against place of the code, and the share found."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(tables), figsize=(4.1 * len(tables), 3.2), sharey=True, layout="constrained")
    for panel, (title, table) in zip(panels, tables, strict=True):
        shares = np.array(list(table["found"].values()))
        panel.imshow(shares, vmin=0, vmax=1, cmap="YlGnBu", aspect="auto")
        for (row, column), share in np.ndenumerate(shares):
            dark = "white" if share > 0.6 else "#333333"
            panel.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=7, color=dark)
        panel.set_xticks(range(len(table["places"])), [f"{100 * place:.0f}" for place in table["places"]], fontsize=8)
        panel.set_yticks(range(len(shares)), list(table["found"]), fontsize=8)
        panel.set(title=title, xlabel="place of the code, % of the document")
        panel.title.set_fontsize(9)
    panels[0].set(ylabel="tokens of the document")
    figure.savefig(picture, dpi=120)
    plt.close(figure)


def main() -> None:
    import matplotlib

    matplotlib.use("Agg")
    run, before, yarn, after, pictures = map(Path, sys.argv[1:6])
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    if len(rows) <= WINDOW:
        sys.exit(f"{run} has {len(rows)} steps; spikes are judged by the {WINDOW} steps before each.")
    print(about(rows))
    pictures.mkdir(parents=True, exist_ok=True)
    curves(rows, pictures / "pretraining.png")
    titles = ("before, plain positions", "before, YaRN without training", "after the long-context stage")
    tables = [json.loads(file.read_text(encoding="utf-8")) for file in (before, yarn, after)]
    positions(list(zip(titles, tables, strict=True)), pictures / "long-context.png")


if __name__ == "__main__":
    main()
