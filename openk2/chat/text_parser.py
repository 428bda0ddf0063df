"""Text back to a message, for servers that give Kimi's markup as text instead of parsed fields.

In text, markup cannot be told from prose that quotes it, so a call is read only where its whole form stands:

    <|tool_call_begin|>functions.NAME:IDX<|tool_call_argument_begin|>arguments, then a marker that ends it or the end

(the prefix or the index may be missing; both, only before a JSON object). Everything else stays text: a marker in a
sentence, a section without a call, an id that is none. The section markers around calls are dropped. Inside a JSON
string of the arguments a marker is text too, as long as the JSON goes on to be valid. `<think>` counts at the very
start, `</think>` where thinking is open, `<|im_end|>` at the very end.

The message is a function of the whole text; how it was cut into pieces changes nothing. So the beginning of a marker
is held back until it is one or not, and a call until it is whole.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Collection
from typing import Literal

from openk2.chat.json_text import JsonText
from openk2.chat.messages import Message, ToolCall
from openk2.chat.parser import Kind, Piece, call_name

THINK, END_THINK = "<think>", "</think>"
BEGIN_SECTIONS = ("<|tool_calls_section_begin|>", "<|tool_call_section_begin|>")  # models write both
END_SECTIONS = ("<|tool_calls_section_end|>", "<|tool_call_section_end|>")
BEGIN_CALL, BEGIN_ARGUMENTS, END_CALL = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"
END_MESSAGE = "<|im_end|>"
MARKERS = (
    THINK, END_THINK, *BEGIN_SECTIONS, *END_SECTIONS, BEGIN_CALL, BEGIN_ARGUMENTS, END_CALL, END_MESSAGE,
)  # fmt: skip

SLICE = 4096  # characters looked at together: no step costs more, however long a text is fed at once
_LONGEST = max(map(len, MARKERS))
_NAME = r"[\w.\-/]{1,128}"
_ID = re.compile(rf"\s*(?:(?P<whole>functions\.{_NAME}(?::\d{{1,9}})?|{_NAME}:\d{{1,9}})|{_NAME})\s*")
_ID_BEGUN = re.compile(r"\s*[\w.\-/]*:?\d*\s*")
_LONGEST_ID = 200
_BLANKS = re.compile(r"\s*")
_CALL_ENDS = re.compile("|".join(map(re.escape, (END_CALL, BEGIN_CALL, *BEGIN_SECTIONS, *END_SECTIONS, END_MESSAGE))))
_TEXT_ENDS = re.compile("|".join(map(re.escape, (BEGIN_CALL, *BEGIN_SECTIONS, *END_SECTIONS, END_THINK, END_MESSAGE))))
_Verdict = Literal["markup", "text", "open"]  # open: what comes next decides


class TextParser:
    """Feed the text of one assistant message; `finish()` gives the whole message.

    `thinking`: the text starts inside the thinking (the prompt ended with `<think>`, or the text is a server's
    reasoning field). `calls` False reads no calls: for a request without tools, in which every marker is prose.
    `names` are the tools there are: what looks like a call of another is prose too. None reads calls of any name.
    """

    def __init__(self, *, thinking: bool = False, calls: bool = True, names: Collection[str] | None = None) -> None:
        self._read_calls, self._names = calls, names
        self._state: Kind = "reasoning" if thinking else "content"
        self._open_think = self._thought = thinking
        self._started = False
        self._in_section = False
        self._behind_call = False
        self._call: _Call | None = None
        self._texts: dict[str, list[str]] = {"reasoning": [], "content": []}
        self._calls: list[ToolCall] = []
        self._queue: deque[str] = deque()
        self._buffer, self._at = "", 0  # what is looked at, and from where on
        self._finishing = False
        self._pieces: list[Piece] = []
        self.finished: list[Piece] = []

    def feed(self, text: str) -> list[Piece]:
        """Take the next text; return what became certain. A call comes whole, as its id and its arguments."""
        self._queue.extend(text[i : i + SLICE] for i in range(0, len(text), SLICE))
        return self._run()

    def finish(self) -> Message:
        """The message of everything fed. The pieces that only the end made certain are in `finished`."""
        self._finishing = True
        self.finished = self._run()
        return Message(
            "assistant",
            content="".join(self._texts["content"]),
            reasoning="".join(self._texts["reasoning"]) if self._thought else None,
            tool_calls=tuple(self._calls),
        )

    def _run(self) -> list[Piece]:
        self._pieces = []
        while True:
            step = self._arguments if self._call else self._between if self._behind_call else self._text
            if step():
                continue
            self._buffer, self._at = self._buffer[self._at :], 0
            if not self._queue:
                return self._pieces
            self._buffer += self._queue.popleft()

    @property
    def _last(self) -> bool:
        """Nothing comes behind the buffer."""
        return self._finishing and not self._queue

    def _text(self) -> bool:
        """Reasoning or content up to the next marker. Like every step: False if it needs more text to go on."""
        if not self._started:
            start = self._blanks(self._at)
            if self._buffer.startswith(THINK, start):
                self._at = start + len(THINK)
                self._state, self._open_think, self._thought = "reasoning", True, True
            elif self._may_become(start, THINK):
                return False
            self._started = True
        marker = _TEXT_ENDS.search(self._buffer, self._at)
        if marker is None:
            end = self._certain()
            self._emit(self._buffer[self._at : end])
            self._at = end
            return False
        self._emit(self._buffer[self._at : marker.start()])
        self._at = marker.start()
        verdict = self._judge(marker.group())
        if verdict == "text":
            self._emit(marker.group())
        if verdict != "open" and self._at == marker.start():
            self._at = marker.end()
        return verdict != "open"

    def _judge(self, marker: str) -> _Verdict:
        """What a marker at the current place in text is; a call's beginning is taken in."""
        if marker == END_THINK:
            if not self._open_think:
                return "text"
            self._state, self._open_think = "content", False
            return "markup"
        if marker == END_MESSAGE:
            return self._judge_end(self._at)
        if marker in END_SECTIONS:
            was_open, self._in_section = self._in_section, False
            return "markup" if was_open else "text"
        return self._judge_call(self._at)

    def _judge_end(self, at: int) -> _Verdict:
        end = self._blanks(at + len(END_MESSAGE))
        if end < len(self._buffer):
            return "text"
        if not self._last:
            return "open"
        self._at = end
        return "markup"

    def _judge_call(self, at: int) -> _Verdict:
        """Does a whole call begin here? If so, go on to its arguments."""
        if not self._read_calls:
            return "text"
        buffer = self._buffer
        section = next((s for s in BEGIN_SECTIONS if buffer.startswith(s, at)), None)
        if section:
            at = self._blanks(at + len(section))
            if not buffer.startswith(BEGIN_CALL, at):
                return "open" if self._may_become(at, BEGIN_CALL) else "text"
        at += len(BEGIN_CALL)
        bracket = buffer.find("<", at)
        head = buffer[at : bracket if bracket >= 0 else len(buffer)]
        if len(head) > _LONGEST_ID or not (_ID_BEGUN if bracket < 0 else _ID).fullmatch(head):
            return "text"
        if bracket < 0:
            return "text" if self._last else "open"
        if not buffer.startswith(BEGIN_ARGUMENTS, bracket):
            return "open" if self._may_become(bracket, BEGIN_ARGUMENTS) else "text"
        at = bracket + len(BEGIN_ARGUMENTS)
        match = _ID.fullmatch(head)
        if self._names is not None and call_name(head) not in self._names:
            return "text"
        if match and not match["whole"]:  # a bare name: only an object behind it makes it a call
            value = self._blanks(at)
            if value == len(buffer) and not self._last:
                return "open"
            if not buffer.startswith("{", value):
                return "text"
        self._call = _Call(head.strip())
        self._at = at
        self._in_section = self._in_section or section is not None
        self._behind_call = False
        self._state = "content"  # a model may open a section while it still thinks
        return "markup"

    def _arguments(self) -> bool:
        call = self._call
        assert call is not None
        marker = _CALL_ENDS.search(self._buffer, self._at)
        end = marker.start() if marker else self._certain()
        call.add(self._buffer[self._at : end])
        self._at = end
        if call.mark is not None and (call.json.invalid or (marker is None and self._last)):
            self._close(call.mark)  # the string that held a marker was none
        elif marker is None and self._last:
            self._close(call.json.end if call.json.end is not None else call.size)
        elif marker is None:
            return False
        elif call.json.in_string:
            call.mark = call.size if call.mark is None else call.mark
            call.add(marker.group())
            self._at = marker.end()
        else:
            self._close(call.size)
        return True

    def _close(self, size: int) -> None:
        """The call's arguments are the first `size` characters behind its id; what is behind them is read again."""
        call = self._call
        assert call is not None
        text = "".join(call.parts)
        rest = text[size:]
        if rest:
            again = rest + self._buffer[self._at :]
            self._queue.extendleft(again[i : i + SLICE] for i in reversed(range(0, len(again), SLICE)))
            self._buffer, self._at = "", 0
            self._buffer = self._queue.popleft()
        if self._buffer.startswith(END_CALL, self._at):
            self._at += len(END_CALL)
        self._calls.append(ToolCall(call.id, call_name(call.id), text[:size]))
        self._pieces += [Piece("call_id", call.id), Piece("call_arguments", text[:size])]
        self._call, self._behind_call = None, True

    def _between(self) -> bool:
        """Behind a call: the next one, the end of the section, or text. Blanks before markers are dropped."""
        start = self._blanks(self._at)
        if start == len(self._buffer):
            if self._last:
                self._at, self._behind_call = start, False
            return False
        for marker in END_SECTIONS:
            if self._buffer.startswith(marker, start):
                self._at, self._in_section, self._behind_call = start + len(marker), False, False
                return True
        verdict: _Verdict = "text"
        if self._buffer.startswith((BEGIN_CALL, *BEGIN_SECTIONS), start):
            verdict = self._judge_call(start)
        elif self._buffer.startswith(END_MESSAGE, start):
            verdict = self._judge_end(start)
        elif self._may_become(start, BEGIN_CALL, *BEGIN_SECTIONS, *END_SECTIONS, END_MESSAGE):
            return False
        if verdict == "text":
            self._behind_call = False
        return verdict != "open"

    def _emit(self, text: str) -> None:
        if text:
            self._texts[self._state].append(text)
            self._pieces.append(Piece(self._state, text))

    def _blanks(self, at: int) -> int:
        """Where the blanks from `at` on end."""
        match = _BLANKS.match(self._buffer, at)
        return match.end() if match else at

    def _may_become(self, at: int, *markers: str) -> bool:
        """Whether the rest of the buffer is the beginning of a marker (or empty) and more text may come."""
        rest = self._buffer[at : at + _LONGEST]
        return not self._last and any(marker.startswith(rest) for marker in markers)

    def _certain(self) -> int:
        """The end of what is no beginning of a marker."""
        if not self._last:
            bracket = self._buffer.rfind("<", max(self._at, len(self._buffer) - _LONGEST))
            if bracket >= 0 and self._may_become(bracket, *MARKERS):
                return bracket
        return len(self._buffer)


class _Call:
    """A call whose arguments are being read. `mark`: where the first marker stood that a JSON string may hold."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.json = JsonText()
        self.parts: list[str] = []
        self.size = 0
        self.mark: int | None = None

    def add(self, text: str) -> None:
        self.parts.append(text)
        self.size += len(text)
        self.json.feed(text)
