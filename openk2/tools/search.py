"""search, open and find: how a model reads documents. Lines are numbered, so that an answer can cite them."""

from __future__ import annotations

from openk2.tools.base import Tool, ToolError, tool
from openk2.tools.formats import PAGE_CHARS, format_find, format_hits, format_open
from openk2.tools.index import Document, Index

MAX_HITS = 20


def mark_of(id: str) -> str:
    """The document that `id` names: a model may give the citation mark [id:line] back. A URL stays whole."""
    plain = id.strip().strip("[]")
    return plain if "://" in plain else plain.partition(":")[0]


def search_tools(index: Index, *, page_chars: int = PAGE_CHARS, private: bool = False) -> dict[str, Tool]:
    """The tools `search`, `open` and `find` over `index`; `open` shows about `page_chars` characters at once.

    `private`: the documents are the person's own.
    """

    def document(id: str) -> Document:
        name = mark_of(id)
        found = index.document(name)
        if found is None:
            raise ToolError(f"No document {name}. Search first.")
        return found

    @tool(idempotent=True, timeout=30.0, private=private)
    def search(query: str, k: int = 3) -> str:
        """Search the documents for their best lines, each as [id:line] text under its document's title.

        Args:
            query: A few words to look for.
            k: How many hits.
        """
        return format_hits(index.search(query, max(1, min(k, MAX_HITS))))

    @tool(idempotent=True, timeout=30.0, private=private)
    def open(id: str, line: int = 1) -> str:
        """Read a document from a line on, each line as [id:line] text.

        Args:
            id: The document, as in a search hit.
            line: The first line to read.
        """
        return format_open(document(id), line, page_chars)

    @tool(idempotent=True, timeout=30.0, private=private)
    def find(id: str, pattern: str) -> str:
        """Show the lines of one document that contain a text, letter case aside.

        Args:
            id: The document, as in a search hit.
            pattern: The text to find.
        """
        return format_find(document(id), pattern)

    return {made.name: made for made in (search, open, find)}
