"""--docs: files of every kind become lines that can be searched and cited; the index is cached by content."""

import json
import os
from pathlib import Path

import pytest

from openk2.errors import UserError
from openk2.tools import documents
from openk2.tools.documents import document_id, index, list_files, read, wrapped
from openk2.tools.index import Document


def documents_of(folder: Path) -> tuple[dict[str, Document], list[str]]:
    skipped: list[str] = []
    found = read(list_files([folder]), lambda path, why: skipped.append(f"{path.name} {why}"))
    return {document.id: document for document in found}, skipped


def test_text_and_markdown(tmp_path: Path):
    (tmp_path / "My Notes_2.txt").write_text("First.\n\n\n  Second\tline.  \n")
    (tmp_path / "read-me.md").write_text("intro\n# The Title\n\nText.\n")
    (tmp_path / "latin.txt").write_bytes("Café à Paris\r\n".encode("latin-1"))
    (tmp_path / "wide.txt").write_text("Größe\n", encoding="utf-16")
    (tmp_path / "mark.txt").write_text("\ufeffmarked\n", encoding="utf-8")
    found, skipped = documents_of(tmp_path)
    assert found["my-notes-2"] == Document("my-notes-2", "My Notes 2", ("First.", "Second line."))
    assert found["read-me"].title == "The Title" and found["read-me"].lines == ("intro", "# The Title", "Text.")
    assert found["latin"].lines == ("Café à Paris",) and found["wide"].lines == ("Größe",)
    assert found["mark"].lines == ("marked",) and not skipped


def test_html(tmp_path: Path):
    (tmp_path / "page.html").write_text(
        "<html><head><title>A &amp; B</title><style>p {}</style><script>var x = '<p>no</p>';</script></head>"
        "<body><h1>Head</h1><p>One <b>bold</b>\n word.<p>Two<br>three<ul><li>item</ul>"
        "<table><tr><th>Name<th>Age<tr><td>Ann<td>3</table><pre>a\nb</pre><svg><text>no</text></svg>"
        "<div>caf&eacute; <!-- no --></div><script>no"
    )
    found, _ = documents_of(tmp_path)
    assert found["page"].title == "A & B"
    assert found["page"].lines == (
        "Head", "One bold word.", "Two", "three", "- item", "Name | Age", "Ann | 3", "a", "b", "café",
    )  # fmt: skip


def test_tables(tmp_path: Path):
    (tmp_path / "people.csv").write_text('Name,Age,Town\nAnn,3,"Rome, old"\nBob,,\n"Eve\nA.",5,Oslo,extra\n')
    (tmp_path / "semi.csv").write_text("a;b\n1,5;2\n")
    (tmp_path / "bare.tsv").write_text("1\t2\n3\t4\n")
    found, _ = documents_of(tmp_path)
    assert found["people"].lines == (
        "Name: Ann; Age: 3; Town: Rome, old", "Name: Bob", "Name: Eve A.; Age: 5; Town: Oslo; column 4: extra",
    )  # fmt: skip
    assert found["semi"].lines == ("a: 1,5; b: 2",)
    assert found["bare"].lines == ("column 1: 1; column 2: 2", "column 1: 3; column 2: 4")


def test_json(tmp_path: Path):
    data = {"name": "x", "tags": ["a", "b"], "deep": {"n": 1, "ok": True, "none": None}, "rows": [{"a": 1}, [{"b": 2}]]}
    (tmp_path / "data.json").write_text(json.dumps(data))
    (tmp_path / "rows.jsonl").write_text('{"a": 1, "b": "two"}\n\n{"a": 3}\n')
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "nested.json").write_text("[" * 100_000)
    found, skipped = documents_of(tmp_path)
    assert found["data"].lines == (
        "name: x", "tags: a, b", "deep - n: 1; ok: true; none: null", "rows[0] - a: 1", "rows[1][0] - b: 2",
    )  # fmt: skip
    assert found["rows"].lines == ("a: 1; b: two", "a: 3")
    assert sorted(line.split(" is ")[0] for line in skipped) == ["bad.json", "nested.json"]


def test_long_records_with_a_title_are_documents(tmp_path: Path):
    long = "A sentence of the page. " * 30
    rows = [{"title": "Café Noir", "text": f"First.\n{long}", "year": 1900}, {"title": "Short", "year": 1901}]
    (tmp_path / "pages.jsonl").write_text("\n".join(map(json.dumps, [*rows, rows[0]])))
    (tmp_path / "list.json").write_text(json.dumps([rows[0], {"a": [1, {"b": 2}]}]))
    found, _ = documents_of(tmp_path)
    assert list(found) == ["cafe-noir", "list", "cafe-noir-2", "pages", "cafe-noir-3"]
    assert found["cafe-noir-2"].title == "Café Noir"
    assert found["cafe-noir-2"].lines[0] == "First." and found["cafe-noir-2"].lines[-1] == "year: 1900"
    assert found["pages"].lines == ("title: Short; year: 1901",)
    assert found["list"].lines == ("[1].a[0]: 1", "[1].a[1] - b: 2")


