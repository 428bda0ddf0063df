"""Tool-call ids as Kimi K2 knows them: `functions.NAME:IDX`, one counter over the whole conversation.

K2 copies what it sees. With ids of another form in its history (`call_abc`, `functions_Read_0`, two calls of one id)
it stops calling tools or ends its turn empty, so Moonshot's own service rewrites all of them before the model reads
them (K2-Vendor-Verifier, "Rename Tool Call IDs"; MoonshotAI/Kimi-K2#128). `canonical` does the same here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

from openk2.chat.messages import Message, ToolCall

_CANONICAL = re.compile(r"functions\.(?P<name>.+):(?P<index>0|[1-9][0-9]*)", re.DOTALL)


def call_id(name: str, index: int) -> str:
    return f"functions.{name}:{index}"


def index_of(call: ToolCall) -> int | None:
    """The index in a call's id; None where the id is not `functions.NAME:IDX` of its own name."""
    return _index_of(call.id, call.name)


@lru_cache(maxsize=1 << 14)
def _index_of(id: str, name: str) -> int | None:
    """Kept: a long conversation is looked through at every step."""
    match = _CANONICAL.fullmatch(id)
    return int(match["index"]) if match and match["name"] == name else None


def next_index(messages: Sequence[Message]) -> int:
    """The index that the next call of a canonical conversation gets."""
    indices = [index_of(call) for message in messages for call in message.tool_calls]
    return max((index for index in indices if index is not None), default=-1) + 1


def canonical(messages: Sequence[Message]) -> list[Message]:
    """The conversation with its calls numbered 0, 1, 2, ... and each result under the id of the call it answers.

    A result belongs to the open call of its id, the latest one first; where its id is missing or unknown, to the
    first open call of its name, else to the first open call at all. A second result of one call keeps that call's id,
    and one that no call is open for its own. What a local model sampled (`token_ids`) cannot be renumbered: such a
    call keeps an index that is not behind the counter, and the counter goes on after it. Idempotent; a canonical
    conversation comes back equal.
    """
    counter = 0
    out = list(messages)
    calls = _Calls()
    at = 0
    while at < len(out):
        message = out[at]
        end = at + 1
        if message.role == "tool":
            while end < len(out) and out[end].role == "tool":
                end += 1
            out[at:end] = calls.link(out[at:end])
        elif message.tool_calls:
            numbered: list[ToolCall] = []
            for call in message.tool_calls:
                index = index_of(call) if message.token_ids else None
                if index is None or index < counter:
                    index = counter
                numbered.append(replace(call, id=call_id(call.name, index)))
                counter = index + 1
            calls.opened(message.tool_calls, numbered)
            out[at] = replace(message, tool_calls=tuple(numbered))
        at = end
    return out


class _Calls:
    """The calls so far: which of them wait for a result, and what the conversation called each."""

    def __init__(self) -> None:
        self._open: list[list[tuple[str, ToolCall]]] = []  # (id as given, numbered call) by message, oldest first
        self._known: dict[str, str] = {}  # id as given: id as numbered

    def opened(self, given: Sequence[ToolCall], numbered: Sequence[ToolCall]) -> None:
        self._open.append([(old.id, new) for old, new in zip(given, numbered, strict=True)])
        self._known.update((old.id, new.id) for old, new in zip(given, numbered, strict=True) if old.id)

    def link(self, results: list[Message]) -> list[Message]:
        """One block of results under the ids of their calls.

        Ids go first for the whole block: a result without one must not take a call that another result names.
        """
        ids = [self._take(lambda given, _, r=r: bool(given) and given == r.tool_call_id) for r in results]
        for i, result in enumerate(results):
            if ids[i] is None:
                ids[i] = (
                    self._known.get(result.tool_call_id or "")
                    or self._take(lambda _, call, r=result: call.name == r.name)
                    or self._take(lambda _, call: True)
                )
        return [replace(r, tool_call_id=id or r.tool_call_id) for r, id in zip(results, ids, strict=True)]

    def _take(self, wanted: Callable[[str, ToolCall], bool]) -> str | None:
        """Close the first open call that is wanted, the latest message first; its id."""
        for block in reversed(self._open):
            for position, (given, call) in enumerate(block):
                if wanted(given, call):
                    del block[position]
                    return call.id
        return None
