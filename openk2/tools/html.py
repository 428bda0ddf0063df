"""The text of a web page, one block a line: paragraphs, list items, table rows, headings; no scripts, no styles."""

from __future__ import annotations

from html.parser import HTMLParser

SILENT = {"script", "style", "template", "noscript", "svg", "head", "iframe", "object", "select", "button"}
BLOCKS = {
    "address", "article", "aside", "blockquote", "body", "br", "caption", "dd", "details", "div", "dl", "dt",
    "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "html",
    "li", "main", "nav", "ol", "p", "pre", "section", "summary", "table", "tbody", "tfoot", "thead", "tr", "ul",
}  # fmt: skip
CELLS = {"td", "th"}


class PageText(HTMLParser):
    """Feed it HTML in pieces of any size; `take` gives the lines that are whole so far."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title = ""
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
        elif tag in SILENT:
            self._silent.append(tag)
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
        if tag in BLOCKS:
            self._end_line()
            self._verbatim -= tag == "pre" and self._verbatim > 0

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title = " ".join(f"{self.title} {data}".split())
        elif not self._silent:
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
