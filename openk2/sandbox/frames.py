"""What host and box say to each other: length-prefixed JSON, and a cap on how much of an output is kept."""

from __future__ import annotations

TYPE_CHECKING = False  # as in `typing`, which is slow to import and needed by type checkers only
if TYPE_CHECKING:
    from typing import Any


def encode(frame: dict[str, Any]) -> bytes:
    """A frame on the wire: four bytes of length, then JSON."""
    import json

    data = json.dumps(frame).encode()
    return len(data).to_bytes(4, "big") + data


class Frames:
    """Cuts a byte stream back into frames. Raises ValueError for a frame longer than `limit` or not a JSON object."""

    def __init__(self, limit: int):
        self._limit = limit
        self._data = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        import json

        self._data += data
        frames = []
        while len(self._data) >= 4:
            size = int.from_bytes(self._data[:4], "big")
            if size > self._limit:
                raise ValueError(f"a frame of {size} bytes")
            if len(self._data) < 4 + size:
                break
            frame = json.loads(self._data[4 : 4 + size])
            if not isinstance(frame, dict):
                raise ValueError("a frame that is not an object")
            frames.append(frame)
            del self._data[: 4 + size]
        return frames


class Capped:
    """Keeps the beginning and the end of a byte stream of any length, and counts the rest."""

    def __init__(self, limit: int):
        self._head_size, self._tail_size = limit * 2 // 3, limit - limit * 2 // 3
        self._head, self._tail = bytearray(), bytearray()
        self.total = 0

    def feed(self, data: bytes) -> None:
        self.total += len(data)
        room = self._head_size - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        if len(self._tail) > 4 * self._tail_size + (1 << 16):
            self._trim()

    def _trim(self) -> None:
        del self._tail[: max(0, len(self._tail) - self._tail_size)]

    def text(self) -> str:
        self._trim()
        left_out = self.total - len(self._head) - len(self._tail)
        middle = f"\n… ({left_out} bytes left out) …\n" if left_out else ""
        if not middle:
            return (self._head + self._tail).decode("utf-8", "replace")
        return self._head.decode("utf-8", "replace") + middle + self._tail.decode("utf-8", "replace")
