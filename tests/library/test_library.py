"""The embedded library: how it is built from the Factbook, and its cached index."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from openk2 import library
from openk2.library.build import WIDTH, build, clean, country_name, document_lines, sentences

RUSTIA = {
    "Geography": {
        "Area": {"total": {"text": "1,200 sq km"}, "land": {"text": "land: 1,100 sq km"}},
        "Climate": {"text": "<p>dry; hot <em>summers</em></p><p>cool&nbsp;winters</p>"},
        "Land use": {"forest": {"text": "12.5% (2022 est.)"}},
    },
    "Environment": {"Climate": {"text": "<p>dry; hot <em>summers</em></p><p>cool&nbsp;winters</p>"}},
    "Economy": {"Real GDP per capita": {"Real GDP per capita 2023": {"text": "$5,900"}, "note": "in 2021 dollars"}},
    "Government": {
        "Country name": {
            "conventional long form": {"text": "Republic of Rustia"},
            "conventional short form": {"text": "Rustia (Outer)"},
        }
    },
    "Introduction": {"Background": {"text": "It was settled late. " * 30}},
    "code": "rs",
}


def test_lines() -> None:
    lines = document_lines(RUSTIA)
    assert lines[:4] == [
        "Area - total: 1,200 sq km",
        "Area - land: 1,100 sq km",  # the part's own name is not said twice
        "Climate: dry; hot summers; cool winters",
        "Land use - forest: 12.5% (2022 est.)",
    ]
    assert lines.count("Climate: dry; hot summers; cool winters") == 1  # Environment repeats Geography
    assert "Real GDP per capita 2023: $5,900" in lines  # not "Real GDP per capita - Real GDP per capita 2023"
    assert "Real GDP per capita - note: in 2021 dollars" in lines
    background = [line for line in lines if line.startswith("Background: ")]
    assert len(background) == 2  # of its three pieces, two are the same words
    assert all(len(line) <= WIDTH + len("Background: ") and line.endswith("late.") for line in background)


def test_long_texts_break_at_sentences() -> None:
    text = " ".join(f"Sentence number {i} is here." for i in range(40))
    pieces = list(sentences(text))
    assert " ".join(pieces) == text and all(len(p) <= WIDTH and p.endswith(".") for p in pieces)
    assert "".join(sentences("x" * 1000)) == "x" * 1000
    assert list(sentences("  ")) == []
    listed = list(sentences(", ".join(f"item{i}" for i in range(100))))
    assert all(len(p) <= WIDTH for p in listed) and listed[0].endswith(",")


def test_clean() -> None:
    assert clean("a<br>b<br/><br>c") == "a; b; c"
    assert clean("<strong>x</strong> &amp; y\u2060.") == "x & y."
    assert clean("Done.<br>Next") == "Done. Next"


@pytest.mark.parametrize(
    ("short", "long", "name"),
    [
        ("Rustia (Outer)", "", "Rustia"),
        ("Cocos (Keeling) Islands", "", "Cocos (Keeling) Islands"),
        ("none", "Kingdom of Rust", "Kingdom of Rust"),
        ("DRC", "", "Democratic Republic of the Congo"),
        ("Rustia or Rost", "", "Rustia"),
    ],
)
def test_names(short: str, long: str, name: str) -> None:
    forms = {"conventional short form": {"text": short}, "conventional long form": {"text": long}}
    assert country_name("x/rs.json", {"Government": {"Country name": forms}}) == name


def test_places_without_a_government() -> None:
    assert country_name("oceans/xo.json", {}) == "Indian Ocean" and country_name("x/rs.json", {}) == "rs"


def test_build(tmp_path: Path) -> None:
    source = tmp_path / "factbook.jsonl.gz"
    rows = [{"path": "x/rs.json", "data": RUSTIA}, {"path": "x/none.json", "data": {"code": "no"}}]
    source.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    assert build(source, tmp_path / "out") == 1
    text = (tmp_path / "out" / "rustia.txt").read_text()
    assert text.startswith("Rustia\nArea - total: 1,200 sq km\n") and text.endswith("\n")


def test_documents_are_sound() -> None:
    documents = list(library.documents())
    assert len(documents) > 250 and len({d.id for d in documents}) == len(documents)
    for document in documents:
        assert document.lines[0] == document.title and len(document.lines) == len(set(document.lines))
        assert all(line == line.strip() and line for line in document.lines)


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library of one document, and an empty cache."""
    folder = tmp_path / "factbook"
    folder.mkdir()
    (folder / "rustia.txt").write_text("Rustia\nArea - total: 1,200 sq km\n")
    monkeypatch.setattr(library, "FOLDER", folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "openk2"


def test_the_index_is_cached_by_content(few: Path) -> None:
    assert library.index().search("area of rustia")[0].line == 2
    (cached,) = few.iterdir()
    made = cached.stat().st_mtime_ns
    library.index()
    assert cached.stat().st_mtime_ns == made
    (library.FOLDER / "rustia.txt").write_text("Rustia\nArea - total: 1,300 sq km, after a survey\n")
    assert "survey" in library.index().search("area of rustia")[0].text


def test_a_damaged_cache_is_built_anew(few: Path) -> None:
    library.index()
    (cached,) = few.iterdir()
    cached.write_bytes(b"noise" * 500)
    assert library.index().search("area of rustia")[0].line == 2
    assert cached.read_bytes().startswith(b"SQLite")


def test_without_a_place_for_the_cache(few: Path) -> None:
    few.parent.write_text("a file where the cache folder would be")
    assert library.index().search("area of rustia")[0].line == 2
