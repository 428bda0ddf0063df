"""A picture of training: loss, learning rate and largest attention logit over tokens, from runs' metrics.jsonl."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openk2.errors import UserError
from openk2.paths import install


def draw(runs: Sequence[Path], out: Path) -> None:
    """Draw one line a run into the image `out`. Raises UserError when a run has no metrics,
    matplotlib is missing, or the ending of `out` is no kind of picture.
    """
    try:
        import matplotlib
    except ImportError:
        raise UserError(f"Drawing needs matplotlib; install it with: {install('train')}") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (top, middle, bottom) = plt.subplots(
        3, 1, figsize=(9, 8), sharex=True, height_ratios=(3, 1, 1), layout="constrained"
    )
    for run in runs:
        rows = _metrics(run)
        tokens = [row["tokens"] / 1e6 for row in rows]
        (line,) = top.plot(tokens, _smooth([row["loss"] for row in rows]), label=run.name)
        top.plot(tokens, [row["loss"] for row in rows], color=line.get_color(), alpha=0.2, linewidth=0.6)
        if any(row["qat"] for row in rows):
            start = next(t for t, row in zip(tokens, rows, strict=True) if row["qat"])
            top.axvline(start, color=line.get_color(), linestyle=":", label=f"{run.name}: INT4 in the forward pass")
        middle.plot(tokens, [row["lr"] for row in rows])
        bottom.plot(tokens, [max(row["max_logits"]) for row in rows])
    top.set(ylabel="loss on own tokens (nats)", yscale="log")
    top.legend()
    middle.set(ylabel="learning rate")
    bottom.set(ylabel="largest logit", xlabel="million tokens")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(out, dpi=120)
    except ValueError as error:  # an ending that is no kind of picture
        raise UserError(f"{out} cannot be drawn ({error}); name it *.png or *.svg.") from None
    finally:
        plt.close(figure)


def _metrics(run: Path) -> list[dict[str, Any]]:
    file = run / "metrics.jsonl"
    if not file.exists():
        raise UserError(f"{run} has no metrics.jsonl; give the folder of a training run.")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    if not rows:
        raise UserError(f"{file} is empty; the run has not made a step yet.")
    return rows


def _smooth(values: list[float], keep: float = 0.95) -> list[float]:
    """Exponential mean, corrected for its start."""
    smoothed, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = keep * total + (1 - keep) * value, keep * weight + 1 - keep
        smoothed.append(total / weight)
    return smoothed
