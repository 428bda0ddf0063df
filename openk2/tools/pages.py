"""What a run has read of the web: pages `web-1`, `web-2` ..., search hits `hit-1` ..., kept as they were read.

An answer cites `[web-1:12]`; the line must be there after the page has changed and after the run was resumed. So each
is a file of its own in the run's folder.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from openk2.tools.index import Document


@dataclass(frozen=True, slots=True)
class Page:
    document: Document
    url: str


class Pages:
    """`folder`: where they are kept; None keeps them in memory only."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.taken: Callable[[str], bool] = lambda _: False  # whether another document has an id
        self._pages: dict[str, Page] = {}
        files = folder.glob("*.json") if folder and folder.is_dir() else ()
        for path in sorted(files, key=lambda path: [int(n) for n in re.findall(r"\d+", path.stem)][-1:]):
            try:
                data = json.loads(path.read_text(encoding="utf-8"))
                self._pages[path.stem] = Page(Document(path.stem, data["title"], tuple(data["lines"])), data["url"])
            except (OSError, ValueError, KeyError, TypeError):
                continue  # half written when the process was killed: nothing cites it

    def document(self, id: str) -> Document | None:
        page = self._pages.get(id)
        return page.document if page else None

    def get(self, id: str) -> Page | None:
        return self._pages.get(id)

    def at(self, url: str, kind: str = "web") -> Page | None:
        """The page that was read last at a URL, or the last hit (`kind` hit)."""
        same = (p for id, p in reversed(self._pages.items()) if p.url == url and id.startswith(f"{kind}-"))
        return next(same, None)

    def add(self, kind: str, url: str, title: str, lines: tuple[str, ...]) -> Page:
        """A new page (`kind` web) or hit; the same one again where nothing has changed."""
        for page in self._pages.values():
            same = page.document.id.startswith(f"{kind}-") and page.url == url
            if same and (page.document.title, page.document.lines) == (title, lines):
                return page
        number = 1
        while f"{kind}-{number}" in self._pages or self.taken(f"{kind}-{number}"):
            number += 1
        page = Page(Document(f"{kind}-{number}", title, lines), url)
        self._keep(page)
        self._pages[page.document.id] = page
        return page

    def _keep(self, page: Page) -> None:
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / f"{page.document.id}.json"
        part = target.with_suffix(".part")
        data = {"url": page.url, "title": page.document.title, "lines": page.document.lines}
        with part.open("w", encoding="utf-8", errors="replace") as file:
            json.dump(data, file, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)


def is_page(id: str) -> bool:
    return id.startswith("web-")
