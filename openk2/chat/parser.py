"""Token ids back to a message: reasoning, content and tool calls, piece by piece while they are sampled.

Only ids are markup: the text `</think>` inside a page or an answer changes nothing. A model may open a tool section
while it still thinks; the first tool marker ends the thinking. Nothing a model writes is lost or raises: a call that
is cut off or malformed comes back with its text as written, text between the calls of a section is content, and only
blanks between markers are dropped. `chat/text_parser.py` reads replies of servers that give text without ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from openk2.chat.messages import Message, ToolCall
from openk2.chat.tokenizer import Tokenizer

ENDS = ("<|im_end|>", "[EOS]", "[EOT]")  # special tokens that end a message
Kind = Literal["reasoning", "content", "call_id", "call_arguments"]


@dataclass(frozen=True, slots=True)
class Piece:
    kind: Kind
    text: str


class Parser:
    """Feed the ids of one assistant message, from `<think>` on; `finish()` gives the whole message.

    `thinking`: the prompt ended with `<think>` already, as templates after K2 Thinking's write it.
    """

    def __init__(self, tok: Tokenizer, *, thinking: bool = False) -> None:
        self._tok = tok
        name = tok.special
        self._think, self._end_think = name["<think>"], name["</think>"]
        self._begin_section = name["<|tool_calls_section_begin|>"]
        self._end_section = name["<|tool_calls_section_end|>"]
        self._begin_call, self._end_call = name["<|tool_call_begin|>"], name["<|tool_call_end|>"]
        self._begin_arguments = name["<|tool_call_argument_begin|>"]
        self._ends = {name[end] for end in ENDS}
        self._ids: list[int] = []
        self._texts: dict[str, list[str]] = {"reasoning": [], "content": [], "call_id": [], "call_arguments": []}
        self._state: Kind = "reasoning" if thinking else "content"
        self._in_section = False
        self._held: list[str] | None = None  # text behind a call: the next id, if its marker is missing, or content
        self._thought = thinking
        self._calls: list[ToolCall] = []
        self._stream = tok.text_stream()
        self.ended = False

    def feed(self, token: int) -> list[Piece]:
        """Take one sampled id; return the text that became certain. Ids after the end of the message are ignored."""
        if self.ended:
            return []
        self._ids.append(token)
        if not self._tok.is_special(token):
            return self._emit(self._stream.feed(token))
        return self._emit(self._stream.flush()) + self._mark(token)

    @property
    def thinking(self) -> bool:
        return self._state == "reasoning" and not self.ended

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The calls that are complete so far."""
        return tuple(self._calls)

    def finish(self) -> Message:
        """The message of everything fed. A call that was cut off or malformed is kept with its text as written."""
        self._emit(self._stream.flush())
        self._release("content")
        self._close_call()
        text = {kind: "".join(parts) for kind, parts in self._texts.items()}
        return Message(
            "assistant",
            content=text["content"],
            reasoning=text["reasoning"] if self._thought else None,
            tool_calls=tuple(self._calls),
            token_ids=tuple(self._ids),
        )

    def _emit(self, text: str) -> list[Piece]:
        if not text:
            return []
        if self._held is not None:
            self._held.append(text)
            return []
        self._texts[self._state].append(text)
        return [Piece(self._state, text)]

    def _mark(self, token: int) -> list[Piece]:
        """Change state at a special id; specials that have no meaning in a message are dropped from its text."""
        if token == self._begin_arguments:
            released = self._release("call_id")
            self._in_section = True
            self._state = "call_arguments"
        elif token in self._ends:
            released = self._release("content")
            self._close_call()
            self.ended = True
        elif token == self._think:
            released = self._release("content")
            self._close_call()
            self._thought = True
            self._state = "reasoning"
        elif token in (self._end_think, self._end_section):
            released = self._release("content")
            self._close_call()
            self._in_section = False
            self._state = "content"
        elif token in (self._begin_section, self._begin_call):
            released = self._release("content")
            self._close_call()
            self._in_section = True
            self._state = "call_id"
        elif token == self._end_call and self._in_section:
            released = self._release("content")
            self._close_call()
            self._held = []
        else:
            released = []
        return released

    def _release(self, kind: Kind) -> list[Piece]:
        """Give the text held back behind a call to where it belongs; blanks belong nowhere."""
        text = "".join(self._held or ())
        self._held = None
        if not text.strip():
            return []
        self._texts[kind].append(text)
        return [Piece(kind, text)]

    def _close_call(self) -> None:
        """Keep the call written so far, if any; text at the start of a section counts as a malformed call."""
        call_id = "".join(self._texts["call_id"])
        arguments = "".join(self._texts["call_arguments"])
        self._texts["call_id"], self._texts["call_arguments"] = [], []
        if call_id.strip() or arguments.strip():
            self._calls.append(ToolCall(call_id.strip(), call_name(call_id), arguments))


def call_name(call_id: str) -> str:
    """The tool's name in an id `functions.NAME:IDX`; an id of another form is taken as the name itself."""
    name, colon, index = call_id.strip().rpartition(":")
    if not colon or not index.strip().isdigit():
        name = call_id.strip()
    return name.removeprefix("functions.").strip()
