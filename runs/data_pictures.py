"""Two pictures of training data: how many of its words are new, and how long it is; docs/data.md shows them.

.venv/bin/python runs/data_pictures.py DIALOGUES LONG MATHS SEARCH PICTURES

The first four are folders of shards: of `k2 synth dialogues`, of the same with its dials turned up, of `maths`, of
`search`. Distinct-n is the share of n-grams of words that are different ones (Li et al. 2016, arXiv:1510.03055), over
the first 10, 30, 100, ... records. The dashed lines leave out what is drawn from lists: every id, number, quoted title
and invented name is one word there, so that they show the wordings alone.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from openk2.chat.messages import Message, ToolSpec
from openk2.chat.template import render
from openk2.chat.tokenizer import Tokenizer
from openk2.paths import NANO
from openk2.synth.shards import read_records

Record = dict[str, Any]
ORDERS = (1, 2, 3, 4)
MOST = 10_000  # records that are read of each kind
TOKENISED = 2_000
NAMES = ("dialogues", "long dialogues", "maths", "search")
COLOURS = {"dialogues": "#2a6fbb", "long dialogues": "#8f5fb0", "maths": "#c8553d", "search": "#3d8b5f"}
_DRAWN = re.compile(
    r"“[^”]*”|\b[a-z]{1,4}-[0-9a-f]{6}\b|\b[a-z]+-[a-z]+-\d+\b|\d+(?:[,.:_]\d+)*|(?<=[a-z,;] )[A-Z][\w'-]+"
)
_WORD = re.compile(r"[\w'-]+|[^\w\s]")


def said(record: Record, who: str) -> Iterator[str]:
    """The texts of a record by user, thought (the agent's reasoning) or answer."""
    for m in record["messages"]:
        if m["role"] == "user" and who == "users":
            yield m["content"]
        elif m["role"] == "assistant" and who == "thoughts":
            yield m.get("reasoning_content") or ""
        elif m["role"] == "assistant" and who == "answers" and not m.get("tool_calls"):
            yield m["content"]


def distinct(records: list[Record], who: str, masked: bool) -> dict[int, list[tuple[int, float]]]:
    """By n: (records so far, share of their n-grams that are different ones)."""
    seen: dict[int, set[tuple[str, ...]]] = {n: set() for n in ORDERS}
    count = Counter[int]()
    out: dict[int, list[tuple[int, float]]] = {n: [] for n in ORDERS}
    marks = [n for k in range(1, 6) for n in (10**k, 3 * 10**k) if n < len(records)] + [len(records)]
    for number, record in enumerate(records, 1):
        for text in said(record, who):
            words = _WORD.findall((_DRAWN.sub("_", text) if masked else text).lower())
            for n in ORDERS:
                grams = list(zip(*(words[i:] for i in range(n)), strict=False))
                seen[n].update(grams)
                count[n] += len(grams)
        if number in marks:
            for n in ORDERS:
                out[n].append((number, len(seen[n]) / max(count[n], 1)))
    return out


def words_picture(data: dict[str, list[Record]], picture: Path) -> None:
    import matplotlib.pyplot as plt

    speakers = ("users", "thoughts", "answers")
    data = {name: records for name, records in data.items() if name != "long dialogues"}
    figure, panels = plt.subplots(
        len(data), 3, figsize=(9, 2.7 * len(data)), sharex=True, sharey=True, layout="constrained"
    )
    for row, (name, records) in zip(panels, data.items(), strict=True):
        for panel, who in zip(row, speakers, strict=True):
            for masked in (False, True):
                for n, points in distinct(records, who, masked).items():
                    panel.plot(
                        *zip(*points, strict=True), color=plt.get_cmap("viridis")((n - 1) / 4),
                        linestyle="--" if masked else "-", linewidth=1.2, label=None if masked else f"distinct-{n}",
                    )  # fmt: skip
            panel.set(xscale="log", yscale="log")
            panel.set_title(f"{name}: {who}", fontsize=9)
            panel.spines[["top", "right"]].set_visible(False)
            panel.grid(which="major", color="#eeeeee")
        row[0].set_ylabel("share of different n-grams")
    for panel in panels[-1]:
        panel.set_xlabel("records")
    panels[0][0].legend(frameon=False, fontsize=8, loc="lower left")
    panels[0][1].plot([], [], "k--", linewidth=1.2, label="names, ids, numbers as one word")
    panels[0][1].legend(frameon=False, fontsize=8, loc="lower left")
    figure.savefig(picture, dpi=120)
    plt.close(figure)


def lengths(records: list[Record]) -> tuple[list[int], list[int]]:
    """Tokens of each record as a model reads it (tools declared), and those that the agent wrote, thoughts included."""
    tokenizer = Tokenizer.load(NANO)
    whole, own = [], []
    for record in records[:TOKENISED]:
        messages = [Message.from_json(m) for m in record["messages"]]
        tools = [ToolSpec(**tool["function"]) for tool in record.get("tools", ())]
        whole.append(len(render(tokenizer, messages, tools)))
        written = [m for m in messages if m.role == "assistant"]
        own.append(sum(
            len(tokenizer.encode(text))
            for m in written for text in (m.reasoning or "", m.content, *(c.arguments for c in m.tool_calls))
        ))  # fmt: skip
    return whole, own


def calls(record: Record) -> list[str]:
    return [call["function"]["name"] for m in record["messages"] for call in m.get("tool_calls") or ()]


def shapes_picture(data: dict[str, list[Record]], picture: Path) -> None:
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.ticker import NullFormatter

    figure, panels = plt.subplots(2, 3, figsize=(11, 6.4), layout="constrained")
    tokens, own, called, offered, verbs, kinds = panels.flat
    for name, records in data.items():
        for panel, values in zip((tokens, own), lengths(records), strict=True):
            bins = np.geomspace(max(min(values), 1), max(values) + 1, 30)
            panel.hist(values, bins=bins, histtype="step", color=COLOURS[name], weights=[1 / len(values)] * len(values),
                       label=f"{name} (median {np.median(values):,.0f})")  # fmt: skip
        counts = sorted(len(calls(record)) for record in records)
        called.plot(counts, 1 - np.arange(len(counts)) / len(counts), color=COLOURS[name], drawstyle="steps-post",
                    label=f"{name} (median {np.median(counts):.0f}, most {counts[-1]})")  # fmt: skip
    for panel in (tokens, own):
        panel.set(xscale="log", ylabel="share of records")
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set_ylim(top=1.6 * panel.get_ylim()[1])
    tokens.set(xlabel="tokens of a record, tools declared")
    own.set(xlabel="tokens that the agent writes")
    called.set(xscale="log", yscale="log", xlabel="calls of a record", ylabel="share with so many or more")
    for name in NAMES[:2]:
        sizes = [len(record["tools"]) for record in data[name]]
        over = 100 * sum(n >= 50 for n in sizes) / len(sizes)
        offered.hist(sizes, bins=range(0, 205, 5), histtype="step", color=COLOURS[name],
                     weights=[1 / len(sizes)] * len(sizes), label=f"{name} ({over:.0f}%: 50+)")  # fmt: skip
    offered.set(xlabel="tools offered", ylabel="share of dialogues")
    used = Counter(name.split("_")[0] for record in data["dialogues"] for name in calls(record))
    top = used.most_common(24)[::-1]
    verbs.barh([verb for verb, _ in top], [100 * n / used.total() for _, n in top], color=COLOURS["dialogues"])
    verbs.set(xlabel=f"% of the calls of dialogues ({len(used)} verbs)")
    verbs.tick_params(axis="y", labelsize=7)
    bars = [(name, kind, 100 * n / len(records)) for name, records in data.items()
            for kind, n in sorted(kinds_of(records).items(), key=lambda item: -item[1])][::-1]  # fmt: skip
    kinds.barh([f"{name}: {kind}" for name, kind, _ in bars], [share for *_, share in bars],
               color=[COLOURS[name] for name, *_ in bars])  # fmt: skip
    kinds.set(xlabel="% of the records of a source")
    kinds.tick_params(axis="y", labelsize=7)
    called.set_ylim(bottom=1e-5)
    offered.set_ylim(top=1.35 * offered.get_ylim()[1])
    for panel in (tokens, own, called, offered):
        panel.legend(frameon=False, fontsize=8, loc="lower left" if panel is called else "upper right")
    for panel in panels.flat:
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=120)
    plt.close(figure)


