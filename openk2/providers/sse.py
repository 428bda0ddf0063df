"""Server-sent events: the `data` of each event from a stream of bytes.

Lines end only at CR or LF. `str.splitlines`, which HTTP libraries use, also cuts at U+2028 and others, and JSON may
hold those unescaped.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

_LINE_END = re.compile(rb"\r\n|\n|\r(?=[^\n])")


async def events(chunks: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """Yield the data of each event; comments and other fields are passed over."""
    buffer = b""
    pieces: list[bytes] = []  # of a line whose end has not come: a long one must not be searched again for each
    data: list[str] = []
    async for chunk in chunks:
        pieces.append(chunk)
        if b"\n" not in chunk and b"\r" not in chunk and not buffer.endswith(b"\r"):
            continue
        *lines, buffer = _LINE_END.split(buffer + b"".join(pieces))
        pieces = []
        for line in lines:
            if not line and data:
                yield "\n".join(data)
                data = []
            elif line.startswith(b"data:"):
                data.append(_value(line))
    buffer += b"".join(pieces)
    if buffer.startswith(b"data:"):
        data.append(_value(buffer.rstrip(b"\r")))
    if data:
        yield "\n".join(data)


def _value(line: bytes) -> str:
    return line[5:].removeprefix(b" ").decode("utf-8", "replace")
