"""The text of a PDF, page by page, through pypdfium2 (Chromium's reader), where the extra `web` is installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from openk2.paths import install

MAX_PAGES = 2000
PAGE_TEXT = 200_000  # characters of one page


class Unreadable(Exception):
    """A file that has no text; the message says why."""


def pdf_lines(path: Path) -> Iterator[tuple[str, str]]:
    """("title", text) at most once, and ("line", text). Raises Unreadable."""
    try:
        import pypdfium2 as pdfium
    except ImportError:
        raise Unreadable(f"is a PDF, which needs pypdfium2: {install('web')}") from None
    try:
        document = pdfium.PdfDocument(path)
    except pdfium.PdfiumError as error:
        locked = "password" in str(error).lower()
        raise Unreadable("is a PDF with a password" if locked else f"is not a valid PDF ({error})") from None
    try:
        title = document.get_metadata_dict(skip_empty=True).get("Title", "").strip()
        if title:
            yield "title", title
        empty = True
        for number in range(min(len(document), MAX_PAGES)):
            for line in _page(document, number).splitlines():
                empty = empty and not line.strip()
                yield "line", line
        if empty:
            raise Unreadable("has no text: its pages are pictures")
        if len(document) > MAX_PAGES:
            yield "line", f"({len(document) - MAX_PAGES} more pages are not read)"
    finally:
        document.close()


def _page(document: object, number: int) -> str:
    import pypdfium2 as pdfium

    try:
        page = document[number]  # type: ignore[index]
        try:
            text = page.get_textpage()
            try:
                return text.get_text_range(0, min(text.count_chars(), PAGE_TEXT)) if text.count_chars() else ""
            finally:
                text.close()
        finally:
            page.close()
    except pdfium.PdfiumError:
        return ""  # one damaged page does not take the others with it
