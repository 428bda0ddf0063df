"""The pictures and samples of training data: figures counted right, the same twenty records again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from openk2.synth.task.make import Library, Order, solved, write_worlds
from tests.synth.world_apis import depot_world

sys.path.insert(0, str(Path(__file__).parents[2] / "runs"))

from data_pictures import HAPPENS, distinct, kinds_of, lengths  # pyright: ignore[reportMissingImports]
from data_samples import DRAWN, draw, shown  # pyright: ignore[reportMissingImports]


@pytest.fixture(scope="module")
def dialogues(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("worlds")
    write_worlds(folder, (depot_world(seed) for seed in range(4)))
    order = Order(str(folder), 80, 0)
    found = [solved(Library(folder), order, n)[0] for n in range(80)]
    return [{"n": n} | each[2] for n, each in enumerate(found) if each]


def said(text: str) -> dict[str, Any]:
    return {"kind": "maths", "messages": [{"role": "user", "content": text}]}


def test_distinct_n_counts_n_grams() -> None:
    records = [said("the red box the red box"), said("the blue-fox-12 costs 5, ab-12cd34 costs 7")]
    found = distinct(records, "users", False)
    assert found[1] == [(2, 9 / 14)] and found[2][-1][1] == 10 / 12  # words and marks; `the red`, `red box` come twice
    assert distinct(records, "users", True)[1] == [(2, 6 / 14)]  # ids, names and numbers are one word


def test_kinds_are_what_happens(dialogues: list[dict[str, Any]]) -> None:
    kinds = kinds_of(dialogues)
    assert kinds["solve"] + kinds["declines a wish"] == len(dialogues)
    assert all(kinds[name] for name in list(HAPPENS)[:4])
    whole, own = lengths(dialogues[:5])
    assert all(0 < b < a for a, b in zip(whole, own, strict=True))


def test_samples_are_twenty_different_records_and_the_same_again(dialogues: list[dict[str, Any]]) -> None:
    others = [said(f"question {n}") | {"n": n} for n in range(30)]
    none = {"kind": "search-none", "messages": [{"role": "user", "content": "who?"}], "n": 99}
    data = {"dialogues": dialogues[:70], "long dialogues": dialogues[70:], "maths": others, "search": [*others, none]}
    found = draw(data)
    assert found == draw(data) and len({id(r) for *_, r in found}) == len(found) == sum(n for _, _, n, _ in DRAWN) == 20
    for source, wanted, record in found:
        assert wanted != "an impossible wish" or record["kind"] in ("refuse", "mixed")
        assert len(shown(record)) >= len(record["messages"]) or "dialogues" in source
    long = {"messages": [{"role": "user", "content": str(n)} for n in range(100)]}
    lines = shown(long)
    assert len(lines) == 25 and lines[12] == "… *here 76 messages are left out* …" and lines[-1] == "**user** 99"
