"""A browser for pages that are programs: browse, click, type, scroll, back; what is seen as text and as a picture.

Chromium runs headless with a profile of its own, no cookies of the person's, no environment, and no way to the network
but `browser_proxy`. What can be acted on is numbered; the page's text is a document that open and find read. Chromium's
own sandbox is on, except for root, where it cannot be.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from openk2 import net
from openk2.errors import UserError
from openk2.paths import install
from openk2.tools import beneath
from openk2.tools.base import Tool, ToolError, ToolResult, tool
from openk2.tools.browser_proxy import BrowserProxy
from openk2.tools.documents import wrapped
from openk2.tools.formats import format_open, shorten
from openk2.tools.provenance import visible
from openk2.tools.web import SECONDS, Web

WIDTH, HEIGHT = 1280, 800  # pixels of the window
MAX_ELEMENTS = 80
TEXT_CHARS = 3000  # of the page's text that browse shows
PAGE_CHARACTERS = 1_000_000
ACTION_MS = 10_000
PAGE_MS = 25_000
SETTLE_MS = 1500  # for what an action sets off
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = (
    "--proxy-bypass-list=<-loopback>",  # this machine too is asked for at the proxy
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--disable-quic",
    "--dns-prefetch-disable",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
)

# What can be acted on in the window: shown, large enough, not covered by something else.
FIND = """
() => [...document.querySelectorAll(
  'a[href],button,input:not([type=hidden]),select,textarea,summary,[role=button],[role=link],[role=checkbox],' +
  '[role=tab],[role=menuitem],[role=option],[contenteditable=true],[onclick]')].filter(e => {
    const r = e.getBoundingClientRect(), s = getComputedStyle(e);
    if (r.width < 4 || r.height < 4 || s.visibility !== 'visible' || Number(s.opacity) < 0.1) return false;
    if (r.bottom < 0 || r.top > innerHeight || r.right < 0 || r.left > innerWidth) return false;
    const x = Math.min(Math.max(r.left + r.width / 2, 0), innerWidth - 1);
    const y = Math.min(Math.max(r.top + r.height / 2, 0), innerHeight - 1);
    const top = document.elementFromPoint(x, y);
    return !top || e.contains(top) || top.contains(e);
  })
