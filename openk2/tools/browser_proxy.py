"""The browser's only way out: a proxy on this machine that connects to judged addresses (`openk2.net`).

Chromium resolves nothing itself: every connection of a page, its images, its scripts and its WebSockets asks here by
name. HTTPS passes unread (CONNECT); of plain HTTP one request a connection is passed on.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Sequence

import httpx

from openk2 import net

HEAD_LIMIT = 64 << 10  # bytes of a request's head
HEAD_SECONDS = 15.0
CONNECT_SECONDS = 10.0
IDLE_SECONDS = 300.0
_TO_US = re.compile(rb"(?:proxy-[^:]*|connection|keep-alive|te):[^\r\n]*\r\n", re.IGNORECASE)


class BrowserProxy:
    """Serves from `start` to `aclose`. `allow` and `resolve` are those of `net.addresses`."""

    def __init__(self, allow: Sequence[str] = (), resolve: net.Resolve = net.system_resolver) -> None:
        self.allow, self.resolve = tuple(allow), resolve
        self.refused: list[str] = []  # what was asked for and not reached, the last ones
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> str:
        """Listen, and return the proxy's URL."""
        self._server = await asyncio.start_server(self._client, "127.0.0.1", 0, limit=HEAD_LIMIT)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def aclose(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            async with asyncio.timeout(HEAD_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
            await self._pass(head, reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            pass
        finally:
            writer.close()

    async def _pass(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, _, rest = head.partition(b"\r\n")
        match = re.fullmatch(rb"([A-Z]{1,20}) ([\x21-\x7e]{1,8192}) HTTP/1\.[01]", line)
        try:
            if match is None:
                raise net.Refused("The request is not one to a proxy.")
            tunnel = match[1] == b"CONNECT"
            target = match[2].decode("ascii")
            url = net.checked(f"https://{target}/" if tunnel else target)
            if not tunnel and url.scheme != "http":
                raise net.Refused("A proxy takes http:// URLs, and CONNECT for https.")
            there, back = await self._connected(url, 443 if tunnel else 80)
        except net.Refused as refused:
            self.refused = [*self.refused[-19:], str(refused)]
            body = f"{refused}\n".encode()
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\nConnection: close\r\n")
            writer.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
            return
        try:
            if tunnel:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                kept = _TO_US.sub(b"", rest)
                back.write(match[1] + b" " + url.raw_path + b" HTTP/1.1\r\nConnection: close\r\n" + kept)
            await asyncio.gather(_copy(reader, back), _copy(there, writer))
        finally:
            back.close()

    async def _connected(self, url: httpx.URL, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        port = url.port or port
        places = await asyncio.to_thread(net.addresses, url.host, port, self.allow, self.resolve)
        for place in places[:4]:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(CONNECT_SECONDS):
                    return await asyncio.open_connection(place, port)
        raise net.Refused(f"The host {url.host} did not answer.")


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while True:
            async with asyncio.timeout(IDLE_SECONDS):
                data = await source.read(1 << 16)
            if not data:
                break
            target.write(data)
            await target.drain()
        if target.can_write_eof():
            target.write_eof()
    except (OSError, TimeoutError, RuntimeError):
        target.close()
