"""The embedded library: documents that `k2 ask` searches offline (CIA World Factbook, CC0), indexed on first use."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from openk2 import __version__
from openk2.paths import cache_dir
from openk2.tools.index import SCHEMA, Document, Index

FOLDER = Path(__file__).parent / "factbook"


def documents() -> Iterator[Document]:
    """The embedded documents: id is the file's stem, line 1 the title."""
    for path in sorted(FOLDER.glob("*.txt")):
        lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
        yield Document(path.stem, lines[0], tuple(lines))


def index() -> Index:
    """The index over the library, cached on disk (under a second to open, about three to build the first time)."""
    stamp = "".join(f"{p.name}{p.stat().st_size}" for p in sorted(FOLDER.glob("*.txt")))
    key = hashlib.sha256(f"{__version__}{SCHEMA}{stamp}".encode()).hexdigest()[:16]
    path = cache_dir() / f"library-{key}.sqlite"
    if path.exists():
        with suppress(OSError, sqlite3.Error):  # a damaged cache is built anew
            return Index.load(path)
    try:
        return Index.file(path, documents())
    except (OSError, sqlite3.Error):  # a read-only home: work without the cache
        return Index.memory(documents())