def test_long_lines_are_cut_between_sentences():
    text = "One sentence of some words. " * 50
    lines = list(wrapped(text))
    assert all(len(line) <= 300 and line.endswith(".") for line in lines) and " ".join(lines) == text.strip()
    assert list(wrapped("word " * 100)) == [("word " * 60).strip(), ("word " * 40).strip()]
    assert [len(line) for line in wrapped("x" * 700)] == [300, 300, 100]


def test_names_are_unique_and_plain():
    assert document_id("Été à_la PLAGE (2).final") == "ete-a-la-plage-2-final"
    assert document_id("Привет мир") == "привет-мир" and document_id("***") == "document"
    assert document_id("x" * 99) == "x" * 60 and document_id("word " * 30) == "-".join(["word"] * 12)
    assert document_id("日本の報告 2024") == "日本の報告-2024" and document_id("漢字") == "漢字"
    assert document_id("é" * 99) == "e" * 60


def test_names_and_texts_that_are_no_text(tmp_path: Path):
    """Bytes of a file's name that are not UTF-8, and halves of characters in JSON: SQLite takes neither."""
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("Ferns have fronds.")
    (tmp_path / "half.json").write_text(r'{"title": "\ud800", "text": "' + r"Mosses \udfff have no roots. " * 40 + '"}')
    found = index([tmp_path], cache=tmp_path / "cache")
    assert found.search("fronds")[0].title == "caf" and found.search("roots")


def test_json_nested_deeper_than_python_goes(tmp_path: Path):
    (tmp_path / "good.txt").write_text("text")
    (tmp_path / "deep.json").write_text('{"a":' * 900 + "1" + "}" * 900)
    skipped: list[str] = []
    list(read(list_files([tmp_path]), lambda path, _: skipped.append(path.name)))
    assert skipped in ([], ["deep.json"])  # read or told, as this Python's stack allows


def test_same_names_and_long_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(documents, "PART_LINES", 3)
    for folder in ("a", "b", ".hidden", "node_modules"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "notes.txt").write_text("1\n2\n3\n4\n")
    found, _ = documents_of(tmp_path)
    assert list(found) == ["notes", "notes-part-2", "notes-2", "notes-part-2-2"]
    assert found["notes-part-2"].title == "notes (part 2)" and found["notes-part-2"].lines == ("4",)


def test_what_is_left_out_is_told(tmp_path: Path):
    (tmp_path / "good.txt").write_text("text")
    (tmp_path / "image.txt").write_bytes(b"\x89PNG\0\0\1\2")
    (tmp_path / "none.md").write_text("")
    (tmp_path / "photo.jpg").write_bytes(b"x")
    (tmp_path / "link.txt").symlink_to("nowhere")
    skipped: list[str] = []
    index([tmp_path], on_skip=lambda path, why: skipped.append(f"{path.name} {why}"), cache=tmp_path / "cache")
    assert skipped == [
        "photo.jpg is a kind of file that is not read (.jpg)", "image.txt is not text", "none.md is empty",
    ]  # fmt: skip


def test_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    docs, cache = tmp_path / "docs", tmp_path / "cache"
    docs.mkdir()
    (docs / "a.txt").write_text("Ferns have fronds.")
    assert index([docs], cache=cache).search("fronds")[0].id == "a"
    built = list(cache.iterdir())
    assert len(built) == 1
    with monkeypatch.context() as patch:
        patch.setattr(documents, "read", lambda *_: pytest.fail("built again"))
        assert index([docs], cache=cache).search("fronds")[0].id == "a"
        os.utime(docs / "a.txt")  # touched, not changed
        assert len(index([docs], cache=cache)) == 1
    (docs / "a.txt").write_text("Ferns have spores.")
    assert index([docs], cache=cache).search("spores") and len(list(cache.iterdir())) == 2
    for file in cache.iterdir():
        file.write_bytes(b"damaged" * 1000)
    assert index([docs], cache=cache).search("spores")


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path):
    (tmp_path / "a.txt").write_text("Ferns have fronds.")
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "b.txt").write_bytes(bytes(9))
    skipped: list[Path] = []
    files = [tmp_path / "a.txt", tmp_path / "b.txt"]
    found = index(files, on_skip=lambda path, _: skipped.append(path), cache=tmp_path / "file" / "cache")
    assert found.search("fronds") and skipped == files[1:]  # told once


def test_errors_say_what_to_do(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "binary.txt").write_bytes(bytes(100))
    for paths, says in (
        ([tmp_path / "nothing"], "There is no file or folder"),
        ([tmp_path / "empty"], "has no file that can be read"),
        ([tmp_path / "binary.txt"], r"no readable text \(binary.txt is not text\)"),
    ):
        with pytest.raises(UserError, match=says):
            index(paths, cache=tmp_path / "cache")


def test_half_an_index_is_swept_away_once_it_is_old(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("A pear.\n")
    cache = tmp_path / "cache"
    cache.mkdir()
    left, fresh = cache / "abc.sqlitex1y2", cache / "abc.sqlitez3w4-journal"
    for path in (left, fresh):
        path.write_bytes(b"half")
    os.utime(left, (1e9, 1e9))
    index([tmp_path / "note.txt"], cache=cache)
    assert not left.exists() and fresh.exists()
