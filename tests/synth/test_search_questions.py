"""Search questions: one answer by computation, calls executed, claims in their lines, what is held out kept out."""

from __future__ import annotations

import copy
import gzip
import json
import os
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from openk2.cli.main import run
from openk2.synth.heldout import held_out
from openk2.synth.search.collection import Collection
from openk2.synth.search.facts import Ids, film_entry, page_entry, passage_entry
from openk2.synth.search.make import USES, Order, Split, check, collection, library, records
from openk2.synth.search.questions import NoAnswer, Solver, hops
from openk2.synth.search.verify import problems
from openk2.synth.shards import make

FIRST = ("Ada", "Bo", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hal")
LAST = ("Vane", "Lund", "Moss", "Hart")
THINGS = ("Lantern", "Harbour", "Orchard", "Compass", "Ballad", "Quarry", "Meadow", "Signal", "Anchor", "Beacon")
PEOPLE = [f"{a} {b}" for a, b in product(FIRST, LAST)]


def film(title: str, year: int, director: str, cast: list[str]) -> dict[str, Any]:
    text = (
        f"{title} is a {year} American drama film directed by {director} and starring {cast[0]}. It was shot in Oslo."
    )
    return {"title": title, "year": year, "cast": cast, "genres": ["Drama"], "extract": text}


FILMS = [
    film(f"The {a} and the {b}", 1920 + (7 * i) % 60, PEOPLE[i // 2], [PEOPLE[(3 * i + k) % 32] for k in (1, 5, 12)])
    for i, (a, b) in enumerate(product(THINGS[:6], THINGS[4:]))
]
PASSAGES = [
    {
        "title": who,
        "text": f"{who}( born {1 + i % 28} March {1880 + i}) is a Danish film director. {who} lives in Ribe.",
    }
    for i, who in enumerate(PEOPLE[:24])
]
TABLE = "Name | Country | Points\n" + "\n".join(
    f"{who} Berg | {land} | {40 + 3 * i}"
    for i, (who, land) in enumerate(zip(FIRST, ("Peru", "Chad", "Kenya", "Fiji") * 2, strict=False))
)
PAGES = [
    {"title": f"{a} Cup", "text": f"The {a} Cup is a race.\nIt is held in May.\nIt has a prize.\n{TABLE}\nThat is all."}
    for a in THINGS
]


@pytest.fixture(scope="module", params=["invented", "real"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A data folder: a small one written here, and the real one where there is one."""
    if request.param == "real":
        found = os.environ.get("OPENK2_DATA")
        if not found or not (Path(found) / "wikipedia_passages.jsonl.gz").exists():
            pytest.skip("OPENK2_DATA does not hold the source files")
        return found
    return str(write(tmp_path_factory.mktemp("search")))


def write(path: Path) -> Path:
    for name, rows in (("movies", FILMS), ("wikipedia_passages", PASSAGES), ("wikipedia_pages", PAGES)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (path / f"{name}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    return path


@pytest.fixture(scope="module")
def made(folder: str) -> list[dict[str, Any]]:
    order = Order(folder, 5 * USES, 5)
    return [record for group in range(5) for record in records(order, group)[0]]


def test_records_are_true_when_their_collection_is_drawn_again(folder: str, made: list[dict[str, Any]]) -> None:
    collection.cache_clear()
    assert [check(record, Path(folder)) for record in made] == [[]] * len(made)
    assert len(made) > 3 * USES
    assert {record["kind"] for record in made} == {"search", "search-none"}
    assert {record["proof"]["hops"] for record in made} == {1, 2, 3}
    tools = {c["function"]["name"] for r in made for m in r["messages"] for c in m.get("tool_calls") or ()}
    assert tools >= {"search", "open", "find", "python", "calculator"}
    assert any(record["proof"]["detours"] for record in made if record["kind"] == "search")


def test_no_question_comes_twice_in_a_collection(made: list[dict[str, Any]]) -> None:
    asked = [(r["proof"]["collection"], json.dumps(r["proof"]["query"])) for r in made]
    assert len(set(asked)) == len(asked)


def test_what_is_not_there_is_in_no_document(folder: str, made: list[dict[str, Any]]) -> None:
    for record in made:
        here = collection(folder, "train", record["proof"]["collection"])
        gone = any(id in here.away for id, _ in Solver(here).solve(record["proof"]["query"]).lines)
        assert gone == (record["kind"] == "search-none") == (record["proof"]["gold"] is None)
        assert not here.away & {id for id, _ in here.index.documents()}


def _answer(record: dict[str, Any], old: str, new: str) -> None:
    message = record["messages"][-1]
    message["content"] = message["content"].replace(old, new)


def _last_result(record: dict[str, Any]) -> None:
    next(m for m in reversed(record["messages"]) if m["role"] == "tool")["content"] += "x"


def _other_id(record: dict[str, Any]) -> None:
    id = record["proof"]["cites"][-1].rpartition(":")[0]
    record["messages"] = json.loads(json.dumps(record["messages"]).replace(f"[{id}:", "[elsewhere:"))


def _cut(record: dict[str, Any]) -> None:
    del record["messages"][-3:-1]  # the last call and its result


SPOILS: dict[str, Callable[[dict[str, Any]], None]] = {
    "another answer": lambda r: _answer(r, r["proof"]["gold"], "Nobody 1234"),
    "another gold": lambda r: r["proof"].update(gold="Nobody"),
    "no citation": lambda r: _answer(r, f"[{r['proof']['cites'][-1]}]", ""),
    "another line": lambda r: _answer(r, f"[{r['proof']['cites'][-1]}]", f"[{r['proof']['cites'][-1]}9]"),
    "another result": _last_result,
    "another document": _other_id,
    "a call left out": _cut,
    "said not to be there": lambda r: r["messages"][-1].update(content="I could not find it in the documents."),
    "a claim nobody made": lambda r: _answer(r, r["messages"][-1]["content"][-1], ". It is old."),
}  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILS)
def test_spoiled_records_are_refused(folder: str, made: list[dict[str, Any]], spoil: str) -> None:
    for record in [r for r in made if r["kind"] == "search"][:25]:
        bad = copy.deepcopy(record)
        SPOILS[spoil](bad)
        assert check(bad, Path(folder)), (spoil, bad["messages"][-1])


def test_an_answer_where_there_is_none_is_refused(folder: str, made: list[dict[str, Any]]) -> None:
    for record in [r for r in made if r["kind"] == "search-none"]:
        bad = copy.deepcopy(record)
        bad["messages"][-1]["content"] = "It is Peru."
        assert check(bad, Path(folder))


@pytest.mark.parametrize("split", ["train", "entities", "wordings", "structures", "hops"])
def test_what_is_held_out(folder: str, split: Split) -> None:
    found, _ = records(Order(folder, USES, 9, split=split), 0)
    assert found
    for record in found:
        query = record["proof"]["query"]
        assert (hops(query) == 4) == (split == "hops")
    for kind in ("film", "page"):
        assert {held_out(kind, e.name) for e in library(folder, split == "entities").of[kind]} <= {split == "entities"}


def small(*films: dict[str, Any]) -> Solver:
    ids = Ids()
    entries = [e for e in (film_entry(f, ids) for f in films) if e]
    assert len(entries) == len(films)
    return Solver(Collection("small", tuple(entries), ()))


def test_a_question_with_two_answers_is_none() -> None:
    one, two = film("Dawn", 1930, "Ada Vane", ["Bo Lund", "Eve Moss"]), film("Dusk", 1931, "Dan Hart", ["Hal Moss"])
    assert small(one, two).solve(["year", ["with", "Bo Lund", "Eve Moss"]]).value == "1930"
    two["extract"] += " Bo Lund and Eve Moss were guests."  # in the text alone, which no fact says
    with pytest.raises(NoAnswer):
        small(one, two).solve(["year", ["with", "Bo Lund", "Eve Moss"]])
    again = film("Dawn", 1950, "Dan Hart", ["Hal Moss"])
    with pytest.raises(NoAnswer):
        small(one, again).solve(["director", ["film", "Dawn"]])
    mate, third = film("Noon", 1940, "Ada Vane", ["Gus Hart"]), film("Night", 1941, "Ada Vane", ["Gus Hart"])
    assert small(one, mate).solve(["year", ["other", ["film", "Dawn"]]]).value == "1940"
    with pytest.raises(NoAnswer):
        small(one, mate, third).solve(["year", ["other", ["film", "Dawn"]]])


def test_doubtful_facts_are_none() -> None:
    ids = Ids()
    wrong = film("Dawn", 1930, "Ada Vane", ["Bo Lund"]) | {"year": 1931}
    assert film_entry(wrong, ids) is None
    both = film("Dawn", 1930, "Ada Vane and Dan Hart", ["Bo Lund"])
    entry = film_entry(both, ids)
    assert entry and "director" not in entry.facts
    person = passage_entry({"title": "Ada Vane", "text": "Ada Vane( 1901 – 4 May 1980) was a film director."}, ids)
    assert person and person.kind == "text"
    page = page_entry(PAGES[0], ids)
    assert page and page.cells["Ada Berg", "Country"].value == "Peru" and len(page.cells) == 16


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    data = str(write(tmp_path))
    order = Order(data, 3 * USES, 3, size=USES)
    one = make(order, tmp_path / "one", say=lambda _: None)
    (tmp_path / "one" / "part-00001.json").unlink()  # as if killed before it was whole
    assert make(order, tmp_path / "one", say=lambda _: None) == one
    assert make(order, tmp_path / "two", workers=2, say=lambda _: None) == one
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = str(write(tmp_path)), tmp_path / "out"
    command = ["synth", "search", "--data", data]
    assert run([*command, "--out", str(out), "--count", "40"]) == 0
    assert run([*command, "--verify", str(out)]) == 0
    assert " true, 0 not" in capsys.readouterr().out
    assert run([*command, "--out", str(out), "--count", "60"]) != 0
    assert "another order" in capsys.readouterr().err
    lines = gzip.decompress((out / "part-00000.jsonl.gz").read_bytes()).decode().splitlines()
    bad = json.loads(lines[0])
    bad["messages"][-1]["content"] = "It is so."
    (tmp_path / "bad.jsonl").write_text(json.dumps(bad) + "\n")
    with pytest.raises(SystemExit):
        run([*command, "--verify", str(tmp_path / "bad.jsonl")])
    assert problems({}, collection(data, "train", "train/0/0"))
