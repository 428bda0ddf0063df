"""A person's own files as documents to search: txt, md, html, csv, json, pdf and folders of them.

Lines are what is searched, shown and cited, so every format becomes lines that mean something alone: a row of a table
is `column: value; ...`, a JSON leaf is `path: value`, a long paragraph is cut between sentences. A long JSON record
that has a title (a page, an article) is a document of its own. The index is kept in the user's cache folder under the
hash of the content: a second run with unchanged files builds nothing.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import json
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from openk2.errors import UserError
from openk2.paths import cache_dir
from openk2.tools.index import SCHEMA, Document, Index, slug
from openk2.tools.pdf import Unreadable, pdf_lines

VERSION = 4  # of what this file makes of content: part of the cache's key
WIDTH = 300  # characters of a line
PART_LINES = 5000  # a file of more lines becomes several documents, so that no page of it needs all in memory
MAX_JSON = 256 << 20  # bytes: a JSON file has to be read whole
HASHED_WHOLE = 256 << 20  # of a larger file its ends, size and time are hashed
KEPT_INDEXES = 20
UNFINISHED = 3600.0  # seconds without a change, after which an index is not being built any more
ID_LENGTH = 60  # characters of a document's id

TEXT = {".txt", ".text", ".md", ".markdown", ".rst", ".log"}
HTML = {".html", ".htm", ".xhtml"}
TABLE = {".csv", ".tsv"}
JSON = {".json", ".jsonl", ".ndjson"}
TITLES = ("title", "name", "headline", "subject")
PDF = {".pdf"}
READABLE = TEXT | HTML | TABLE | JSON | PDF
SKIPPED_FOLDERS = {"node_modules", "__pycache__", "venv"}

Skip = Callable[[Path, str], None]  # told of each file that is left out, and why


_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # controls, and halves of characters


def index(paths: Iterable[Path], *, on_skip: Skip | None = None, cache: Path | None = None) -> Index:
    """The index over files and folders, from the cache where nothing changed.

    Raises UserError for a path that is missing, a folder without files to read, and files without any text.
    """
    files = list_files(paths, on_skip)
    folder = cache or cache_dir() / "documents"
    target = folder / f"{content_hash(files)}.sqlite"
    if (cached := _load(target)) is not None:
        return cached
    skipped: list[tuple[Path, str]] = []

    def skip(path: Path, why: str) -> None:
        skipped.append((path, why))

    try:
        made = Index.file(target, read(files, skip))
    except (OSError, sqlite3.Error):  # the cache cannot be written: it is only a cache
        skipped.clear()
        made = Index.memory(read(files, skip))
    for path, why in skipped:
        if on_skip:
            on_skip(path, why)
    if len(made) == 0:
        target.unlink(missing_ok=True)
        reasons = "; ".join(f"{path.name} {why}" for path, why in skipped[:3])
        raise UserError(f"The documents have no readable text ({reasons or 'they are empty'}).")
    _prune(folder)
    return made


def list_files(paths: Iterable[Path], on_skip: Skip | None = None) -> list[Path]:
    """The files to read: those named, and in folders those with a known ending. Hidden ones are left out."""
    found: list[Path] = []
    for path in paths:
        if path.is_file():
            found.append(path)
        elif path.is_dir():
            inside = list(_walk(path, on_skip))
            if not inside:
                endings = ", ".join(sorted(ending[1:] for ending in READABLE))
                raise UserError(f"The folder {path} has no file that can be read: put {endings} files there.")
            found += inside
        else:
            raise UserError(f"There is no file or folder {path}: check --docs.")
    return list(dict.fromkeys(found))


def _walk(folder: Path, on_skip: Skip | None) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in SKIPPED_FOLDERS)
        for name in sorted(names):
            path = Path(place) / name
            if name.startswith(".") or not path.is_file():
                continue
            if path.suffix.lower() in READABLE:
                yield path
            elif on_skip:
                on_skip(path, f"is a kind of file that is not read ({path.suffix or 'no ending'})")


def read(files: Iterable[Path], on_skip: Skip | None = None) -> Iterator[Document]:
    """The documents of `files`, one at a time. What cannot be read is left out and told to `on_skip`."""
    taken: dict[str, int] = {}  # id: how many more were wanted
    for path in files:
        plain = path.stem.replace("_", " ").replace("-", " ").strip() or path.name
        name, title, part, number = path.stem, plain, [], 1
        try:
            for kind, text in lines_of(path):
                if kind == "title":
                    title = text
                elif kind == "document":
                    if part:
                        yield _document(name, title, part, number, taken)
                    part, number, title, name = [], 1, text or plain, text or path.stem
                else:
                    part.append(text)
                    if len(part) == PART_LINES:
                        yield _document(name, title, part, number, taken)
                        part, number = [], number + 1
        except (Unreadable, OSError, ValueError, RecursionError, csv.Error) as error:
            if on_skip:
                why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                on_skip(path, f"cannot be read: {why}" if not isinstance(error, Unreadable) else why)
        if part:
            yield _document(name, title, part, number, taken)


def _document(name: str, title: str, lines: list[str], number: int, taken: dict[str, int]) -> Document:
    wanted = document_id(name if number == 1 else f"{name} part {number}")
    id, count = wanted, taken.get(wanted, 0)
    while id in taken:
        count += 1
        id = f"{wanted}-{count + 1}"
    taken[wanted] = count
    taken[id] = 0
    title = _UNPRINTABLE.sub(" ", title).strip() or id  # a file's name may hold bytes that are no text
    return Document(id, title if number == 1 else f"{title} (part {number})", tuple(lines))


def document_id(name: str) -> str:
    """A name as it stands in a citation: lower-case letters, digits and hyphens."""
    latin = slug(name, ID_LENGTH)
    if len(latin) * 2 >= min(len(name), ID_LENGTH):
        return latin or "document"
    return "-".join(re.findall(r"\w+", name.lower()))[:ID_LENGTH].strip("-") or latin or "document"  # another script


# ------------------------------------------------------------------------------------------------ formats


def lines_of(path: Path) -> Iterator[tuple[str, str]]:
    """("title", text) at most once, and ("line", text) for each line. Raises Unreadable, OSError, ValueError."""
    ending = path.suffix.lower()
    if ending in PDF:
        for kind, text in pdf_lines(path):
            yield from ((kind, part) for part in wrapped(text))
        return
    encoding = encoding_of(path)
    if ending in HTML:
        yield from _of_html(path, encoding)
        return
    if ending in TABLE:
        lines = _of_table(path, encoding)
    elif ending in JSON:
        yield from _of_records(_of_json(path, encoding) if ending == ".json" else _of_json_lines(path, encoding))
        return
    else:
        yield from _of_text(path, encoding, headings=ending in (".md", ".markdown"))
        return
    for line in lines:
        for part in wrapped(line):
            yield "line", part


def encoding_of(path: Path) -> str:
    """utf-8 (or utf-16 by its mark) where the whole file is that, else cp1252, the Latin-1 of the web.

    Raises Unreadable for a binary file.
    """
    with path.open("rb") as file:
        start = file.read(8192)
        if not start:
            raise Unreadable("is empty")
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        controls = sum(byte < 32 and byte not in (9, 10, 12, 13, 27) for byte in start)
        if b"\0" in start or controls > len(start) // 20:
            raise Unreadable("is not text")
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            decoder.decode(start)
            while block := file.read(1 << 20):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "cp1252"
    return "utf-8-sig"


def _of_text(path: Path, encoding: str, *, headings: bool) -> Iterator[tuple[str, str]]:
    titled = False
    with path.open(encoding=encoding, errors="replace") as file:
        while line := file.readline(1 << 20):  # a "line" of a gigabyte comes in pieces
            if headings and not titled and (match := re.match(r"#\s+(.+)", line)):
                titled = True
                yield "title", match[1].strip()
            for part in wrapped(line):
                yield "line", part


def _of_html(path: Path, encoding: str) -> Iterator[tuple[str, str]]:
    from openk2.tools.html import PageText

    page = PageText()
    with path.open(encoding=encoding, errors="replace") as file:
        while block := file.read(1 << 20):
            page.feed(block)
            for line in page.take():
                for part in wrapped(line):
                    yield "line", part
    page.close()
    if page.title:
        yield "title", page.title
    for line in page.take():
        for part in wrapped(line):
            yield "line", part


def _of_table(path: Path, encoding: str) -> Iterator[str]:
    csv.field_size_limit(16 << 20)
    with path.open(encoding=encoding, errors="replace", newline="") as file:
        first = file.readline(1 << 20)
        file.seek(0)
        separator = "\t" if path.suffix.lower() == ".tsv" else max(",;\t|", key=first.count)
        rows = csv.reader(file, delimiter=separator)
        head = [cell.strip() for cell in next(rows, [])]
        if len(set(head)) < len(head) or any(re.fullmatch(r"[-+\d.,%\s]*", cell) for cell in head):
            columns = [f"column {number}" for number in range(1, len(head) + 1)]  # the first row is data
            yield _record(zip(columns, head, strict=True))
        else:
            columns = head
        for row in rows:
            names = [*columns, *(f"column {number}" for number in range(len(columns) + 1, len(row) + 1))]
            yield _record(zip(names, row, strict=False))


def _of_records(records: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, str]]:
    """The lines of JSON values, each with its path; a long titled record starts a document of its own."""
    apart = False
    for path, value in records:
        title = _title(value)
        if title or apart:
            yield "document", title
        apart = bool(title)
        for line in _of_article(value) if title else _flat(value, path):
            for part in wrapped(line):
                yield "line", part


def _title(value: Any) -> str:
    """The title of a record that is too long for a line, else nothing."""
    if not isinstance(value, dict) or sum(len(str(item)) for item in value.values()) <= 2 * WIDTH:
        return ""
    return next((str(value[key]).strip() for key in TITLES if isinstance(value.get(key), str)), "")


def _of_article(value: dict[str, Any]) -> Iterator[str]:
    """A record as a text: its long fields are its paragraphs, the others `field: value`."""
    for key, item in value.items():
        if isinstance(item, str) and len(item) > WIDTH:
            yield item
        elif key not in TITLES or not isinstance(item, str):
            yield from _flat(item, str(key))


def _of_json(path: Path, encoding: str) -> Iterator[tuple[str, Any]]:
    if path.stat().st_size > MAX_JSON:
        raise Unreadable(f"is over {MAX_JSON >> 20} MB, too large for one JSON value: save it as jsonl")
    with path.open(encoding=encoding, errors="replace") as file:
        value = _parsed(file.read(), "is not valid JSON")
    if isinstance(value, list):
        yield from ((f"[{number}]", item) for number, item in enumerate(value))
    else:
        yield "", value


def _of_json_lines(path: Path, encoding: str) -> Iterator[tuple[str, Any]]:
    with path.open(encoding=encoding, errors="replace") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield "", _parsed(line, f"is not valid JSON in line {number}")


def _parsed(text: str, problem: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{problem}: {error}") from None


def _flat(value: Any, path: str = "") -> Iterator[str]:
    """`path: value` for each leaf; an object of leaves alone is one line, as a row of a table is."""
    if isinstance(value, dict):
        leaves = all(not isinstance(item, dict | list) for item in value.values())
        if leaves and value and sum(len(str(item)) for item in value.values()) <= 2 * WIDTH:
            record = _record((str(key), _shown(item)) for key, item in value.items())
            yield f"{path} - {record}" if path and not re.fullmatch(r"\[\d+\]", path) else record
            return
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        if all(isinstance(item, str | int | float) for item in value) and sum(len(str(i)) for i in value) <= WIDTH:
            value = ", ".join(_shown(item) for item in value)
            yield f"{path}: {value}" if path else value
            return
        for number, item in enumerate(value):
            yield from _flat(item, f"{path}[{number}]")
    elif value is not None and value != "":
        yield f"{path}: {_shown(value)}" if path else _shown(value)


def _record(cells: Iterable[tuple[str, str]]) -> str:
    return "; ".join(f"{name}: {' '.join(cell.split())}" for name, cell in cells if cell.strip())


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def wrapped(text: str, width: int = WIDTH) -> Iterator[str]:
    """The lines of `text` without the empty ones; a longer one is cut after a sentence, else a word, else anywhere."""
    for line in text.splitlines():
        rest = re.sub(rf"[^\S\t]+|\t+|{_UNPRINTABLE.pattern}", " ", line).strip()
        while len(rest) > width:
            window = rest[: width + 1]
            sentence = max((m.end() for m in re.finditer(r"[.!?;。！？](?=\s)|[。！？]", window[:width])), default=0)
            at = sentence if sentence > width // 3 else window.rfind(" ")
            at = at if at > 0 else width
            yield rest[:at].strip()
            rest = rest[at:].strip()
        if rest:
            yield rest


# ------------------------------------------------------------------------------------------------ cache


def content_hash(files: Iterable[Path]) -> str:
    """The key of an index: names and contents of its files, in order, and how they are read and stored."""
    key = hashlib.blake2b(f"{VERSION} {WIDTH} {PART_LINES} {SCHEMA}".encode(), digest_size=16)
    for path in files:
        key.update(b"\0file\0" + os.fsencode(path.name) + b"\0")
        try:
            with path.open("rb") as file:
                about = os.fstat(file.fileno())
                key.update(str(about.st_size).encode() + b"\0")
                if about.st_size <= HASHED_WHOLE:
                    while block := file.read(1 << 20):
                        key.update(block)
                else:
                    key.update(str(about.st_mtime_ns).encode() + file.read(1 << 20))
                    file.seek(-(1 << 20), os.SEEK_END)
                    key.update(file.read())
        except OSError:
            key.update(b"unreadable")
    return key.hexdigest()


def _load(target: Path) -> Index | None:
    if not target.is_file():
        return None
    try:
        found = Index.load(target)
        if len(found) == 0:
            return None
        os.utime(target)  # so that the oldest unused is what `_prune` drops
    except (OSError, sqlite3.Error):
        return None  # damaged: it is built again
    return found


def _prune(folder: Path) -> None:
    try:
        made = sorted(folder.glob("*.sqlite"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in made[KEPT_INDEXES:]:
            path.unlink()
        for path in folder.glob("*.sqlite?*"):  # of runs that were stopped while they built one
            if time.time() - path.stat().st_mtime > UNFINISHED:
                path.unlink()
    except OSError:
        return  # another run is at it
