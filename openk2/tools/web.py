"""The web beside the documents: search, open and find reach both, and fetch reads a URL.

Pages become documents with numbered lines, so that they are paged through, searched and cited as `[web-1:12]`, in the
same forms as a person's own files. All text of theirs stands inside the run's provenance mark.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import httpx

from openk2 import net
from openk2.tools import reader
from openk2.tools.base import Tool, ToolError, ToolResult, tool
from openk2.tools.formats import PAGE_CHARS, format_find, format_hits, format_open
from openk2.tools.index import Hit, Index
from openk2.tools.pages import Page, Pages, is_page
from openk2.tools.provenance import Provenance, visible
from openk2.tools.search import MAX_HITS, mark_of, search_tools
from openk2.tools.web_search import Engine

SECONDS = 60.0  # for a fetch and its reading together


class Web:
    """The web as one run sees it. `engine`: what searches it; None where only pages are read.

    `pages`: a folder in which what was read is kept. `allow`: places that are reached though they are not public, as
    `host` or `host:port`. `transport`: the way out; None is the judged one of `openk2.net`, through OPENK2_WEB_PROXY
    where a person has set that.
    """

    def __init__(
        self,
        engine: Engine | None = None,
        *,
        pages: Path | None = None,
        provenance: Provenance | None = None,
        allow: Sequence[str] = (),
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.engine = engine
        self.pages = Pages(pages)
        self.provenance = provenance or Provenance()
        self.allow, self._transport = tuple(allow), transport

    async def page(self, url: str) -> Page:
        """Read a URL and keep it. Raises net.Refused or ToolError with the reason."""
        proxy = os.environ.get("OPENK2_WEB_PROXY") or None
        transport = self._transport or net.SafeTransport(self.allow, proxy=proxy)
        try:
            fetched = await net.get(url, transport, types=reader.TYPES)
        finally:
            if self._transport is None:
                await transport.aclose()
        reading = await reader.read(fetched)
        lines = tuple(line for text in reading.lines if (line := _one_line(text)))
        if not lines:
            raise ToolError(f"{fetched.url} has no text to read.")
        return self.pages.add("web", fetched.url, _one_line(reading.title) or fetched.url, lines)

    async def hits(self, query: str, k: int) -> list[Page]:
        """What the search engine finds, each as a document of a few lines."""
        if self.engine is None:
            return []
        found = await self.engine.search(query, k)
        pages: list[Page] = []
        for hit in found:
            try:
                url = str(net.checked(hit.url))
            except net.Refused:
                continue
            lines = tuple(line for text in (hit.snippet, hit.date and f"Date: {hit.date}") if (line := _one_line(text)))
            title = _one_line(hit.title) or url
            pages.append(self.pages.add("hit", url, title, lines or (title,)))
        return pages

    async def known(self, id: str) -> Page | None:
        """The page that `id` names: one of this run by its id or URL. A search hit is read in full. None: neither.

        A URL that this run has not found is not read here: that is `fetch`'s, which a person may have a say in.
        """
        if "://" in id:
            url = str(net.checked(id))
            page = self.pages.at(url) or self.pages.at(url, "hit")
            if page is None:
                raise ToolError(f"{url} was not read or found in this run; read it with fetch.")
        else:
            page = self.pages.get(id)
        if page is None or is_page(page.document.id):
            return page
        return self.pages.at(page.url) or await self.page(page.url)

    def shown(self, page: Page, text: str) -> ToolResult:
        return ToolResult(self.provenance.wrap(text, f"web page {page.url}"), source=page.url)


def web_tools(
    web: Web, index: Index | None = None, *, page_chars: int = PAGE_CHARS, private: bool = False
) -> dict[str, Tool]:
    """The tools `search`, `open`, `find` and `fetch` over the web and, where there is an `index`, the documents.

    `private`: the documents are the person's own. Only `search` and `fetch` send what they are given away. A result
    with text from outside has its URL as `source`.
    """
    web.pages.taken = lambda id: index is not None and index.document(id) is not None
    documents = search_tools(index, page_chars=page_chars, private=private) if index else {}
    mark = web.provenance

    @tool(idempotent=True, timeout=SECONDS, egress=True, private=private)
    async def search(query: str, k: int = 3) -> ToolResult:
        """Search the documents and the web for their best lines, each as [id:line] text under its title.

        Args:
            query: A few words to look for.
            k: How many hits.
        """
        k = max(1, min(k, MAX_HITS))
        found = await web.hits(query, k)
        hits = [Hit(page.document.id, 1, f"{page.document.title} ({page.url})", _joined(page)) for page in found]
        parts = []
        if index and (own := await asyncio.to_thread(index.search, query, k)):
            parts.append(format_hits(own))
        if hits:
            parts.append(mark.wrap(format_hits(hits, SNIPPET_WIDTH), "results of a web search"))
        return ToolResult("\n".join(parts) or format_hits([]), source=found[0].url if found else "")

    @tool(idempotent=True, timeout=SECONDS, private=private)
    async def open(id: str, line: int = 1) -> ToolResult:
        """Read a document or a web page from a line on, each line as [id:line] text.

        Args:
            id: The document, as in a search hit, or the URL of a page that was found or fetched.
            line: The first line to read.
        """
        if page := await web.known(mark_of(id)):
            return web.shown(page, _head(page, line) + format_open(page.document, line, page_chars))
        return ToolResult(await asyncio.to_thread(_document(documents, "open", id), id, line))

    @tool(idempotent=True, timeout=SECONDS, private=private)
    async def find(id: str, pattern: str) -> ToolResult:
        """Show the lines of one document or web page that contain a text, letter case aside.

        Args:
            id: The document, as in a search hit, or the URL of a page that was found or fetched.
            pattern: The text to find.
        """
        if page := await web.known(mark_of(id)):
            return web.shown(page, format_find(page.document, pattern))
        return ToolResult(await asyncio.to_thread(_document(documents, "find", id), id, pattern))

    @tool(idempotent=True, timeout=SECONDS, egress=True, untrusted=True)
    async def fetch(url: str) -> ToolResult:
        """Read a web page, PDF, JSON or text file, each line as [id:line] text; open and find go on from there.

        Args:
            url: The address, beginning with https:// or http://.
        """
        page = await web.page(url)
        return web.shown(page, _head(page, 1) + format_open(page.document, 1, page_chars))

    made = {made.name: made for made in (search, open, find, fetch)}
    if web.engine is None:
        del made["search"]
        return made | ({"search": documents["search"]} if documents else {})
    if index is None:
        made["search"] = replace(search, description=search.description.replace("the documents and the web", "the web"))
    return made


SNIPPET_WIDTH = 300  # characters of a web hit: there is no line to open for the rest of it


def _one_line(text: str) -> str:
    return " ".join(visible(text).split())


def _joined(page: Page) -> str:
    return " · ".join(page.document.lines)


def _head(page: Page, line: int) -> str:
    return f"{page.document.title}\n" if line <= 1 and page.document.title != page.url else ""


def _document(documents: dict[str, Tool], name: str, id: str) -> Tool:
    if not documents:
        raise ToolError(f"No page {mark_of(id)}. Search first, or fetch a URL.")
    return documents[name]
