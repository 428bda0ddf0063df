"""Real text to pre-train a small model on: web pages, a diary, encyclopaedia passages, films, Python's own library.

One JSON-lines file a kind, `{"title", "text"}` a line. One document in forty is held out, by a hash of its title, into
`heldout.jsonl`: it is for measuring only.
"""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

from openk2.synth.heldout import held_out
from openk2.synth.rows import read_rows

SHARE = 40  # one in so many is held out
_FILES = {
    "web": ("wikipedia_pages.jsonl.gz", "text"), "diary": ("pepys.jsonl.gz", "text"),
    "passages": ("wikipedia_passages.jsonl.gz", "text"), "films": ("movies.jsonl.gz", "extract"),
}  # fmt: skip
_SHORTEST = 200  # characters


def texts(data: Path) -> Iterator[tuple[str, str, str]]:
    """(kind, title, text) of every document of the data folder and of the standard library of this Python."""
    for kind, (name, field) in _FILES.items():
        for row in read_rows(data / name):
            if len(text := row.get(field) or "") >= _SHORTEST:
                yield kind, row["title"], text
    library = Path(sysconfig.get_path("stdlib"))
    for file in sorted(library.rglob("*.py")):
        title = file.relative_to(library).as_posix()
        if "site-packages" not in title and not title.startswith(("test/", "idlelib/", "lib2to3/")):
            text = file.read_text(encoding="utf-8", errors="replace")
            if "/test" not in title and len(text) >= _SHORTEST:
                yield "python", title, text


def make(data: Path, out: Path, say: Callable[[str], None] = print) -> None:
    """Write OUT/KIND.jsonl and OUT/heldout.jsonl. Raises UserError for a source file that is missing or damaged."""
    out.mkdir(parents=True, exist_ok=True)
    parts: dict[str, list[str]] = {}
    for kind, title, text in texts(data):
        target = "heldout" if held_out("text", title, SHARE) else kind
        parts.setdefault(target, []).append(json.dumps({"title": title, "text": text}, ensure_ascii=False) + "\n")
    for name, lines in parts.items():
        (out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        say(f"{len(lines):>6} documents, {sum(map(len, lines)) / 1e6:5.1f}M characters in {out / name}.jsonl")