"""
DESCRIBE = """
elements => elements.map(e => {
  const tag = e.tagName.toLowerCase(), type = (e.type || '').toLowerCase();
  const field = ['input', 'textarea', 'select'].includes(tag) && !['button', 'submit', 'image', 'reset'].includes(type);
  const tick = ['checkbox', 'radio'].includes(type);
  const options = e => [...e.options].map(o => (o.selected ? '*' : '') + o.text).join(', ');
  const label = e.labels && e.labels.length ? e.labels[0].innerText : '';
  const name = e.getAttribute('aria-label') || label || e.placeholder || e.innerText || e.title || e.name || '';
  return {
    kind: tag === 'a' ? 'link' : !field ? 'button' : tick ? type : tag === 'select' ? 'choice' : 'field',
    name: String(field ? name : e.innerText || name || e.value || '').slice(0, 200),
    value: String(!field || type === 'password' ? '' : tick ? e.checked : tag === 'select' ? options(e) : e.value)
      .slice(0, 200),
  };
})
"""


class Browser:
    """One browser of one run; it starts with the first action."""

    def __init__(self, web: Web, workspace: Path) -> None:
        self.web, self.workspace = web, workspace.resolve()
        self._lock = asyncio.Lock()
        self._stack = contextlib.AsyncExitStack()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._page: Any = None
        self._elements: list[Any] = []
        self._screens = 0
        self.proxy = BrowserProxy(web.allow)

    async def act(self, action: Callable[[Any], Awaitable[None]], *, text: bool = True) -> ToolResult:
        """Do something with the page and tell what it is now. Raises ToolError."""
        from playwright.async_api import Error  # pyright: ignore[reportMissingImports]

        async with self._lock:
            if self._page is None:
                await self._start()
            try:
                await action(self._page)
                return await self._seen(text)
            except Error as error:
                raise ToolError(self._why(error)) from None

    def element(self, number: int) -> Any:
        if not 1 <= number <= len(self._elements):
            raise ToolError(f"There is no element {number} on the page as it was last shown (1-{len(self._elements)}).")
        return self._elements[number - 1]

    async def go(self, url: str) -> ToolResult:
        target = str(net.checked(url))

        async def action(page: Any) -> None:
            self.proxy.refused.clear()
            response = await page.goto(target, timeout=PAGE_MS, wait_until="domcontentloaded")
            # The page's own answer says it: beside it the browser asks for things of its own, which are refused too.
            if response is not None and response.status == 403 and self.proxy.refused:
                said = (await response.text()).strip()
                if said in self.proxy.refused:
                    raise ToolError(said)
            await _settle(page)

        return await self.act(action)

    async def _start(self) -> None:
        try:
            from playwright.async_api import async_playwright  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise UserError(f"The browser needs the package playwright: {install('browser')}.") from None
        self._loop = asyncio.get_running_loop()
        program = chromium()
        playwright = await self._stack.enter_async_context(async_playwright())
        server = await self.proxy.start()
        self._stack.push_async_callback(self.proxy.aclose)
        folder = tempfile.TemporaryDirectory(prefix="openk2-browser-", ignore_cleanup_errors=True)
        profile = self._stack.enter_context(folder)
        try:
            context = await playwright.chromium.launch_persistent_context(
                profile,
                executable_path=program,
                headless=True,
                proxy={"server": server},
                chromium_sandbox=os.geteuid() != 0,
                args=list(ARGUMENTS),
                env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": profile, "TMPDIR": profile},
                viewport={"width": WIDTH, "height": HEIGHT},
                accept_downloads=False,
                service_workers="block",
                timeout=PAGE_MS,
            )
        except Exception as error:
            await self.aclose()
            why = str(error).strip().split("\n")[0]
            raise UserError(f"The browser did not start ({why}); `playwright install chromium` fetches one.") from None
        self._stack.push_async_callback(context.close)
        context.set_default_timeout(ACTION_MS)
        context.on("page", self._follow)  # what opens in a new window is what is looked at
        self._page = context.pages[0] if context.pages else await context.new_page()

    def _follow(self, page: Any) -> None:
        self._page = page

    async def _seen(self, text: bool) -> ToolResult:
        page = self._page
        handle = await page.evaluate_handle(FIND)
        properties = await handle.get_properties()
        self._elements = [found for value in properties.values() if (found := value.as_element())]
        self._elements = self._elements[:MAX_ELEMENTS]
        shown = await page.evaluate(DESCRIBE, self._elements)
        title = _line(await page.title())
        words = (await page.evaluate("() => document.body ? document.body.innerText : ''"))[:PAGE_CHARACTERS]
        lines = tuple(part for part in wrapped(visible(words)))
        top, whole = await page.evaluate("() => [scrollY + innerHeight, document.documentElement.scrollHeight]")
        document = self.web.pages.add("web", page.url, title or page.url, lines or ("(no text)",)).document
        name = await self._screenshot(page)
        body = [title] if title else []
        body += [f"({number}) {_described(element)}" for number, element in enumerate(shown, 1)]
        body.append(f"(the window ends at {min(100, round(100 * top / max(1, whole)))}% of the page; picture {name})")
        body.append(format_open(document, 1, TEXT_CHARS) if text else f"(the text: open {document.id})")
        result = self.web.shown(self.web.pages.get(document.id), "\n".join(body))  # type: ignore[arg-type]
        return replace(result, files=(name,))

    async def _screenshot(self, page: Any) -> str:
        self._screens += 1
        place = beneath.place_in(self.workspace, f"screen-{self._screens}.png")
        assert place is not None
        picture = await page.screenshot(type="png", timeout=ACTION_MS)
        await asyncio.to_thread(beneath.write, place, picture)
        return place.shown

    def _why(self, error: Exception) -> str:
        hosts = re.findall(r"://([^/:\s]+)", str(error))
        if refused := next((text for text in reversed(self.proxy.refused) if any(h in text for h in hosts)), None):
            self.proxy.refused.clear()
            return refused
        said = str(error).strip().split("\n")[0].partition(": ")[2] or str(error)
        return f"The browser could not do this: {visible(said)[:300]}"

    def close(self) -> None:
        """End it, from another thread than its own."""
        if self._loop is not None and self._loop.is_running():
            asyncio.run_coroutine_threadsafe(self.aclose(), self._loop).result(30)

    async def aclose(self) -> None:
        self._page, self._elements = None, []
        stack, self._stack = self._stack, contextlib.AsyncExitStack()
        with contextlib.suppress(Exception):
            await stack.aclose()


async def _settle(page: Any) -> None:
    with contextlib.suppress(Exception):
        await page.wait_for_load_state("networkidle", timeout=SETTLE_MS)


def _line(text: str) -> str:
    return " ".join(visible(text).split())


def _described(element: dict[str, str]) -> str:
    value = f" = {shorten(_line(element['value']), 120)!r}" if element["kind"] not in ("link", "button") else ""
    return f"{element['kind']} {shorten(_line(element['name']), 100)!r}{value}"


def chromium() -> str | None:
    """OPENK2_CHROMIUM, else one that is installed, else None: playwright's own."""
    if named := os.environ.get("OPENK2_CHROMIUM"):
        return named
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


