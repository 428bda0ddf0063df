"""`python -m openk2.bench.agent_server STEPS`: a chat-completions server with a script, which measures its clients.

Each session (`/SESSION/v1/chat/completions`) is asked STEPS times for a call and then for the answer. What a client
needs for a step is the time between the end of one reply and the arrival of the whole next request, seen from here.
`GET /SESSION/report` tells the times and how many of the thoughts the last request has sent back, byte for byte.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from typing import Any

REASONING = 400  # characters of a thought
PIECES = 4  # in which it is streamed


@dataclass
class Session:
    steps: int = 0
    ended: float = 0.0
    gaps: list[float] = field(default_factory=list)  # seconds
    last: bytes = b""


def thought(session: str, step: int) -> str:
    """What the model thinks at a step: no two are alike, and quotes and other signs are in it."""
    head = f'{session} thought {step}: "é" \\ – '
    return head + "".join(chr(97 + (step * 7 + i * i) % 26) for i in range(REASONING - len(head)))


class Server:
    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.sessions: dict[str, Session] = {}

    async def serve(self) -> None:
        server = await asyncio.start_server(self._client, "127.0.0.1", 0, limit=1 << 24)
        print(server.sockets[0].getsockname()[1], flush=True)
        async with server:
            await server.serve_forever()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                method, path, _ = head.split(" ", 2)
                name = path.strip("/").partition("/")[0]
                length = next(
                    (int(line[15:]) for line in head.split("\r\n") if line.lower().startswith("content-length:")), 0
                )
                body = await reader.readexactly(length)
                arrived = time.perf_counter()
                if method == "GET":
                    writer.write(_whole(self._report(name) if path.endswith("report") else {"data": [{"id": "stub"}]}))
                else:
                    session = self.sessions.setdefault(name, Session())
                    if session.ended:
                        session.gaps.append(arrived - session.ended)
                    session.last = body
                    writer.write(_stream(self._chunks(name, session.steps)))
                    session.steps += 1
                await writer.drain()
                if method == "POST":
                    self.sessions[name].ended = time.perf_counter()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    def _chunks(self, name: str, step: int) -> list[dict[str, Any]]:
        text = thought(name, step)
        size = REASONING // PIECES
        parts: list[dict[str, Any]] = [{"reasoning_content": text[i : i + size]} for i in range(0, REASONING, size)]
        if step < self.steps:
            call = {"index": 0, "id": f"functions.work:{step}", "type": "function",
                    "function": {"name": "work", "arguments": ""}}  # fmt: skip
            parts.append({"tool_calls": [call]})
            parts += [
                {"tool_calls": [{"index": 0, "function": {"arguments": part}}]} for part in ('{"n": ', f"{step}}}")
            ]
        else:
            parts.append({"content": "All done."})
        chunks = [_chunk(delta=part) for part in ({"role": "assistant", "content": None}, *parts)]
        chunks.append(_chunk(finish="tool_calls" if step < self.steps else "stop"))
        usage = {"prompt_tokens": 100 + 250 * step, "completion_tokens": 120, "total_tokens": 220 + 250 * step}
        chunks.append({**_chunk(), "choices": [], "usage": usage})
        return chunks

    def _report(self, name: str) -> dict[str, Any]:
        session = self.sessions[name]
        given = [message.get("reasoning_content") for message in json.loads(session.last)["messages"]]
        back = sum(thought(name, step) in given for step in range(self.steps))
        return {"steps": session.steps, "gaps": session.gaps, "back": back}


def _chunk(delta: dict[str, Any] | None = None, finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish}
    return {
        "id": "1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "kimi-k2-thinking",
        "choices": [choice],
    }


def _stream(chunks: list[dict[str, Any]]) -> bytes:
    data = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        + f"{len(data):x}\r\n".encode() + data + b"\r\n0\r\n\r\n"
    )  # fmt: skip


def _whole(value: Any) -> bytes:
    data = json.dumps(value).encode()
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        + f"Content-Length: {len(data)}\r\n\r\n".encode()
        + data
    )


if __name__ == "__main__":
    asyncio.run(Server(int(sys.argv[1])).serve())