def kinds_of(records: list[Record]) -> Counter[str]:
    """Kinds that overlap: what a record is, and what happens in it."""
    out = Counter[str]()
    for record in records:
        out[record["kind"]] += 1
        out.update(name for name, has in HAPPENS.items() if has(record))
    return out


def _recovers(record: Record) -> bool:
    """More errors than wishes that are declined."""
    errors = sum(m["role"] == "tool" and m["content"].startswith('{"error"') for m in record["messages"])
    return errors > sum(check["check"] == "Declines" for check in record.get("proof", {}).get("rubric", ()))


HAPPENS = {
    "goes on after an error": _recovers,
    "declines a wish": lambda r: r["kind"] in ("refuse", "mixed"),
    "asks for a missing fact": lambda r: any(
        m["role"] == "assistant" and not m.get("tool_calls") and m["content"].endswith("?") for m in r["messages"]
    ),
    "several wishes": lambda r: len(r.get("proof", {}).get("user", {}).get("wishes", ())) > 1,
    "with a detour": lambda r: bool(r.get("proof", {}).get("detours")),
}


def read(folders: list[str]) -> dict[str, list[Record]]:
    return {name: list(islice(read_records(Path(f)), MOST)) for name, f in zip(NAMES, folders, strict=True)}


def main() -> None:
    if len(sys.argv) != 6:
        raise SystemExit(__doc__)
    data, out = read(sys.argv[1:5]), Path(sys.argv[5])
    for name, records in data.items():
        figures = {who: {n: round(p[-1][1], 4) for n, p in distinct(records, who, True).items()}
                   for who in ("users", "thoughts", "answers")}  # fmt: skip
        print(name, len(records), "records; distinct-n of the wordings:", figures)
    words_picture(data, out / "data-words.png")
    shapes_picture(data, out / "data-shapes.png")


if __name__ == "__main__":
    main()
