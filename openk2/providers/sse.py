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
    data: list[str] = []
    async for chunk in chunks:
        *lines, buffer = _LINE_END.split(buffer + chunk)
        for line in lines:
            if not line and data:
                yield "\n".join(data)
                data = []
            elif line.startswith(b"data:"):
                data.append(_value(line))
    if buffer.startswith(b"data:"):
        data.append(_value(buffer.rstrip(b"\r")))
    if data:
        yield "\n".join(data)


def _value(line: bytes) -> str:
    return line[5:].removeprefix(b" ").decode("utf-8", "replace")
