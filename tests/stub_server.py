"""A chat-completions server in this process: answers from a script, and keeps every request it was sent."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[["StubServer", dict[str, Any]], Any]


class StubServer(ThreadingHTTPServer):
    """`answer(server, request)` returns chunks to stream, or `(status, body[, headers])`."""

    daemon_threads = True

    def __init__(self, answer: Answer, models: Sequence[str] = ("stub",)) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self.models = answer, models
        self.requests: list[dict[str, Any]] = []
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is part of several tests."""

    def __enter__(self) -> StubServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StubServer  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        self._send(200, json.dumps({"data": [{"id": name} for name in self.server.models]}).encode(), {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.bodies.append(body)
        self.server.requests.append(json.loads(body))
        self.server.headers.append(dict(self.headers))
        answer = self.server.answer(self.server, self.server.requests[-1])
        if isinstance(answer, tuple):
            status, text, *headers = answer
            self._send(status, text.encode(), headers[0] if headers else {})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for chunk in answer:
            if isinstance(chunk, float):
                time.sleep(chunk)
            else:
                data = (
                    chunk if isinstance(chunk, bytes) else f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n".encode()
                )
                self.wfile.write(data)
                self.wfile.flush()
        self.close_connection = True

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


DONE = b"data: [DONE]\n\n"


def delta(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


def finish(reason: str, **usage: Any) -> dict[str, Any]:
    chunk: dict[str, Any] = {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
    return {**chunk, "usage": usage} if usage else chunk


def said(content: str, reasoning: str = "", pieces: int = 3) -> list[Any]:
    """A final answer, streamed in pieces."""
    chunks: list[Any] = [delta(role="assistant", content="")]
    for name, text in (("reasoning_content", reasoning), ("content", content)):
        size = max(1, -(-len(text) // pieces))
        chunks += [delta(**{name: text[i : i + size]}) for i in range(0, len(text), size)]
    return [*chunks, finish("stop", prompt_tokens=10, completion_tokens=5), DONE]


def called(*calls: tuple[str, str, str], reasoning: str = "") -> list[Any]:
    """Calls as (id, name, arguments), streamed by index, each call's arguments in two pieces."""
    chunks: list[Any] = (
        [delta(reasoning_content=reasoning[:5]), delta(reasoning_content=reasoning[5:])] if reasoning else []
    )
    for index, (id, name, arguments) in enumerate(calls):
        head = {"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": ""}}
        half = len(arguments) // 2
        chunks.append(delta(tool_calls=[head]))
        chunks += [
            delta(tool_calls=[{"index": index, "function": {"arguments": part}}])
            for part in (arguments[:half], arguments[half:])
        ]
    return [*chunks, finish("tool_calls", prompt_tokens=10, completion_tokens=5), DONE]
