"""The exact text of results: the embedded model was trained on these bytes."""

from __future__ import annotations

from openk2.tools.formats import FIND_LINES, HIT_WIDTH, LINE_WIDTH, format_find, format_hits, format_open, shorten
from openk2.tools.index import Document, Hit

PAGE = Document("ferns", "Ferns", ("Ferns", "Height: 30 cm", "Place: shade", "x" * 500, "Straße: a.b"))


def test_hits() -> None:
    hits = [
        Hit("ferns", 2, "Ferns", "Height: 30 cm"),
        Hit("ferns", 4, "Ferns", "x" * 101),
        Hit("moss", 7, "Moss", "Height: 2 cm"),
        Hit("ferns", 3, "Ferns", "Place: shade"),
    ]
    assert format_hits(hits) == (
        "In Ferns:\n[ferns:2] Height: 30 cm\n[ferns:4] " + "x" * 99 + "…\n"
        "In Moss:\n[moss:7] Height: 2 cm\n"
        "In Ferns:\n[ferns:3] Place: shade"
    )
    assert format_hits([]) == "No line matches. Try other words."


def test_shorten() -> None:
    assert shorten("x" * HIT_WIDTH, HIT_WIDTH) == "x" * HIT_WIDTH
    assert shorten("abcd efgh", 6) == "abcd…"  # no space before the mark
    assert len(shorten("y" * 999, LINE_WIDTH)) == LINE_WIDTH


def test_open() -> None:
    assert format_open(PAGE, 2, 40) == "[ferns:2] Height: 30 cm\n(lines 2-2 of 5)"
    assert format_open(PAGE, 2, 46) == "[ferns:2] Height: 30 cm\n[ferns:3] Place: shade\n(lines 2-3 of 5)"
    assert format_open(PAGE, 4, 10) == f"[ferns:4] {'x' * 399}…\n(lines 4-4 of 5)"  # one line at least
    assert format_open(PAGE, 5) == "[ferns:5] Straße: a.b\n(lines 5-5 of 5)"
    assert format_open(PAGE, 99) == format_open(PAGE, 5)
    assert format_open(PAGE, -3) == format_open(PAGE, 1)
    assert format_open(PAGE, 1).endswith("\n(lines 1-5 of 5)")


def test_find() -> None:
    assert format_find(PAGE, "HEIGHT:  30") == "[ferns:2] Height: 30 cm"
    assert format_find(PAGE, "strasse") == format_find(PAGE, "a.b") == "[ferns:5] Straße: a.b"
    assert format_find(PAGE, "a?b") == "No line of ferns matches."  # text, not a regular expression
    many = Document("many", "Many", tuple(f"row {i}" for i in range(13)))
    found = format_find(many, "row").split("\n")
    assert found[0] == "[many:1] row 0" and len(found) == FIND_LINES + 1 and found[-1] == "(3 more)"
