"""What a person types while a run works: answers to questions, and lines said to the model.

On a terminal alone. While lines may be typed the terminal does not echo; what is typed is shown by `show`, so that it
and the model's text do not run into each other.
"""

from __future__ import annotations

import asyncio
import codecs
import os
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def present() -> bool:
    """Whether a person can be asked: what they type and what they read are terminals."""
    return sys.stdin.isatty() and sys.stderr.isatty()


async def read_line() -> str | None:
    """One line from the terminal, without its end; None at the end of input (Ctrl-D). Can be cancelled."""
    loop, handle = asyncio.get_running_loop(), sys.stdin.fileno()
    line: asyncio.Future[bytes] = loop.create_future()

    def ready() -> None:
        if not line.done():
            line.set_result(os.read(handle, 65536))

    loop.add_reader(handle, ready)
    try:
        data = await line
    finally:
        loop.remove_reader(handle)
    return data.decode("utf-8", "replace").rstrip("\r\n") if data else None


class Typing:
    """Lines that are typed while something else is going on.

    `say` gets each whole line, `show` what is typed of the next one (None: nothing is).
    """

    def __init__(self, say: Callable[[str], None], show: Callable[[str | None], None]) -> None:
        self._say, self._show = say, show
        self._text = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._depth = 0
        self._before: list[Any] = []

    @contextmanager
    def listening(self) -> Iterator[None]:
        self._begin()
        try:
            yield
        finally:
            self._end()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The terminal as it was, for a question in between."""
        listened = bool(self._before)
        self._end()
        try:
            yield
        finally:
            if listened:
                self._begin()

    def _begin(self) -> None:
        handle = sys.stdin.fileno()
        self._before = termios.tcgetattr(handle)
        tty.setcbreak(handle, termios.TCSADRAIN)  # keys one by one and unseen; Ctrl-C still interrupts
        asyncio.get_running_loop().add_reader(handle, self._ready)

    def _end(self) -> None:
        if not self._before:
            return
        handle = sys.stdin.fileno()
        asyncio.get_running_loop().remove_reader(handle)
        termios.tcsetattr(handle, termios.TCSADRAIN, self._before)
        self._before = []
        if self._text:
            self._text = ""
            self._show(None)

    def _ready(self) -> None:
        self.feed(self._decoder.decode(os.read(sys.stdin.fileno(), 65536)))

    def feed(self, typed: str) -> None:
        """Keys: Enter ends a line, Backspace takes one back, Ctrl-U and Escape all of it."""
        if len(typed) > 1 and typed.startswith("\x1b"):  # an arrow or another key that writes nothing
            return
        for key in typed:
            if key in "\r\n":
                line, self._text = self._text.strip(), ""
                self._show(None)
                if line:
                    self._say(line)
                continue
            if key in "\x7f\b":
                self._text = self._text[:-1]
            elif key in "\x15\x1b":
                self._text = ""
            elif key.isprintable():
                self._text += key
            self._show(self._text or None)
