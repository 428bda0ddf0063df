"""The browser's way out, and the browser itself against pages of a local server, where one is installed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest

from openk2.errors import UserError
from openk2.tools import toolset
from openk2.tools.base import Tool, ToolResult
from openk2.tools.browser import browser_tools, chromium
from openk2.tools.browser_proxy import BrowserProxy
from openk2.tools.web import Web

needs_browser = pytest.mark.skipif(
    not find_spec("playwright") or chromium() is None, reason="playwright or Chromium is not installed"
)
PAGE = """<!doctype html><html><head><title>The shop</title>
<style>.gone {{ display: none }}</style></head><body>
<h1>Ferns</h1><p>Ferns cost 3 euros.</p><p class=gone>SECRET-ORDER obey</p>
<a href="/moss">More of moss</a> <a class=gone href="/gone">gone</a>
<label for=n>How many</label> <input id=n>
<select aria-label=Size><option>small<option>large</select>
<label><input type=checkbox> Gift</label>
<button onclick="document.getElementById('out').innerText = 'Bought ' + document.getElementById('n').value + ' ' +
  document.querySelector('select').value">Buy</button><p id=out></p>
<script>
for (const place of ['http://127.0.0.1:{other}/fetch', 'http://localhost:{other}/name', 'http://[::1]:{other}/six'])
  fetch(place, {{mode: 'no-cors'}}).catch(() => 0);
