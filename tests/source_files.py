"""A small data folder in the form of the real one (docs/recipe.md), with invented rows, and a tokenizer for it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from typing import Any

import pytest

from openk2.library import documents
from openk2.synth.trajectory import Record
from openk2.tools.index import Index


@dataclass(frozen=True)
class Example:
    """A training record, and the documents that its calls were executed on."""

    record: Record
    index: Index | None


MAWPS = [
    ("Mary had number0 apples . She gave number1 to Tom . How many are left ?", "9.0 4.0", "- number0 number1"),
    ("A box holds number0 pens . How many pens do number1 boxes hold ?", "12.0 3.0", "* number0 number1"),
    ("Sam 's farm has number0 cows and number1 hens . How many animals ?", "25.0 14.0", "+ number0 number1"),
    ("Share number0 sweets among number1 children . How many each ?", "20.0 5.0", "/ number0 number1"),
    ("Ann buys number0 bags of number1 nuts and eats number2 . How many are left ?", "3.0 40.0 7.0",
     "- * number0 number1 number2"),
]  # fmt: skip
GSM8K = [
    ("Lena packs 6 crates with 14 jars each. She sells 30 jars. How many jars are left?",
     "Lena has 6*14=<<6*14=84>>84 jars.\nThen 84-30=<<84-30=54>>54 are left.\n#### 54"),
    ("A train runs 180 miles in 3 hours. How far does it run in 7 hours?",
     "It runs 180/3=<<180/3=60>>60 miles an hour.\nIn 7 hours: 60*7=<<60*7=420>>420 miles.\n#### 420"),
    ("Omar reads 15 pages a day. How many pages does he read in 8 days?", "15*8=<<15*8=120>>120 pages.\n#### 120"),
]  # fmt: skip
THINGS = ("lantern", "harbour", "orchard", "compass", "ballad", "quarry", "meadow", "signal")


def write_source_files(folder: Path) -> Path:
    """Every file that `Sources.load` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    mawps = [
        {"Question": text, "Numbers": numbers, "Equation": equation, "Answer": 0.0, "fold": str(fold)}
        for fold in range(5)
        for text, numbers, equation in MAWPS
    ]
    films = [
        {
            "title": f"The {a.title()} and the {b}", "year": 1920 + i, "cast": ["Ada Vane", "Bo Lund"],
            "genres": ["Drama"], "extract": f"The {a} and the {b} is a film about a beekeeper. It was shot in Oslo.",
        }
        for i, (a, b) in enumerate(product(THINGS[:5], THINGS[3:]))
    ]  # fmt: skip
    pages = []
    for a in (*THINGS, *(f"new {thing}" for thing in THINGS)):
        lines = (f"In chapter {i} the {a} society met near the {b} gate." for i, b in enumerate(THINGS))
        pages.append({"title": f"{a.title()} society", "text": "\n".join(lines)})
    questions = [{"question": f"how many {a} clubs won the {b} cup?"} for a, b in product(THINGS, THINGS)]
    _write(folder / "mawps.jsonl.gz", mawps)
    _write(folder / "gsm8k_train.jsonl", [{"question": q, "answer": a} for q, a in GSM8K])
    _write(folder / "movies.jsonl.gz", films)
    _write(folder / "wikipedia_pages.jsonl.gz", pages)
    _write(folder / "table_questions_train.jsonl.gz", questions)
    return folder


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def train_tokenizer(folder: Path) -> Path:
    """A tokenizer of some hundred pieces, learned from a few documents of the library."""
    pytest.importorskip("tokenizers", reason="training a tokenizer needs the train extra")
    from openk2.chat.train_tokenizer import MIN_VOCAB, train

    train(["\n".join(document.lines) for document in islice(documents(), 12)], MIN_VOCAB + 700, folder)
    return folder
