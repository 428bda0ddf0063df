"""One self-contained page about training runs, from what they leave in their folders. No network, no other file.

k2 train report out/run1 out/run2 --out report.html
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from openk2.errors import UserError
from openk2.model.config import ModelConfig
from openk2.train.charts import Line, Mark, amount, chart, smooth

_RUNS = 6  # colours there are
_STEPS_SHOWN = 12  # of the samples
_PAGE = Path(__file__).with_name("report.html")


@dataclass(frozen=True)
class Run:
    """What one run wrote: `columns` by name, each [steps] or [steps, layers] (float32, NaN where a row has none)."""

    name: str
    columns: dict[str, np.ndarray]
    stages: list[str]  # the stage of each step
    samples: list[dict[str, Any]]
    about: dict[str, Any]  # `config` and `stages`, as the newest checkpoint has them

    def peak(self, name: str) -> np.ndarray | None:
        """[steps]: the largest over the layers."""
        values = self.columns.get(name)
        if values is None or values.ndim == 1:
            return values
        return np.where(np.isnan(values), -np.inf, values).max(1)


def write(runs: Sequence[Path], out: Path) -> None:
    """Write the page about `runs` to `out`. Raises UserError when a run has no metrics, or there are more than six."""
    if len(runs) > _RUNS:
        raise UserError(f"A report shows up to {_RUNS} runs and got {len(runs)}; name fewer.")
    clash = len({run.resolve().name for run in runs}) < len(runs)
    read_runs = [read(run, str(run) if clash else run.resolve().name) for run in runs]
    page = _PAGE.read_text(encoding="utf-8").replace("{{body}}", _body(read_runs))
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}); name a file in a folder of yours.") from None


def read(folder: Path, name: str) -> Run:
    """Read metrics.jsonl, and samples.jsonl and a checkpoint's state.json where they exist.

    A line that a kill cut off is left out. Raises UserError when there are no metrics, or not those of training.
    """
    file = folder / "metrics.jsonl"
    if not file.exists():
        raise UserError(f"{folder} has no metrics.jsonl; give the folder of a training run.")
    gathered: dict[str, list[Any]] = {}
    stages: list[str] = []
    with file.open(encoding="utf-8") as lines:
        for count, line in enumerate(lines):
            if not line.endswith("}\n"):
                break
            row = json.loads(line)
            stages.append(str(row.pop("stage", "")))
            for key, value in row.items():
                held = gathered.setdefault(key, [math.nan] * count)
                held.append(np.asarray(value, np.float32) if isinstance(value, list) else value)
            for key in gathered.keys() - row.keys():
                gathered[key].append(math.nan)
    if not stages:
        raise UserError(f"{file} is empty; the run has not made a step yet.")
    if not {"tokens", "loss"} <= gathered.keys():
        raise UserError(f"{file} has no tokens and loss in its rows; give the folder of a training run.")
    states = sorted(folder.glob("step-*/state.json"))
    about = json.loads(states[-1].read_text(encoding="utf-8")) if states else {}
    samples = []
    if (folder / "samples.jsonl").exists():
        text = (folder / "samples.jsonl").read_text(encoding="utf-8")
        samples = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
    columns = {key: _column(values) for key, values in gathered.items()}
    if "clipped" in columns:
        columns["heads_clipped"] = np.nansum(columns["clipped"].reshape(len(stages), -1), 1)
    return Run(name, columns, stages, samples, about)


def _column(values: list[Any]) -> np.ndarray:
    """[steps] float64, or [steps, layers] float32 where values are arrays; None becomes NaN."""
    width = max((len(value) for value in values if isinstance(value, np.ndarray)), default=0)
    if not width:
        return np.array([math.nan if value is None else value for value in values], np.float64)
    table = np.full((len(values), width), np.nan, np.float32)
    for row, value in zip(table, values, strict=True):
        if isinstance(value, np.ndarray):
            row[: len(value)] = value
    return table


def _body(runs: list[Run]) -> str:
    names = " and ".join(escape(run.name) for run in runs)
    marks = [mark for i, run in enumerate(runs) for mark in _marks(run, i, len(runs) > 1)]

    def plot(title: str, name: str, note: str = "", **options: Any) -> str:
        return chart(title, _lines(runs, name), marks, note=note, **options)

    thresholds = {stage["qk_clip"] for run in runs for stage in run.about.get("stages", []) if _clips(stage)}
    limit = (min(thresholds), f"threshold {min(thresholds):g}") if thresholds else None
    losses = [line for run, colour in _coloured(runs) for line in _loss(run, colour)]
    rows = [run.peak("load") for run in runs]
    even = (2.0, "twice an even load") if any(row is not None for row in rows) else None
    charts = (
        plot("Gradient norm", "grad_norm", "before clipping", log=True),
        plot("Learning rate", "lr", zero=True),
        plot("Largest attention logit", "max_logits", _depth(runs), limit=limit, log=True),
        plot("Heads clipped", "heads_clipped", "in all layers together", zero=True),
        plot("Expert load", "load", _depth(runs, "busiest over mean, "), limit=even),
        plot("Balance loss", "aux_loss"),
        plot("Speed", "tokens_per_second", "tokens a second", zero=True),
        plot("MFU", "mfu", "share of the device's arithmetic peak", zero=True),
        plot("Optimizer", "optimizer_share", "share of a step's time", zero=True),
    )
    return "".join(
        (
            f"<h1>Training of {names}</h1>",
            _summary(runs),
            chart("Loss", losses, marks, log=_wide(losses), size=(1140, 320), note="nats a token, every step"),
            '<label><input type="checkbox" id="smoothed"> with a smoothed line</label>',
            f'<div class="charts">{"".join(charts)}</div>',
            *(_samples(run) for run in runs),
            *(_about(run) for run in runs),
        )
    )


def _coloured(runs: list[Run]) -> list[tuple[Run, str]]:
    return [(run, f"var(--run{i})") for i, run in enumerate(runs)]


def _loss(run: Run, colour: str) -> list[Line]:
    x, y = run.columns["tokens"], run.columns["loss"]
    return [Line(x, y, colour, run.name, "raw"), Line(x, smooth(y), colour, f"{run.name}, smoothed", "smooth")]


def _wide(lines: list[Line]) -> bool:
    """Whether the values span so much that a logarithmic axis shows them better."""
    values = np.concatenate([line.y[np.isfinite(line.y)] for line in lines] or [np.ones(1)])
    return bool(len(values)) and float(values.max()) > 3 * float(values.min())


def _lines(runs: list[Run], name: str) -> list[Line]:
    """A line a layer for one run; for several a line each, of the largest over the layers."""
    if len(runs) > 1:
        peaks = [(run, colour, run.peak(name)) for run, colour in _coloured(runs)]
        return [Line(run.columns["tokens"], y, colour, run.name) for run, colour, y in peaks if y is not None]
    values = runs[0].columns.get(name)
    if values is None:
        return []
    tokens = runs[0].columns["tokens"]
    if values.ndim == 1:
        return [Line(tokens, values, "var(--run0)", "")]
    count = values.shape[1]
    return [Line(tokens, values[:, i].astype(float), _shade(i, count), f"{i}", "thin") for i in range(count)]


def _shade(layer: int, count: int) -> str:
    return f"color-mix(in oklch, var(--last) {100 * layer / max(1, count - 1):.0f}%, var(--first))"


def _depth(runs: list[Run], note: str = "") -> str:
    """The key to the colours of layers."""
    if len(runs) > 1:
        return f"{note}the largest of all layers"
    return f'{note}first layer <i class="ramp"></i> last'


def _clips(stage: dict[str, Any]) -> bool:
    return stage.get("optimizer", "muonclip") == "muonclip" and "qk_clip" in stage


def _marks(run: Run, index: int, several: bool) -> list[Mark]:
    """Where stages begin (but for the first) and where INT4 does."""
    colour = f"var(--run{index})" if several else "var(--muted)"
    tokens, marks = run.columns["tokens"], []
    qat = run.columns.get("qat", np.zeros(len(tokens)))
    for i in range(1, len(tokens)):
        if run.stages[i] != run.stages[i - 1]:
            marks.append(Mark(float(tokens[i]), run.stages[i], colour))
        if qat[i] and not qat[i - 1]:
            marks.append(Mark(float(tokens[i]), "INT4", colour))
    return marks


def _summary(runs: list[Run]) -> str:
    """A table with a row a run."""
    columns: dict[str, Callable[[Run], str]] = {
        "parameters": lambda run: _parameters(run.about),
        "tokens": lambda run: amount(float(run.columns["tokens"][-1])),
        "steps": lambda run: f"{len(run.stages):,}",
        "time": lambda run: _time(_last(run, "seconds")),
        "loss of the last 50 steps": lambda run: f"{np.nanmean(run.columns['loss'][-50:]):.4f}",
        "largest rise in a step": lambda run: _rise(run.columns["loss"]),
        "largest logit": lambda run: _largest(run, "max_logits"),
        "tokens a second": lambda run: _median(run, "tokens_per_second", "{:,.0f}"),
        "MFU": lambda run: _median(run, "mfu", "{:.1%}"),
    }
    table = {name: [value(run) for run in runs] for name, value in columns.items()}
    table = {name: cells for name, cells in table.items() if set(cells) != {"–"}}
    head = "".join(f"<th>{escape(name)}</th>" for name in table)
    rows = "".join(
        f'<tr><th><i style="background:{colour}"></i>{escape(run.name)}</th>'
        + "".join(f"<td>{cells[i]}</td>" for cells in table.values())
        + "</tr>"
        for i, (run, colour) in enumerate(_coloured(runs))
    )
    return f'<div class="wide"><table class="runs"><tr><th></th>{head}</tr>{rows}</table></div>'


def _parameters(about: dict[str, Any]) -> str:
    if "config" not in about:
        return "–"
    count = ModelConfig.from_hf(about["config"]).count()
    return f"{amount(count.total)}, {amount(count.active)} active"


def _time(seconds: float) -> str:
    if math.isnan(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _last(run: Run, name: str) -> float:
    values = run.columns.get(name)
    return math.nan if values is None else float(values[-1])


def _rise(loss: np.ndarray) -> str:
    return f"{np.nanmax(np.diff(loss)):.3f}" if len(loss) > 1 else "–"


def _largest(run: Run, name: str) -> str:
    values = run.peak(name)
    return "–" if values is None else f"{np.nanmax(values):.1f}"


def _median(run: Run, name: str, form: str) -> str:
    values = run.columns.get(name)
    return "–" if values is None or np.isnan(values).all() else form.format(np.nanmedian(values))


def _samples(run: Run) -> str:
    """What the model wrote to each prompt, step by step."""
    if not run.samples:
        return ""
    steps = sorted({row["step"] for row in run.samples})
    shown = {steps[round(i)] for i in np.linspace(0, len(steps) - 1, min(_STEPS_SHOWN, len(steps)))}
    prompts = list(dict.fromkeys(row["prompt"] for row in run.samples))
    tables = []
    for prompt in prompts:
        rows = [row for row in run.samples if row["prompt"] == prompt and row["step"] in shown]
        cells = "".join(f"<tr><th>step {row['step']:,}</th><td>{escape(row['text'])}</td></tr>" for row in rows)
        tables.append(f"<h3>{escape(prompt)}</h3><table>{cells}</table>")
    return f'<section class="samples"><h2>Samples of {escape(run.name)}</h2>{"".join(tables)}</section>'


def _about(run: Run) -> str:
    """The stages as a table with a column each, and the network's description."""
    if not run.about:
        return ""
    stages, config = run.about.get("stages", []), run.about.get("config", {})
    fields = list(dict.fromkeys(name for stage in stages for name in stage))
    head = "".join(f"<th>{escape(str(stage.get('name', '')))}</th>" for stage in stages)
    rows = "".join(
        f"<tr><th>{escape(name)}</th>" + "".join(f"<td>{_value(stage.get(name))}</td>" for stage in stages) + "</tr>"
        for name in fields
        if name != "name"
    )
    network = "".join(f"<tr><th>{escape(name)}</th><td>{_value(value)}</td></tr>" for name, value in config.items())
    return (
        f'<section class="about"><h2>What made {escape(run.name)}</h2>'
        f"<details open><summary>Stages</summary><table><tr><th></th>{head}</tr>{rows}</table></details>"
        f"<details><summary>Network</summary><table>{network}</table></details></section>"
    )


def _value(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:g}"
    return escape(json.dumps(value) if isinstance(value, dict) else str(value))
