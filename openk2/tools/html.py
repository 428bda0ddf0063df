"""The text of a web page, one block a line: paragraphs, list items, table rows, headings; no scripts, no styles.

What a page hides from its readers is left out: it is where orders to a model are put.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser

SILENT = {"script", "style", "template", "noscript", "svg", "head", "iframe", "object", "select", "button"}
BLOCKS = {
    "address", "article", "aside", "blockquote", "body", "br", "caption", "dd", "details", "div", "dl", "dt",
    "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "html",
    "li", "main", "nav", "ol", "p", "pre", "section", "summary", "table", "tbody", "tfoot", "thead", "tr", "ul",
}  # fmt: skip
CELLS = {"td", "th"}
VOID = {
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr",
}  # fmt: skip
CLOSED_BY_THE_NEXT = {"p", "li", "td", "th", "tr", "dd", "dt", "option"}  # their end tags may be left out
MAX_LINKS = 100
_HIDDEN = re.compile(
    r"display:none|visibility:(hidden|collapse)|opacity:0*(\.0+)?(;|$|!)|font-size:0*(\.0+)?(px|pt|em|rem|%)?(;|$|!)"
    r"|(?<![a-z-])(width|height):[01](px)?(;|$|!)|text-indent:-\d{3,}|(left|top|right|bottom):-\d{3,}"
    r"|clip:rect\(0|clip-path:inset\((50|100)%|(?<![a-z-])color:transparent"
)


def is_hidden(attrs: list[tuple[str, str | None]]) -> bool:
    """Whether an element says of itself that it is not shown. What style sheets hide is not known here."""
    for name, value in attrs:
        if name == "hidden" and (value or "").lower() != "until-found":
            return True
        if name == "style" and value and _HIDDEN.search(re.sub(r"\s+", "", value.lower())):
            return True
    return False


class PageText(HTMLParser):
    """Feed it HTML in pieces of any size; `take` gives the lines that are whole so far."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title = ""
        self.links: list[tuple[str, str]] = []  # (text, href), in order
        self._href: str | None = None
        self._anchor: list[str] = []
        self._lines: list[str] = []
        self._line: list[str] = []
        self._silent: list[str] = []
        self._in_title = False
        self._verbatim = 0

    def take(self) -> list[str]:
        lines, self._lines = self._lines, []
        return lines

    def close(self) -> None:
        super().close()
        self._end_line()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "title" and not self.title and "svg" not in self._silent:
            self._in_title = True
        elif tag == "body":  # a head that was never closed
            self._silent.clear()
        elif tag in VOID:
            pass
        elif self._silent and self._silent[-1] == tag and tag in CLOSED_BY_THE_NEXT:
            self._silent.pop()
            if is_hidden(attrs):
                self._silent.append(tag)
        elif tag in SILENT or tag in self._silent or is_hidden(attrs):
            self._silent.append(tag)
        if tag == "a" and not self._silent:
            self._href, self._anchor = dict(attrs).get("href"), []
        if tag in BLOCKS:
            self._end_line()
            self._verbatim += tag == "pre"
            if tag == "li":
                self._line.append("- ")
        elif tag in CELLS and any(piece.strip() for piece in self._line):
            self._line.append(" | ")

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._in_title = False
        elif tag in self._silent:
            while self._silent.pop() != tag:  # what was left open inside ends with it
                continue
        if tag == "a" and self._href is not None:
            text = " ".join("".join(self._anchor).split())
            if text and len(self.links) < MAX_LINKS:
                self.links.append((text, self._href))
            self._href = None
        if tag in BLOCKS:
            self._end_line()
            self._verbatim -= tag == "pre" and self._verbatim > 0

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title = " ".join(f"{self.title} {data}".split())
        elif not self._silent:
            if self._href is not None:
                self._anchor.append(data)
            if self._verbatim:
                first, *more = data.split("\n")
                self._line.append(first)
                for line in more:
                    self._end_line()
                    self._line.append(line)
            else:
                self._line.append(data)

    def _end_line(self) -> None:
        text = " ".join("".join(self._line).split())
        self._line = []
        if text.strip("-| "):
            self._lines.append(text)
