"""Replies that are valid by construction: which ids may come next, given the tools of a request.

A reply is prose, markup and arguments, and each has its own keeper:

- prose (thinking and content) is free. Only special ids are looked at, so it costs one comparison a token; no mask is
  made. A message may think once, at its beginning; it ends neither inside its thinking nor empty.
- markup is an automaton over ids. A call's head is one of the texts `functions.NAME:IDX` in the tokenizer's own ids,
  IDX the next number of the conversation; a section holds at least one call, is closed, and only the end follows it.
- arguments follow the tool's schema (`chat/arguments.py`).

Where one id alone is possible it is `forced` and the model is not asked. A call is begun only if its shortest form
still fits the token limit, and brought to its end in time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from openk2.chat.arguments import Arguments, Vocabulary
from openk2.chat.messages import ToolSpec
from openk2.chat.parser import ENDS, call_name
from openk2.errors import UserError

if TYPE_CHECKING:
    import llguidance

    from openk2.chat.tokenizer import TextStream

MARGIN = 4  # ids left over when a call is brought to its end
AFTER_ARGUMENTS = 3  # the ends of call, section and message

Choice = str  # "auto", "none", "required" or the name of a tool
State = Literal["start", "thinking", "content", "section", "head", "arguments", "closed", "done"]


class Grammar:
    """The tools of a request, ready for any number of replies.

    Raises UserError for a schema that cannot be enforced, naming tool, path and keyword, and for a tool whose name
    a call cannot carry.
    """

    def __init__(self, vocabulary: Vocabulary, tools: Sequence[ToolSpec]) -> None:
        self.vocabulary = vocabulary
        self.tools: dict[str, Arguments] = {}
        for tool in tools:
            if not tool.name or call_name(f"functions.{tool.name}:0") != tool.name:
                raise UserError(f"{tool.name!r} cannot be the name of a tool; use letters, digits, _ and -.")
            if tool.name in self.tools:
                raise UserError(f"Two tools are called {tool.name!r}; give each its own name.")
            self.tools[tool.name] = vocabulary.arguments(tool)

    def guide(
        self,
        *,
        first_index: int = 0,
        choice: Choice = "auto",
        limit: int | None = None,
        parallel: bool = True,
        start: Literal["start", "thinking", "content"] | None = None,
    ) -> Guide:
        """The keeper of one reply.

        `first_index` is the number of its first call, `limit` the most ids it may have, `parallel` False allows one
        call only. `start` says what the prompt leaves open; None: thinking is optional, or absent for a template
        without it. Raises UserError when a call is demanded that does not exist or does not fit the limit.
        """
        if choice not in ("auto", "none", "required") and choice not in self.tools:
            known = ", ".join(self.tools) or "none"
            raise UserError(f"The call of {choice!r} is demanded, but there is no such tool; the tools are: {known}.")
        if choice == "required" and not self.tools:
            raise UserError("A tool call is demanded, but there are no tools; declare one or drop the demand.")
        if start is None:
            start = "start" if self.vocabulary.tok.template == "thinking" else "content"
        return Guide(self, first_index, choice, limit, parallel, start)


class Guide:
    """Follows one reply id by id: `forced()`, else a choice that `allows()` or that `restrict()` makes; `accept()`."""

    def __init__(
        self, grammar: Grammar, first_index: int, choice: Choice, limit: int | None, parallel: bool, start: State
    ) -> None:
        self._vocabulary = grammar.vocabulary
        self._tok = tok = grammar.vocabulary.tok
        tools = grammar.tools
        self._tools = {} if choice == "none" else tools if choice in ("auto", "required") else {choice: tools[choice]}
        self._must = choice not in ("auto", "none")
        self._index = first_index
        self._limit = limit
        self._parallel = parallel
        name = tok.special
        self._think, self._end_think = name["<think>"], name["</think>"]
        self._begin_section = name["<|tool_calls_section_begin|>"]
        self._end_section = name["<|tool_calls_section_end|>"]
        self._begin_call, self._begin_arguments = name["<|tool_call_begin|>"], name["<|tool_call_argument_begin|>"]
        self._end_call, self._end = name["<|tool_call_end|>"], name["<|im_end|>"]
        self._ends = frozenset(name[end] for end in ENDS)
        self._state: State = start
        self._said: TextStream | None = tok.text_stream()  # until the content holds more than blanks
        self._used = 0
        self._calls = 0
        self._queue: deque[int] = deque()
        self._heads: dict[tuple[int, ...], str] = {}
        self._written: list[int] = []  # ids of the head or of the arguments so far
        self._tool: Arguments | None = None
        self._matcher: llguidance.LLMatcher | None = None
        self._next_look = 0
        if self._must and limit is not None and not self._fitting(limit - 1):
            least = 1 + min(self._needed(tool, self._head(tool)) for tool in self._tools)
            raise UserError(f"The reply may have {limit} tokens, the call demanded needs {least}; allow more.")

    def forced(self) -> int | None:
        """The id that must come next, None where there is a choice."""
        if self._queue:
            return self._queue[0]
        state = self._state
        if state in ("start", "thinking", "content"):
            if self._must and self._limit is not None and not self._fitting(self._left - 2):
                return self._begin_section  # a demanded call fits now, and would not one id later
            return None
        if state == "arguments":
            self._force_arguments()
        elif state == "section":
            if not self._calls_allowed():
                return self._end_section
            return self._begin_call if not self._calls else None
        elif state == "head":
            following = self._following()
            return following[0] if len(following) == 1 else None
        else:
            return self._end
        return self._queue[0] if self._queue else None

    def allows(self, token: int) -> bool:
        """Whether an id may come next, where it is not forced."""
        state = self._state
        if state in ("start", "thinking", "content"):
            return 0 <= token < self._tok.n_base or token in self._markup()
        if state == "arguments":
            assert self._matcher is not None
            if token == self._end_call:
                return self._matcher.is_accepting()
            return 0 <= token < self._tok.n_base and self._matcher.validate_tokens([token]) == 1
        return token in self._choices()

    def restrict(self, logits: np.ndarray, refused: int) -> np.ndarray:
        """A copy of float32 logits [V] with -inf at each id that may not come next.

        `refused` is what the model chose and may not have. Where it shows what the model is after, only the ways
        there are left: a message that is to end while it thinks ends its thinking first; one that owes a call makes
        it; a call outside a section opens one.
        """
        restricted = np.full_like(logits, -np.inf)
        allowed = self._meant(refused)
        if allowed is None and self._state == "arguments":
            assert self._matcher is not None
            mask = self._vocabulary.mask(self._matcher)
            mask[self._end_call] = self._matcher.is_accepting()
            np.copyto(restricted[: len(mask)], logits[: len(mask)], where=mask)
            return restricted
        if allowed is None and self._state in ("start", "thinking", "content"):
            restricted[: self._tok.n_base] = logits[: self._tok.n_base]
            allowed = self._markup()
        ids = list(allowed if allowed is not None else self._choices())
        restricted[ids] = logits[ids]
        return restricted

    def accept(self, token: int) -> None:
        """Take the next id. Raises ValueError for one that may not come."""
        if self._queue:
            if token != self._queue[0]:
                raise ValueError(f"the id {token} is not the one forced")
            self._queue.popleft()
        state = self._state
        if state != "arguments" and not self.allows(token):
            raise ValueError(f"the id {token} may not come here")
        self._used += 1
        if state in ("start", "thinking", "content"):
            self._accept_prose(token)
        elif state == "section":
            self._written = []
            if token == self._begin_call:
                self._state = "head"
                fitting = self._fitting(self._left + 1) or list(self._tools)
                self._heads = {(*self._head(name), self._begin_arguments): name for name in fitting}
            else:
                self._state = "closed"
        elif state == "head":
            self._written.append(token)
            name = self._heads.get(tuple(self._written))
            if name is not None:
                self._state, self._tool, self._written = "arguments", self._tools[name], []
                self._matcher = self._tool.start()
                self._next_look = self._used
        elif state == "arguments":
            assert self._matcher is not None
            if token == self._end_call:
                self._state, self._matcher = "section", None
                self._calls += 1
                self._index += 1
            elif self._matcher.consume_token(token):
                self._written.append(token)
            else:
                raise ValueError(f"the id {token} may not come here: {self._matcher.get_error()}")
        elif state == "closed":
            self._state = "done"

    @property
    def _left(self) -> int:
        return (1 << 60) if self._limit is None else self._limit - self._used

    def _accept_prose(self, token: int) -> None:
        if token == self._think:
            self._state = "thinking"
        elif token == self._end_think:
            self._state = "content"
        elif token == self._begin_section:
            self._state = "section"
        elif token in self._ends:
            self._state = "done"
        else:
            if self._state == "start":
                self._state = "content"
            if self._state == "content" and self._said is not None and self._said.feed(token).strip():
                self._said = None

    def _markup(self) -> set[int]:
        """The special ids that may come next in prose."""
        allowed: set[int] = set()
        if self._state == "start":
            allowed.add(self._think)
        elif self._state == "thinking":
            allowed.add(self._end_think)
        elif self._said is None and not self._must:
            allowed |= self._ends
        if self._tools and self._fitting(self._left - 1):
            allowed.add(self._begin_section)
        return allowed

    def _meant(self, refused: int) -> set[int] | None:
        """The ways to what the model is after, None if that is not plain or there is none."""
        if self._state not in ("start", "thinking", "content"):
            return None
        ways: set[int] = set()
        if self._state == "thinking" and refused in (*self._ends, self._think, self._begin_call):
            ways = {self._end_think}
        if refused in (self._begin_call, self._begin_arguments) or (refused in self._ends and self._must):
            ways |= {self._begin_section}
        return ways & self._markup() or None

    def _choices(self) -> list[int]:
        if self._state == "section":
            return [self._end_section, self._begin_call]
        return self._following() if self._state == "head" else [self._end]

    def _following(self) -> list[int]:
        """The ids that continue the head of a call."""
        done = len(self._written)
        return list({head[done] for head in self._heads if list(head[:done]) == self._written})

    def _calls_allowed(self) -> bool:
        if self._calls and not self._parallel:
            return False
        return bool(self._fitting(self._left)) or not self._calls

    def _head(self, tool: str) -> list[int]:
        return self._tok.encode(f"functions.{tool}:{self._index}")

    def _needed(self, tool: str, head: Sequence[int]) -> int:
        """The ids of the shortest call from its begin on, through the end of the message."""
        plan = self._tools[tool].least
        return 2 + len(head) + (len(plan) if plan else self._tools[tool].smallest) + AFTER_ARGUMENTS

    def _fitting(self, left: int) -> list[str]:
        """The tools whose shortest call, and all that has to follow it, has at most `left` ids."""
        fitting = []
        for name, tool in self._tools.items():
            # A name and the markup around it have fewer ids than bytes: far from the limit nothing is looked up.
            bound = tool.smallest + 4 * len(name) + 64
            if left >= 2 * bound or left >= self._needed(name, self._head(name)):
                fitting.append(name)
        return fitting

    def _force_arguments(self) -> None:
        """Put what must follow into the queue: forced ids, or the way to the end when the limit is near."""
        assert self._matcher is not None and self._tool is not None
        matcher = self._matcher
        if matcher.is_error():
            raise UserError(f"The arguments of a call cannot be checked any further ({matcher.get_error()}).")
        if matcher.is_stopped():
            self._queue.append(self._end_call)
            return
        if self._limit is not None and self._used >= self._next_look:
            before = self._tok.decode_bytes(self._written)
            plan = self._tool.closing(matcher, before) if self._written else self._tool.least
            growth = self._tool.growth + MARGIN
            if plan is None:
                self._next_look = self._used + 1
            else:
                spare = self._left - len(plan) - AFTER_ARGUMENTS
                if spare <= growth:
                    self._queue.extend((*plan, self._end_call))
                    return
                self._next_look = self._used + max(1, spare // (2 + growth // 4))
        self._queue.extend(matcher.compute_ff_tokens())