def browser_tools(web: Web, workspace: Path) -> dict[str, Tool]:
    """browse, click, type, scroll and back, over one browser."""
    browser = Browser(web, workspace)
    acts = tool(timeout=SECONDS, egress=True, untrusted=True)

    @acts
    async def browse(url: str) -> ToolResult:
        """Open a page in a browser; tells its text and what can be clicked or filled in, numbered, and takes a picture.

        Args:
            url: The address, beginning with https:// or http://.
        """
        return await browser.go(url)

    @acts
    async def click(element: int) -> ToolResult:
        """Click an element of the page in the browser.

        Args:
            element: Its number as it was last shown.
        """
        target = browser.element(element)

        async def action(page: Any) -> None:
            await target.click(timeout=ACTION_MS)
            await _settle(page)

        return await browser.act(action)

    @acts
    async def type(element: int, text: str, enter: bool = False) -> ToolResult:
        """Fill in a field of the page in the browser, or choose an option.

        Args:
            element: Its number as it was last shown.
            text: What it is to hold; of a choice, the option.
            enter: Press Enter after it.
        """
        target = browser.element(element)

        async def action(page: Any) -> None:
            if await target.evaluate("e => e.tagName") == "SELECT":
                await target.select_option(label=text, timeout=ACTION_MS)
            else:
                await target.fill(text, timeout=ACTION_MS)
            if enter:
                await target.press("Enter")
            await _settle(page)

        return await browser.act(action)

    @tool(timeout=SECONDS, untrusted=True)
    async def scroll(down: bool = True) -> ToolResult:
        """Scroll the page in the browser by a window.

        Args:
            down: Down, else up.
        """

        async def action(page: Any) -> None:
            await page.mouse.wheel(0, (HEIGHT - 80) * (1 if down else -1))
            await page.wait_for_timeout(300)

        return await browser.act(action, text=False)

    @acts
    async def back() -> ToolResult:
        """Go back to the page before in the browser."""

        async def action(page: Any) -> None:
            await page.go_back(timeout=PAGE_MS, wait_until="domcontentloaded")

        return await browser.act(action)

    return {made.name: replace(made, close=browser.close) for made in (browse, click, type, scroll, back)}
