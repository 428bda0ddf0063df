"""Where a JSON text that is still growing stands: inside a string, complete, or no JSON any more."""

from __future__ import annotations

import re
from typing import Literal

_PLAIN = re.compile(r'[^"\\]*')
_ATOM = re.compile(r"[-+.\w]+")
_VALUE = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|true|false|null")
_Expected = Literal["value", "value or ]", "key", "key or }", ":", ", or end", "end"]


class JsonText:
    """Feed a text in any pieces. Strings may hold raw line breaks, which models write and strict JSON forbids."""

    def __init__(self) -> None:
        self.in_string = False
        self.invalid = False
        self.end: int | None = None  # characters fed when the value was complete
        self._open: list[str] = []
        self._expected: _Expected = "value"
        self._escaped = False
        self._atom = ""
        self._size = 0

    def feed(self, text: str) -> None:
        at = 0
        while at < len(text) and not self.invalid:
            at = self._in_string(text, at) if self.in_string else self._outside(text, at)
        self._size += len(text)

    def _in_string(self, text: str, at: int) -> int:
        if self._escaped:
            self._escaped = False
            return at + 1
        plain = _PLAIN.match(text, at)
        assert plain is not None  # it may be empty
        at = plain.end()
        if at == len(text):
            return at
        if text[at] == "\\":
            self._escaped = True
        else:
            self.in_string = False
            if self._expected in ("key", "key or }"):
                self._expected = ":"
            else:
                self._complete(at + 1)
        return at + 1

    def _outside(self, text: str, at: int) -> int:
        if atom := _ATOM.match(text, at):
            self._atom += atom.group()
            self.invalid = self._expected not in ("value", "value or ]")
            return atom.end()
        if self._atom:  # a number or a word has ended
            self.invalid = not _VALUE.fullmatch(self._atom)
            self._atom = ""
            self._complete(at)
        char = text[at]
        if char not in " \t\r\n":
            self._punctuation(char, at + 1)
        return at + 1

    def _punctuation(self, char: str, end: int) -> None:
        expected = self._expected
        if char == '"' and expected in ("value", "value or ]", "key", "key or }"):
            self.in_string = True
        elif char in "{[" and expected in ("value", "value or ]"):
            self._open.append(char)
            self._expected = "key or }" if char == "{" else "value or ]"
        elif char == ":" and expected == ":":
            self._expected = "value"
        elif char == "," and expected == ", or end":
            self._expected = "key" if self._open[-1] == "{" else "value"
        elif (char == "}" and self._open[-1:] == ["{"] and expected in ("key or }", ", or end")) or (
            char == "]" and self._open[-1:] == ["["] and expected in ("value or ]", ", or end")
        ):
            self._open.pop()
            self._complete(end)
        else:
            self.invalid = True

    def _complete(self, end: int) -> None:
        """A value ended `end` characters into the text being fed."""
        self._expected = ", or end" if self._open else "end"
        if not self._open:
            self.end = self._size + end
