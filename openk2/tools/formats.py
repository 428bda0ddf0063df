"""The text of search, open and find results. The embedded model is trained on exactly these forms."""

from __future__ import annotations

import re

from openk2.tools.index import Document, Hit

NO_LINE = "No line matches. Try other words."  # what search says where nothing is found
HIT_WIDTH = 100  # characters of a line shown by search
LINE_WIDTH = 400  # characters of a line shown by open and find
FIND_LINES = 10
PAGE_CHARS = 4000  # characters shown by open at once; the embedded model asks for a small page


def shorten(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def format_hits(hits: list[Hit], width: int = HIT_WIDTH) -> str:
    """`In TITLE:` and under it its lines, best first; the title comes again whenever it changes."""
    if not hits:
        return NO_LINE
    lines: list[str] = []
    title = None
    for hit in hits:
        if hit.title != title:
            title = hit.title
            lines.append(f"In {title}:")
        lines.append(f"[{hit.id}:{hit.line}] {shorten(hit.text, width)}")
    return "\n".join(lines)


def format_open(document: Document, line: int, chars: int = PAGE_CHARS) -> str:
    """The lines from `line` on, at least one, until `chars` characters are full."""
    total = len(document.lines)
    first = min(max(1, line), max(1, total))
    shown: list[str] = []
    for number in range(first, total + 1):
        text = f"[{document.id}:{number}] {shorten(document.lines[number - 1], LINE_WIDTH)}"
        if shown and chars < len(text):
            break
        chars -= len(text)
        shown.append(text)
    return "\n".join([*shown, f"(lines {first}-{first + len(shown) - 1} of {total})"])


def format_find(document: Document, pattern: str) -> str:
    """Lines that contain the pattern, letter case aside. The pattern is text, not a regular expression."""
    wanted = re.sub(r"\s+", " ", pattern).strip().casefold()
    found = [
        f"[{document.id}:{n}] {shorten(text, LINE_WIDTH)}"
        for n, text in enumerate(document.lines, 1)
        if wanted in text.casefold()
    ]
    if not found:
        return f"No line of {document.id} matches."
    more = f"\n({len(found) - FIND_LINES} more)" if len(found) > FIND_LINES else ""
    return "\n".join(found[:FIND_LINES]) + more
