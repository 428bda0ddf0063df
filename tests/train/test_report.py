"""The report: every spike is in it, it stands alone, and it stays small."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openk2.errors import UserError
from openk2.model.config import ModelConfig
from openk2.train.charts import POINTS, Line, Mark, chart, thin
from openk2.train.report import read, write

CONFIG = ModelConfig.from_depth(2, vocab_size=64)


def row(step: int, **more: Any) -> dict[str, Any]:
    return {
        "step": step, "stage": "pretrain", "tokens": step * 1000, "loss": 2 + 5 / step, "aux_loss": 0.0, "own": 900,
        "grad_norm": 0.5, "lr": 0.01, "max_logits": [10.0, 20.0 + step], "clipped": [0, int(step > 5)],
        "load": [1.5], "qat": 0, "epoch": 0.1, "seconds": step * 2.0, "tokens_per_second": 500.0, "mfu": None,
        "optimizer_share": 0.07,
    } | more  # fmt: skip


def folder(path: Path, rows: list[dict[str, Any]], about: bool = True) -> Path:
    path.mkdir()
    (path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    if about:
        stage = {"lr": 0.01, "optimizer": "muonclip", "qk_clip": 30.0}
        stages = [{"name": "pretrain"} | stage, {"name": "anneal"} | stage]
        for step, lr in ((40, 1.0), (80, 0.01)):  # the newest counts
            (path / f"step-{step:08d}").mkdir()
            state = {"config": CONFIG.to_hf(), "stages": [s | {"lr": lr} for s in stages]}
            (path / f"step-{step:08d}" / "state.json").write_text(json.dumps(state))
        samples = [{"step": s, "prompt": "Once <b>", "text": f"said at {s}"} for s in range(0, 100, 4)]
        (path / "samples.jsonl").write_text("".join(json.dumps(r) + "\n" for r in samples))
    return path


class Page(HTMLParser):
    """Checks that every tag is closed, and gathers what the page refers to, its figures' lines and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.charts: dict[str, list[str]] = {}
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.references += [str(values[name]) for name in ("src", "href", "data") if name in values]
        if tag == "svg":
            self.charts[str(values["aria-label"])] = []
        if tag == "path" and str(values.get("class", "")).startswith("line"):
            self.charts[list(self.charts)[-1]].append(str(values["d"]))
        if tag not in ("meta", "path", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "path":
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("at", [1, 777, 99_998])
def test_thinning_keeps_every_spike_and_both_ends(at: int) -> None:
    y = np.random.default_rng(0).normal(2, 0.01, 100_000)
    y[at], y[at // 2] = 9.0, -5.0
    x, kept = thin(np.arange(100_000.0), y)
    assert len(kept) <= POINTS and kept.max() == 9 and kept.min() == -5
    assert x[np.argmax(kept)] == at and x[0] == 0 and x[-1] == 99_999 and (np.diff(x) > 0).all()
    short = np.arange(POINTS, dtype=float)
    assert thin(short, short)[1] is short


def test_thinning_survives_gaps() -> None:
    y = np.full(10_000, np.nan)
    y[5000] = 3.0
    x, kept = thin(np.arange(10_000.0), y, 100)
    assert len(kept) <= 100 and np.nanmax(kept) == 3 and x[int(np.nanargmax(kept))] == 5000


def test_values_stand_where_the_axis_says() -> None:
    line = Line(np.array([0.0, 50, 100]), np.array([1.0, 10, 100]), "red", "a")
    drawn = chart("Loss & more", [line], [Mark(50, "INT4", "blue")], limit=(30, "threshold"), log=True)
    (path,) = re.findall(r'class="line " style="stroke:red" data-name="a" d="([^"]+)"', drawn)
    points = [tuple(map(float, p.split())) for p in re.split("[ML]", path)[1:]]
    scale = re.search(r'data-scale="([^"]+)"', drawn)
    assert scale
    low, high, log, x0, x1, left, right, top, bottom = map(float, scale[1].split())
    assert log == 1
    for (x, y), (tokens, value) in zip(points, [(0, 1), (50, 10), (100, 100)], strict=True):
        assert x0 + (x - left) / (right - left) * (x1 - x0) == pytest.approx(tokens, abs=0.1)
        assert low * (high / low) ** ((bottom - y) / (bottom - top)) == pytest.approx(value, rel=0.01)
    assert "Loss &amp; more" in drawn and ">INT4<" in drawn and ">threshold<" in drawn
    assert re.search(r'class="end">10<', drawn) and re.search(r'class="mid">40<', drawn)


def test_constant_single_and_broken_lines_are_drawn() -> None:
    one = Line(np.array([5.0]), np.array([2.0]), "red", "a")
    assert "M" in chart("one", [one])
    assert chart("none", []) == "" and chart("nan", [Line(np.zeros(2), np.full(2, math.nan), "red", "a")]) == ""
    assert chart("zeros", [Line(np.arange(2.0), np.zeros(2), "red", "a")]) == ""
    broken = chart("gap", [Line(np.arange(4.0), np.array([1.0, math.nan, 3.0, 3.0]), "red", "a")])
    (path,) = re.findall(r' d="(M[^"HV]+)"/><path class="pointer', broken)
    assert path.count("M") == 2 and path.count("L") == 1


def test_page_shows_what_the_run_wrote(tmp_path: Path) -> None:
    rows = [row(i, stage="anneal" if i > 60 else "pretrain", qat=int(i > 80)) for i in range(1, 101)]
    run = folder(tmp_path / "first", rows)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 101, "loss": 2')  # as a kill leaves it
    write([run], tmp_path / "deep" / "report.html")
    text = (tmp_path / "deep" / "report.html").read_text()
    page = Page(text)
    assert not page.references and "http" not in text  # nothing is fetched
    assert {name: len(lines) for name, lines in page.charts.items()} == {
        "Loss": 2, "Gradient norm": 1, "Learning rate": 1, "Largest attention logit": 2, "Heads clipped": 1,
        "Expert load": 1, "Speed": 1, "Optimizer": 1,
    }  # fmt: skip
    assert page.charts["Loss"][0].count("L") == 99
    said_of_run = ("anneal", "INT4", "threshold 30", "100k", "165.3k, 79.25k active", "3 min", "120.0")
    for said in (*said_of_run, "Once <b>", "said at 96"):
        assert said in page.text, said
    assert page.text.count("said at") == 12
    assert "MFU" not in page.text  # no row has one


def test_runs_are_laid_over_each_other(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", [row(i) for i in range(1, 50)])
    b = folder(tmp_path / "b & c", [row(i, loss=3.0, mfu=0.4) for i in range(1, 80)], about=False)
    write([a, b, folder(tmp_path / "b & c" / "a", [row(1)])], tmp_path / "report.html")
    assert "b & c/a" in Page((tmp_path / "report.html").read_text()).text  # two of one name: by their paths
    write([a, b], tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text())
    assert len(page.charts["Largest attention logit"]) == 2 and len(page.charts["MFU"]) == 1
    assert "b & c" in page.text and "40.0%" in page.text and page.text.count("What made") == 1
    assert read(a, "a").peak("max_logits").tolist() == [20.0 + i for i in range(1, 50)]  # type: ignore[union-attr]


def test_a_long_run_makes_a_small_page(tmp_path: Path) -> None:
    layers = 61
    rng = np.random.default_rng(0)
    lines = []
    for step in range(1, 10_001):
        logits = ", ".join(f"{v:.2f}" for v in rng.uniform(10, 90, layers))
        lines.append(
            f'{{"step": {step}, "stage": "pretrain", "tokens": {step * 67_000_000}, "loss": {rng.normal(2, 0.05):.5f}, '
            f'"max_logits": [{logits}], "load": [{logits}], "grad_norm": {rng.uniform():.4f}}}\n'
        )
    lines[6789] = lines[6789].replace('"loss": ', '"loss": 7')
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metrics.jsonl").write_text("".join(lines))
    write([tmp_path / "run"], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert len(text) < 600_000
    assert len(Page(text).charts["Largest attention logit"]) == layers
    assert max(map(float, re.findall(r">(\d+)<", text))) >= 50  # the axis reaches the spike of 70


def test_what_is_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no metrics\.jsonl"):
        write([tmp_path], tmp_path / "report.html")
    run = folder(tmp_path / "empty", [])
    with pytest.raises(UserError, match="not made a step"):
        write([run], tmp_path / "report.html")
    other = folder(tmp_path / "other", [{"step": 1, "accuracy": 0.5}])
    with pytest.raises(UserError, match="no tokens and loss"):
        write([other], tmp_path / "report.html")
    good = folder(tmp_path / "good", [row(1)])
    write([good], tmp_path / "report.html")
    with pytest.raises(UserError, match="up to 6 runs"):
        write([good] * 7, tmp_path / "report.html")
    with pytest.raises(UserError, match="cannot be written"):
        write([good], tmp_path)


def test_a_run_ends_with_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    from openk2.cli.main import run as k2

    data = tmp_path / "data"
    data.mkdir()
    ids = np.random.default_rng(0).integers(0, 64, 4000)
    ids.astype(np.uint16).tofile(data / "a.bin")
    np.ones(4000, np.uint8).tofile(data / "a.mask")
    np.full(100, 40, np.int32).tofile(data / "a.idx")
    command = ["train", "sft", "--data", str(data), "--vocab-size", "64", "--depth", "2", "--tokens", "2k"]
    assert k2([*command, "--batch", "256", "--parts", "1", "--threads", "1", "--out", str(tmp_path / "run")]) == 0
    page = Page((tmp_path / "run/report.html").read_text())
    assert str(tmp_path / "run/report.html") in capsys.readouterr().out
    steps = len((tmp_path / "run/metrics.jsonl").read_text().splitlines())
    assert "165.3k, 79.25k active" in page.text and "INT4" in page.text
    assert page.charts["Loss"][0].count("L") == steps - 1 > 3