try {{ new WebSocket('ws://127.0.0.1:{other}/socket') }} catch (e) {{}}
document.write('<img src="http://127.0.0.1:{other}/image">');
navigator.serviceWorker && navigator.serviceWorker.register('/sw.js').catch(() => 0);
</script><div style="height: 3000px"></div><p>The end</p></body></html>"""


@contextmanager
def server(answer: Callable[[str], tuple[int, dict[str, str], str]]) -> Iterator[tuple[int, list[str]]]:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.headers['host']}{self.path}")
            status, headers, body = answer(self.path)
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("content-length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None: ...

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.daemon_threads = True
    threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield made.server_address[1], asked
    finally:
        made.shutdown()
        made.server_close()


def plain(path: str) -> tuple[int, dict[str, str], str]:
    return 200, {"content-type": "text/html"}, f"<p>at {path}</p>"


# ------------------------------------------------------------------------------------------------ the way out


def through(proxy: BrowserProxy, work: Callable[[str], Awaitable[None]]) -> None:
    async def run() -> None:
        place = await proxy.start()
        try:
            await work(place)
        finally:
            await proxy.aclose()

    asyncio.run(run())


def test_only_what_is_judged_is_reached() -> None:
    with server(plain) as (port, asked), server(plain) as (other, secret):
        proxy = BrowserProxy([f"shop.example:{port}"], lambda host, _: ["127.0.0.1"])

        async def work(place: str) -> None:
            async with httpx.AsyncClient(proxy=place, trust_env=False) as client:
                ok = await client.get(f"http://shop.example:{port}/a?b=1", headers={"Proxy-Authorization": "x"})
                assert ok.text == "<p>at /a?b=1</p>"
                for url in (f"http://127.0.0.1:{port}/", f"http://localhost:{other}/",
                            "http://169.254.169.254/latest", "http://inner.example/", f"http://2130706433:{other}/",
                            f"http://shop.example:{other}/"):  # fmt: skip
                    refused = await client.get(url)
                    assert refused.status_code == 403 and "refused" in refused.text, url

        through(proxy, work)
        assert asked == [f"shop.example:{port}/a?b=1"] and secret == [] and len(proxy.refused) == 6


def test_tunnels_and_nonsense() -> None:
    with server(plain) as (port, asked):
        proxy = BrowserProxy([f"shop.example:{port}"], lambda host, _: ["127.0.0.1"])

        async def said(place: str, request: bytes) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(place.rpartition(":")[2]))
            writer.write(request)
            writer.write_eof()
            answer = await asyncio.wait_for(reader.read(), 5)
            writer.close()
            return answer

        async def work(place: str) -> None:
            inner = b"GET /in HTTP/1.0\r\nHost: x\r\n\r\n"
            tunnel = await said(place, f"CONNECT shop.example:{port} HTTP/1.1\r\n\r\n".encode() + inner)
            assert tunnel.startswith(b"HTTP/1.1 200 Connection established\r\n\r\n") and tunnel.endswith(b"at /in</p>")
            for line in (b"CONNECT 127.0.0.1:%d HTTP/1.1" % port, b"CONNECT a@b:443 HTTP/1.1", b"GET / HTTP/1.1",
                         b"GET file:///etc/passwd HTTP/1.1", b"\x16\x03\x01", b"CONNECT a.example:25 HTTP/1.1",
                         b"GET https://shop.example/ HTTP/1.1", b"GET http://[::ffff:7f00:1]/ HTTP/1.1"):  # fmt: skip
                assert (await said(place, line + b"\r\n\r\n")).startswith(b"HTTP/1.1 403"), line
            with contextlib.suppress(ConnectionResetError):  # a head without end
                assert await said(place, b"x" * 200_000) == b""

        through(proxy, work)
        assert asked == ["x/in"]


# ------------------------------------------------------------------------------------------------ the browser


def test_it_needs_the_web_and_a_workspace(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs the web"):
        toolset(["browse"], workspace=tmp_path)
    with pytest.raises(UserError, match="needs a workspace"):
        toolset(["click"], web=Web())
    tools = toolset(["browse", "click", "type", "scroll", "back"], web=Web(), workspace=tmp_path)
    assert all(made.untrusted and not made.idempotent for made in tools.values()) and tools["click"].egress


@needs_browser
def test_a_page_is_seen_and_worked_with(tmp_path: Path) -> None:
    with server(plain) as (other, secret):
        pages = {
            "/": (200, {"content-type": "text/html"}, PAGE.format(other=other)),
            "/away": (302, {"location": f"http://127.0.0.1:{other}/redirect"}, ""),
        }
        with server(lambda path: pages.get(path) or plain(path)) as (port, asked):
            web = Web(allow=[f"127.0.0.1:{port}"])
            tools = browser_tools(web, tmp_path)
            asyncio.run(_work(tools, f"http://127.0.0.1:{port}", other))
    assert secret == [], "a page has reached another server of this machine"
    assert f"127.0.0.1:{port}/moss" in asked and not any(path.endswith("/gone") for path in asked)
    assert not list(Path("/tmp").glob("openk2-browser-*/Default"))


@needs_browser
def test_the_page_does_try_to_reach_this_machine(tmp_path: Path) -> None:
    """The control of the test above: where this machine is allowed, the same page reaches the other server."""
    with server(plain) as (other, secret), server(
        lambda path: (200, {"content-type": "text/html"}, PAGE.format(other=other))
    ) as (port, _):
        browse = browser_tools(Web(allow=["127.0.0.1", "localhost"]), tmp_path)["browse"]

        async def run() -> None:
            assert not (await browse.run(json.dumps({"url": f"http://127.0.0.1:{port}/"}))).is_error
            await browse.aclose()

        asyncio.run(run())
        assert {path.rpartition("/")[2] for path in secret} >= {"fetch", "name", "socket", "image"}


async def _work(tools: dict[str, Tool], home: str, other: int) -> None:
    async def call(name: str, **arguments: object) -> ToolResult:
        return await tools[name].run(json.dumps(arguments))

    try:
        seen = await call("browse", url=f"{home}/")
        assert not seen.is_error, seen.content
        assert "\nThe shop\n(1) link 'More of moss'\n(2) field 'How many' = ''\n(3) choice 'Size' = '*s" in seen.content
        assert "*small, large'\n(4) checkbox 'Gift' = 'false'\n(5) button 'Buy'\n" in seen.content
        assert "SECRET" not in seen.content
        assert "[web-1:2] Ferns cost 3 euros." in seen.content and seen.source == f"{home}/"
        assert seen.files == ("screen-1.png",) and "text from outside" in seen.content
        await call("type", element=2, text="7")
        await call("type", element=3, text="large")
        bought = await call("click", element=5)
        assert "] Bought 7 large\n" in bought.content and "(2) field 'How many' = '7'" in bought.content
        down = await call("scroll")
        assert "(the window ends at 4" in down.content and "(1) link" not in down.content
        assert "no element 99" in (await call("click", element=99)).content
        await call("scroll", down=False)
        moss = await call("click", element=1)
        assert "at /moss" in moss.content and moss.source == f"{home}/moss"
        assert "Ferns cost" in (await call("back")).content
        for url in (f"http://127.0.0.1:{other}/", "http://169.254.169.254/", f"{home}/away"):
            refused = await call("browse", url=url)
            assert refused.is_error and "refused" in refused.content, refused.content
        for url in ("file:///etc/passwd", "chrome://version", "javascript:1"):
            assert "only http and https" in (await call("browse", url=url)).content
    finally:
        await tools["browse"].aclose()
