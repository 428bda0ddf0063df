"""An HTTP server that fails in every way a script asks for: it writes bytes, waits, and breaks off where told.

`FaultServer(answer)` runs in a thread of its own. `answer(server, request)` gives the steps of one answer: bytes to
write, seconds to wait (a float), `RESET` to break the connection, `HANG` to say nothing more. `http` and `events` make
the bytes of the usual answers; `cut` gives the first so many bytes of one.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any

RESET, HANG = "reset", "hang"
Step = bytes | float | str


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body)


Answer = Callable[["FaultServer", Request], Iterable[Step]]


class FaultServer:
    """`requests` are the POSTs so far; a GET gets the list of `models`, with `about` each, and is not kept."""

    def __init__(self, answer: Answer, models: Sequence[str] = ("stub",), **about: Any) -> None:
        self.answer, self.models, self.about = answer, models, about
        self.requests: list[Request] = []
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        ready.wait()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> FaultServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**26))
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await _read(reader):
                if request.method == "GET":
                    steps: Iterable[Step] = [
                        http(200, json.dumps({"data": [{"id": n, **self.about} for n in self.models]}))
                    ]
                else:
                    self.requests.append(request)
                    steps = self.answer(self, request)
                for step in steps:
                    if step == RESET:
                        writer.transport.abort()
                        return
                    if step == HANG:
                        await asyncio.sleep(3600)
                    elif isinstance(step, bytes):
                        writer.write(step)
                        await writer.drain()
                    else:
                        await asyncio.sleep(float(step))
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


def http(status: int, body: str | bytes = b"", headers: dict[str, str] | None = None) -> bytes:
    """A whole answer; JSON unless the headers say otherwise."""
    data = body.encode() if isinstance(body, str) else body
    given = {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"HTTP/1.1 {status} X\r\n{head}\r\n".encode() + data


def events(chunks: Iterable[Any], *, ends: bool = True) -> list[bytes]:
    """A stream in HTTP chunks: each a JSON event, or bytes as they are. Without `ends` the last chunk is missing."""
    out = [b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"]
    for chunk in chunks:
        data = chunk if isinstance(chunk, bytes) else sse(chunk)
        out.append(b"%x\r\n%b\r\n" % (len(data), data))
    return [*out, b"0\r\n\r\n"] if ends else out


def sse(event: dict[str, Any]) -> bytes:
    head = f"event: {event['type']}\n" if isinstance(event.get("type"), str) else ""
    return f"{head}data: {json.dumps(event, ensure_ascii=False)}\n\n".encode()


def cut(steps: Sequence[bytes], size: int) -> bytes:
    """The first `size` bytes of an answer; follow it with RESET."""
    return b"".join(steps)[:size]


async def _read(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines) if name}
    method, path, _ = first.split(" ")
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(method, path, headers, body)


# What passes when it is tried again.
PASSING: dict[str, Sequence[Step]] = {
    "rate limit": [http(429, '{"error": {"message": "slow down"}}')],
    "rate limit, seconds": [http(429, "{}", {"Retry-After": "0.02"})],
    "rate limit, date": [http(429, "{}", {"Retry-After": formatdate(time.time(), usegmt=True)})],
    "rate limit, milliseconds": [http(429, "{}", {"retry-after-ms": "20"})],
    "server error": [http(500, '{"error": {"message": "oops"}}')],
    "bad gateway": [http(502, "<html><title>502 Bad Gateway</title></html>", {"Content-Type": "text/html"})],
    "busy": [http(503, "")],
    "overloaded": [http(529, '{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}')],
    "conflict": [http(409, "{}")],
    "asked to retry": [http(400, "{}", {"x-should-retry": "true"})],
    "bad JSON": events([b'data: {"choices": [{"delta"\n\n']),
    "no reply": events([]),
    "no body": [http(200, "", {"Content-Type": "text/event-stream"})],
    "empty object": [http(200, "{}")],
    "half a JSON answer": [http(200, '{"choices": [{"mess')],
    "only comments": events([b": keep-alive\n\n"] * 3),
    "reset at once": [RESET],
    "reset in the headers": [b"HTTP/1.1 200 OK\r\nContent-Ty", RESET],
    "error in the stream": events([{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}]),
}
