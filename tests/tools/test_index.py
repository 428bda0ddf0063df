"""The search index: ranking, plain-text queries, files."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from openk2 import library
from openk2.tools.index import Document, Index, heading_of, slug, stem, words

KENYA = Document(
    "kenya", "Kenya",
    (
        "Kenya", "Population - total: 58,246,378", "Population - male: 29,091,800",
        "Urbanization - urban population: 29.5% of total population", "Area - total: 580,367 sq km",
        "Languages: English (official), Kiswahili",
    ),
)  # fmt: skip
GUINEA = Document("guinea", "Guinea", ("Guinea", "Area - total: 245,857 sq km", "Population - total: 13,986,179"))
EQUATORIAL = Document("equatorial-guinea", "Equatorial Guinea", ("Equatorial Guinea", "Area - total: 28,051 sq km"))
TURKEY = Document("turkiye", "Türkiye", ("Türkiye", "Capital - name: Ankara", "Notes: İstanbul lies on two continents"))


@pytest.fixture(scope="module")
def index() -> Index:
    return Index.memory([KENYA, GUINEA, EQUATORIAL, TURKEY])


def best(index: Index, query: str) -> tuple[str, int]:
    hit = index.search(query, 1)[0]
    return hit.id, hit.line


def test_title_and_heading_come_first(index: Index) -> None:
    assert best(index, "population of Kenya") == ("kenya", 2)
    assert best(index, "What is the total area of Guinea?") == ("guinea", 2)
    assert best(index, "total area of Equatorial Guinea") == ("equatorial-guinea", 2)
    assert best(index, "kenya urban population") == ("kenya", 4)
    hit = index.search("languages kenya")[0]
    assert (hit.title, hit.text) == ("Kenya", "Languages: English (official), Kiswahili")


def test_the_same_in_the_whole_library() -> None:
    whole = library.index()
    for query, text in (
        ("population of Kenya", "Population - total"),
        ("total area of Guinea", "Area - total"),
        ("capital name of Niger", "Capital - name"),
        ("total population of Dominica", "Population - total"),
    ):
        hit = whole.search(query, 1)[0]
        assert hit.title == query.rpartition(" of ")[2] and hit.text.startswith(text)


def test_accents_and_letter_case(index: Index) -> None:
    assert best(index, "CAPITAL of TURKIYE") == best(index, "capital of türkiye") == ("turkiye", 2)
    assert best(index, "istanbul") == best(index, "İSTANBUL") == ("turkiye", 3)
    assert words("Ærø, São-Tomé_2") == ["ærø", "sao", "tome", "2"]


@pytest.mark.parametrize(
    "query",
    ['"', "'", "*", "^kenya", "NEAR(kenya, 2)", "title:kenya", "kenya AND NOT", "a OR", "(", "- - -", "{x}", "col : *",
     '") OR 1=1; DROP TABLE lines; --', "\x00kenya", "🙂 kenya", "\ud800", "AND", "NOT kenya"],
)  # fmt: skip
def test_query_syntax_is_plain_text(index: Index, query: str) -> None:
    index.search(query)
    assert len(index) == 4 and best(index, "population of Kenya") == ("kenya", 2)


def test_empty_and_long_queries(index: Index) -> None:
    assert index.search("") == index.search("?!") == index.search("zeppelin") == []
    assert index.search("the of")  # stop words alone are searched as they are
    assert best(index, " ".join(f"w{i}" for i in range(3000)) + " kiswahili") == ("kenya", 6)
    assert len(index.search("population", 2)) == 2


def test_documents(index: Index) -> None:
    assert index.document("kenya") == KENYA and index.document("nowhere") is None
    assert index.documents()[0] == ("equatorial-guinea", "Equatorial Guinea")
    assert all(hit.text != hit.title for hit in index.search("Kenya", 20))  # a title alone answers nothing


def test_file(tmp_path: Path) -> None:
    path = tmp_path / "a folder? #1 100%" / "ä.sqlite"
    made = Index.file(path, [KENYA, GUINEA])
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no scratch file stays
    again = Index.load(path)
    assert made.search("area of guinea") == again.search("area of guinea") != []

    def breaks() -> object:
        yield KENYA
        raise sqlite3.OperationalError("database or disk is full")

    with pytest.raises(sqlite3.Error):
        Index.file(path, breaks())  # type: ignore[arg-type]
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert len(Index.load(path)) == 2


def test_what_is_no_index(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.Error):
        Index.load(tmp_path / "missing.sqlite")
    (tmp_path / "noise.sqlite").write_bytes(b"noise " * 1000)
    with pytest.raises(sqlite3.Error):
        Index.load(tmp_path / "noise.sqlite")


def test_slug() -> None:
    assert slug("Côte d'Ivoire") == "cote-d-ivoire"
    assert slug("Democratic Republic of the Congo") == "democratic"
    assert slug("Saint Vincent and the Grenadines") == "saint-vincent-and"
    assert slug("x" * 40) == "x" * 18 and slug("漢字") == "" and slug("North  Korea!") == "north-korea"


def test_headings_and_stems() -> None:
    assert heading_of("Area - total: 1 sq km") == "Area - total"
    assert heading_of("no heading") == "" and heading_of("x" * 81 + ": y") == ""
    assert stem("countries") == stem("country") and stem("borders") == stem("border") == stem("bordering")
    assert stem("gas") == "gas" and stem("class") == "class"
