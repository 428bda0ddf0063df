"""Bodies from the web: forms, encodings, hidden text, and bombs that end with a sentence."""

from __future__ import annotations

import asyncio
import sys
import time
import zlib

import pytest
from injections import INJECTIONS

from openk2.net import Fetched
from openk2.tools import reader
from openk2.tools.base import ToolError
from openk2.tools.html import PageText, is_hidden
from openk2.tools.reader import Reading, ending_of, read, text_of, web_page


def pdf(*pages: str, title: str = "On ferns", raw: bytes | None = None) -> bytes:
    """A small PDF of our own; `raw` is the compressed stream of its first page."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b""]
    kids = []
    for number, text in enumerate(pages):
        lines = "".join(f"({line}) Tj 0 -14 Td " for line in text.split("\n"))
        content = zlib.compress(f"BT /F1 12 Tf 72 720 Td {lines}ET".encode())
        content = raw if raw is not None and number == 0 else content
        kids.append(f"{len(objects) + 1} 0 R")
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {len(objects) + 2} 0 R "
            "/Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>".encode()
        )
        head = f"<< /Length {len(content)} /Filter /FlateDecode >>\nstream\n"
        objects.append(head.encode() + content + b"\nendstream")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>".encode()
    objects.append(f"<< /Title ({title}) >>".encode())
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += f"{number} 0 obj\n".encode() + body + b"\nendobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    size = len(objects) + 1
    return out + (
        f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<< /Size {size} /Root 1 0 R /Info {size - 1} 0 R >>\n"
        f"startxref\n{len(out)}\n%%EOF\n"
    ).encode()


def of(body: bytes | str, kind: str = "text/html", charset: str = "") -> Fetched:
    return Fetched("https://a.example/x", kind, charset, body if isinstance(body, bytes) else body.encode())


def reading(fetched: Fetched) -> Reading:
    return asyncio.run(read(fetched))


def test_a_pdf() -> None:
    pytest.importorskip("pypdfium2")
    found = reading(of(pdf("Ferns like shade.\nThey have fronds.", "Moss has no roots."), "application/octet-stream"))
    assert found == Reading("On ferns", ("Ferns like shade.", "They have fronds.", "Moss has no roots."))
    for body, says in ((pdf(""), "its pages are pictures"), (b"%PDF-1.4 nonsense", "not a valid PDF")):
        with pytest.raises(ToolError, match=says):
            reading(of(body, "application/pdf"))


def test_how_a_body_is_read() -> None:
    assert ending_of(of("<!DOCTYPE html><p>x", "")) == ".html" and ending_of(of("x", "")) == ".txt"
    assert ending_of(of("{}", "application/ld+json")) == ".json" and ending_of(of("<x/>", "image/svg+xml")) == ".txt"
    assert ending_of(of(b"%PDF-1.7", "text/html")) == ".pdf"
    with pytest.raises(ToolError, match="application/zip and not text"):
        ending_of(of(b"PK\3\4\0\0", "application/zip"))


@pytest.mark.parametrize(
    ("body", "charset"),
    [("Größe".encode(), ""), ("Größe".encode("cp1252"), ""), ("Größe".encode("utf-16"), ""),
     ("Größe".encode("cp1252"), "nonsense"), ("Größe".encode("latin-1"), "utf-8"),
     (b"\xef\xbb\xbf" + "Größe".encode(), "")],
)  # fmt: skip
def test_encodings(body: bytes, charset: str) -> None:
    assert text_of(of(body, charset=charset)).strip("\ufeff") == "Größe"
    meta = b'<meta http-equiv="x" content="text/html; charset=koi8-r">' + "Мох".encode("koi8-r")
    assert text_of(of(meta)).endswith("Мох")


@pytest.mark.parametrize("with_finder", [True, False])
def test_hidden_text_is_left_out_with_and_without_the_article_finder(
    with_finder: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if with_finder:
        pytest.importorskip("trafilatura")
    else:
        monkeypatch.setitem(sys.modules, "trafilatura", None)
    for name, kind, body in INJECTIONS:
        if kind.startswith("text/html"):
            title, lines = web_page(body.decode(), "https://a.example/")
            assert lines and "SECRET-ORDER" not in "\n".join([title, *lines]), name


def test_what_counts_as_hidden() -> None:
    for style in ("display:none", "DISPLAY : none !important", "visibility:hidden", "opacity:0", "opacity: 0.0;",
                  "font-size:0", "font-size: 0px; x:y", "text-indent:-9999px", "position:absolute;left:-5000px",
                  "width:1px;height:1px", "clip-path: inset(50%)", "color:transparent"):  # fmt: skip
        assert is_hidden([("style", style)]), style
    for style in ("display:block", "opacity:0.9", "font-size:0.9em", "line-height:1", "max-width:1px", "height:100px",
                  "background-color:transparent", "margin-left:-15px"):  # fmt: skip
        assert not is_hidden([("style", style)]), style
    assert is_hidden([("hidden", None)]) and not is_hidden([("hidden", "until-found")]) and not is_hidden([("id", "x")])


def shown(html: str) -> list[str]:
    page = PageText()
    page.feed(html)
    page.close()
    return page.take()


def test_where_a_hidden_part_ends() -> None:
    assert shown("<div hidden>a<div>b</div>c</div>d") == ["d"]
    assert shown("<ul><li hidden>a<li>b<li style='display:none'>c<li>d</ul>e") == ["- b", "- d", "e"]
    assert shown("<p hidden>a<p>b") == ["b"] and shown("<input hidden>a<br hidden>b") == ["a", "b"]
    assert shown("<a style='display:none' href='/x'>a</a>b") == ["b"]
    assert shown("<span hidden>a<b>c</span>d") == ["d"]


def test_links_follow_the_text_once_each() -> None:
    html = "<p>Text of it.</p><a href='/a#1'>One</a><a href='/a'>Again</a><a href='mailto:x'>m</a><a href='#x'>t</a>"
    title, lines = web_page(f"<title>T</title>{html}", "https://a.example/dir/")
    assert title == "T" and [line for line in lines if line.startswith("Link: ")] == ["Link: One https://a.example/a"]


BOMBS = {
    "deep nesting": of("<div>" * 300_000 + "x" + "</div>" * 300_000),
    "open tags without end": of("<a" * 200_000),
    "open comments": of("<!--" * 200_000),
    "attributes": of("<p " + "a=1 " * 300_000 + ">x"),
    "entities": of("&amp;" * 500_000),
    "a line of megabytes": of("x" * 5_000_000, "text/plain"),
    "deep json": of("[" * 300_000, "application/json"),
    "wide json": of("[" + "1," * 500_000 + "1]", "application/json"),
    "a wide table": of(",".join("a" * 100_000) + "\n" + ",".join("1" * 100_000), "text/csv"),
    "a zip that says it is a page": of(b"PK\x03\x04\0\0" + bytes(1 << 20)),
    "a pdf of zeros": of(pdf("x", raw=zlib.compress(bytes(300 << 20))), "application/pdf"),
    "a pdf of text": of(pdf("x", raw=zlib.compress(b"BT /F1 1 Tf " + b"(ha) Tj " * 2_000_000)), "application/pdf"),
    "pdf pages without end": of(pdf("x").replace(b"/Kids [3 0 R]", b"/Kids [2 0 R]"), "application/pdf"),
}


def test_bombs_end_with_a_sentence_or_a_bounded_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "SECONDS", 1.5)
    monkeypatch.setattr(reader, "MEMORY", 600 << 20)

    async def one(name: str, limit: asyncio.Semaphore) -> None:
        async with limit:
            begin = time.monotonic()
            try:
                found = await read(BOMBS[name])
            except ToolError as error:
                assert str(error).startswith("https://a.example/x ") and str(error).endswith("."), name
            else:
                assert sum(map(len, found.lines)) <= reader.MAX_CHARACTERS + 200, name
            assert time.monotonic() - begin < 12, name

    async def all_of() -> None:
        limit = asyncio.Semaphore(3)
        async with asyncio.TaskGroup() as tasks:
            for name in BOMBS:
                tasks.create_task(one(name, limit))

    asyncio.run(all_of())
