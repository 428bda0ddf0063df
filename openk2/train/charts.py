"""Line charts as inline SVG: small for any number of steps, readable in light and dark, no library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

POINTS = 2000  # of a line, at most
_CHART_POINTS = 8000  # of all lines of a chart: a line a layer must not make the page heavy
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 16, 24  # margins of the drawing, in its own units


@dataclass(frozen=True)
class Line:
    """x and y [n] (y may hold NaN, where the line breaks); colour in CSS; `name` for the reader's pointer."""

    x: np.ndarray
    y: np.ndarray
    colour: str
    name: str
    kind: str = ""  # a class of the page's style sheet


@dataclass(frozen=True)
class Mark:
    """A vertical line at `x`, with a label: where a stage or INT4 begins."""

    x: float
    label: str
    colour: str


def thin(x: np.ndarray, y: np.ndarray, points: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """x, y [n] -> at most `points` of them, in order: the lowest and highest of each bucket, so that no spike is lost.

    The first and last point always stay. NaN counts as neither low nor high; a bucket of nothing else keeps one.
    """
    if len(y) <= points:
        return x, y
    size = math.ceil(len(y) / ((points - 2) // 2))
    table = np.full((math.ceil(len(y) / size), size), np.nan)
    table.flat[: len(y)] = y
    gaps = np.isnan(table)
    low, high = np.where(gaps, np.inf, table).argmin(1), np.where(gaps, -np.inf, table).argmax(1)
    starts = np.arange(len(table)) * size
    index = np.unique(np.concatenate(([0, len(y) - 1], starts + low, starts + high)))
    return x[index], y[index]


def smooth(y: np.ndarray) -> np.ndarray:
    """The mean of y [n] over the hundredth of it around each point: it lags behind nothing."""
    window = np.ones(2 * max(2, len(y) // 200) + 1)
    if len(y) < len(window):
        return y
    return np.convolve(y, window, "same") / np.convolve(np.ones_like(y), window, "same")


def chart(
    title: str, lines: Sequence[Line], marks: Sequence[Mark] = (), *, limit: tuple[float, str] | None = None,
    log: bool = False, zero: bool = False, size: tuple[int, int] = (560, 180), note: str = "",
) -> str:  # fmt: skip
    """One chart as an HTML figure, or nothing when no line has a finite value other than 0.

    `limit` draws a dashed horizontal line with a label; `log` takes a logarithmic axis where all values are positive;
    `zero` starts the axis at 0; `size` is width and height; `note` is HTML beside the title.
    """
    width, height = size
    budget = max(60, min(POINTS, _CHART_POINTS // max(1, len(lines))))
    thinned = [(line, *thin(line.x, line.y, budget)) for line in lines if np.isfinite(line.y).any()]
    values = np.concatenate([y[np.isfinite(y)] for _, _, y in thinned] or [np.zeros(1)])
    if not values.any():
        return ""
    low, high = float(values.min()), float(values.max())
    if limit:
        high = max(high, limit[0] * 1.05)
    log = log and low > 0
    if zero and not log:
        low = min(low, 0.0)
    pad = 0.04 * (math.log(high / low) if log else high - low) or abs(high) or 1.0  # a constant gets room about it
    low, high = (low / math.exp(pad), high * math.exp(pad)) if log else (low - (0 if zero else pad), high + pad)
    x0, x1 = min(float(x[0]) for _, x, _ in thinned), max(float(x[-1]) for _, x, _ in thinned)
    x1 = x1 if x1 > x0 else x0 + 1
    right, bottom = width - _RIGHT, height - _BOTTOM

    def across(x: np.ndarray | float) -> np.ndarray:
        return _LEFT + (np.asarray(x, float) - x0) / (x1 - x0) * (right - _LEFT)

    def up(y: np.ndarray | float) -> np.ndarray:
        y = np.asarray(y, float)
        share = np.log(y / low) / math.log(high / low) if log else (y - low) / (high - low)
        return bottom - share * (bottom - _TOP)

    parts, labels = [], []
    for value in _log_ticks(low, high) if log else _ticks(low, high):
        y = float(up(value))
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 3.5:.1f}" class="end">{_number(value)}</text>')
    for value in _ticks(x0, x1, width // 90):
        parts.append(f'<text x="{float(across(value)):.1f}" y="{height - 8}" class="mid">{amount(value)}</text>')
    room = -math.inf
    for mark in sorted(marks, key=lambda mark: mark.x):
        x = float(across(mark.x))
        parts.append(f'<path class="mark" style="stroke:{mark.colour}" d="M{x:.1f} {_TOP}V{bottom}"/>')
        if x > room:  # a label that would stand on the one before is left out: the line and the table say it
            labels.append(f'<text x="{x + 3:.1f}" y="{_TOP - 5}">{escape(mark.label)}</text>')
            room = x + 6.2 * len(mark.label) + 6
    if limit:
        y = float(up(limit[0]))
        parts.append(f'<path class="limit" d="M{_LEFT} {y:.1f}H{right}"/>')
        labels.append(f'<text x="{_LEFT + 4}" y="{y - 4:.1f}" class="over">{escape(limit[1])}</text>')
    for line, x, y in thinned:
        path = _path(across(x), up(np.where(y > 0, y, np.nan) if log else y))
        parts.append(
            f'<path class="line {line.kind}" style="stroke:{line.colour}" data-name="{escape(line.name)}" d="{path}"/>'
        )
    scale = f'data-scale="{low:.8g} {high:.8g} {int(log)} {x0:.8g} {x1:.8g} {_LEFT} {right} {_TOP} {bottom}"'
    return (
        f"<figure><figcaption><b>{escape(title)}</b> <span>{note}</span><output></output></figcaption>"
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}" {scale}>{"".join(parts + labels)}'
        f'<path class="pointer" d=""/></svg></figure>'
    )


def _path(x: np.ndarray, y: np.ndarray) -> str:
    """A move and lines between; a value that is not finite lifts the pen."""
    pieces, pen = [], "M"
    for a, b in zip(x.tolist(), y.tolist(), strict=True):
        if math.isfinite(b):
            pieces.append(f"{pen}{a:.1f} {b:.1f}")
            pen = "L"
        else:
            pen = "M"
    return "".join(pieces)


def _ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round values between `low` and `high`."""
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, with 2 and 5 between where there are few; round linear values within less than a decade."""
    if high / low < 10:
        return [value for value in _ticks(low, high) if value > 0]
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    between = (1, 2, 5) if high / low < 2000 else (1,)
    return [m * 10.0**p for p in powers for m in between if low <= m * 10.0**p <= high]


def _number(value: float) -> str:
    """Short, as an axis says it: 0, 0.002, 15, 20k, 1e-05."""
    return amount(value) if abs(value) >= 10_000 else f"{round(value, 10):.4g}"


def amount(number: float) -> str:
    """A count in short: 950, 20k, 1.5M, 15.5T."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.4g}{letter}"
    return f"{number:.4g}"
