"""A body from the web as lines, read in a process of its own (`child`): what hangs or bursts there ends in a sentence.

Articles are found by trafilatura (extra `web`) where it is installed; the text of all else, and of pages in which it
finds little, comes from our own reader. Links follow the text, so that a page that was read can be followed.
"""

from __future__ import annotations

import codecs
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag, urljoin

from openk2.net import Fetched
from openk2.tools import child
from openk2.tools.base import ToolError
from openk2.tools.documents import Unreadable, lines_of, wrapped

SECONDS = 20.0  # wall clock and processor time of one reading
MEMORY = 1536 << 20  # bytes
MAX_CHARACTERS = 1_000_000  # of a page's text
LARGEST_ARTICLE = 3_000_000  # characters of HTML in which an article is looked for: its tree takes a hundred times that
LEAST_ARTICLE = 0.25  # of the page's own text: an article finder that keeps less has missed it

ENDINGS = {
    "text/html": ".html", "application/xhtml+xml": ".html", "application/pdf": ".pdf", "application/json": ".json",
    "application/x-ndjson": ".jsonl", "application/jsonl": ".jsonl", "text/csv": ".csv", "application/csv": ".csv",
    "text/tab-separated-values": ".tsv", "text/markdown": ".md", "application/xml": ".txt",
    "application/javascript": ".txt", "application/yaml": ".txt", "application/x-yaml": ".txt",
    "application/toml": ".txt",
}  # fmt: skip
TYPES = (*ENDINGS, "text/", "application/ld+json", "application/rss+xml", "application/atom+xml",
         "application/geo+json", "application/octet-stream")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reading:
    title: str
    lines: tuple[str, ...]


async def read(fetched: Fetched) -> Reading:
    """The lines of a body. Raises ToolError with one sentence where there is nothing to read, or it takes too much."""
    ending = ending_of(fetched)
    with tempfile.TemporaryDirectory(prefix="openk2-read-") as folder:
        path = Path(folder) / f"body{ending}"
        path.write_bytes(fetched.body if ending == ".pdf" else text_of(fetched).encode("utf-8", "replace"))
        answer = await child.run(f"{__name__}:body", {"file": str(path), "url": fetched.url}, SECONDS, MEMORY)
    if "error" in answer:
        raise ToolError(f"{fetched.url} {answer['error']}.")
    return Reading(answer["title"], tuple(answer["lines"]))


def ending_of(fetched: Fetched) -> str:
    """The file ending that says how a body is read. Raises ToolError for what is no text."""
    kind, start = fetched.content_type, fetched.body[:1024]
    if start.startswith(b"%PDF-"):
        return ".pdf"
    if kind in ENDINGS:
        return ENDINGS[kind]
    if kind.endswith("+json"):
        return ".json"
    if kind.startswith("text/") or kind.endswith("+xml"):
        return ".txt"
    if b"\0" in start and not start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ToolError(f"{fetched.url} is {kind or 'of no declared type'} and not text; it cannot be read.")
    return ".html" if re.match(rb"\s*<(!doctype\s+html|html)", start, re.IGNORECASE) else ".txt"


def text_of(fetched: Fetched) -> str:
    """The body as text: by its byte order mark, the server's word, the page's own, else UTF-8 or cp1252."""
    body = fetched.body
    if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return body.decode("utf-16", "replace")
    named = re.search(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?([\w.:-]+)", body[:4096], re.IGNORECASE)
    for charset in (fetched.charset, named[1].decode("ascii", "replace") if named else "", "utf-8-sig"):
        try:
            return body.decode(charset)
        except (LookupError, ValueError):
            continue
    return body.decode("cp1252", "replace")


# ------------------------------------------------------------------------------------------------ in the child


def body(task: dict[str, str]) -> dict[str, Any]:
    """Read the file `task["file"]`, from `task["url"]`: {"title", "lines"} or {"error"}."""
    path = Path(task["file"])
    title, lines = "", []
    try:
        if path.suffix == ".html":
            title, found = web_page(path.read_text(encoding="utf-8"), task["url"])
            lines = _bounded(part for line in found for part in wrapped(line))
        else:
            pairs = lines_of(path)
            lines = _bounded(text for kind, text in pairs if kind == "line" or not (title := title or text))
    except Unreadable as error:
        return {"error": str(error)}
    except (ValueError, OSError) as error:
        return {"error": f"could not be read ({error})"}
    return {"title": title[:300], "lines": lines} if lines else {"error": "has no text to read"}


def _bounded(lines: Iterable[str]) -> list[str]:
    left, kept = MAX_CHARACTERS, []
    for line in lines:
        left -= len(line) + 1
        if left < 0:
            kept.append(f"(The text goes on; only its first {MAX_CHARACTERS:,} characters are kept.)")
            break
        kept.append(line)
    return kept


def web_page(html: str, url: str) -> tuple[str, list[str]]:
    """The title and the lines of an HTML page, its links last."""
    from openk2.tools.html import PageText

    page = PageText()
    page.feed(html)
    page.close()
    own = page.take()
    lines = article(html, url) if len(html) <= LARGEST_ARTICLE else []
    if sum(map(len, lines)) < LEAST_ARTICLE * sum(map(len, own)):
        lines = own
    links: dict[str, str] = {}
    for text, href in page.links:
        place = urldefrag(urljoin(url, href.strip())).url
        if place.startswith(("http://", "https://")) and place != urldefrag(url).url and len(place) <= 500:
            links.setdefault(place, text)
    return page.title, [*lines, *(f"Link: {text[:100]} {place}" for place, text in links.items())]


def article(html: str, url: str) -> list[str]:
    """What trafilatura holds for the page's own text, hidden elements left out before; empty where it is not there."""
    try:
        import trafilatura
    except ImportError:
        return []
    from openk2.tools.html import is_hidden

    tree = trafilatura.load_html(html)
    if tree is None:
        return []
    for element in [e for e in tree.iter() if isinstance(e.tag, str) and is_hidden(list(e.attrib.items()))]:
        if element.getparent() is not None and element.tag != "body":
            element.drop_tree()
    text = trafilatura.extract(tree, url=url, include_comments=True, include_tables=True, favor_recall=True)
    return (text or "").splitlines()
