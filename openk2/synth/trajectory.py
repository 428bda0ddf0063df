"""A trajectory under construction: every call is executed by the real tool; its real result goes into the record."""

from __future__ import annotations

import json
from typing import Any

from openk2.chat.messages import Message, ToolCall
from openk2.sandbox.worker import execute
from openk2.tools.calculator import evaluate, show
from openk2.tools.formats import format_find, format_hits, format_open
from openk2.tools.index import Hit, Index

Record = dict[str, Any]  # one training example as JSON: kind, messages, proof
SYSTEM = "You are openk2 nano."  # the system prompt of the embedded model; its profile carries the same text
PAGE_CHARS = 500  # a small page, as the embedded model's profile asks for


def cite(hit: Hit) -> str:
    return f"[{hit.id}:{hit.line}]"


class Trajectory:
    """Messages that a correct agent would produce. `index`: the documents; `namespace`: what Python code has set."""

    def __init__(self, question: str, index: Index | None = None) -> None:
        self.messages = [Message("system", SYSTEM), Message("user", question)]
        self.index = index
        self.calls = 0
        self.namespace: dict[str, Any] = {}

    def call(self, reasoning: str, name: str, **arguments: Any) -> str:
        """Think, call a tool, and get its text."""
        return self._append(reasoning, name, arguments, self._run(name, arguments))

    def _append(self, reasoning: str, name: str, arguments: dict[str, Any], result: str) -> str:
        call = ToolCall(f"functions.{name}:{self.calls}", name, json.dumps(arguments, ensure_ascii=False))
        self.messages.append(Message("assistant", "", reasoning, (call,)))
        self.messages.append(Message("tool", result, tool_call_id=call.id))
        self.calls += 1
        return result

    def search(self, reasoning: str, query: str, k: int = 3) -> list[Hit]:
        """The search call, with its hits as objects besides the text that the model sees."""
        if self.index is None:
            raise ValueError("search needs documents")
        hits = self.index.search(query, k)
        self._append(reasoning, "search", {"query": query}, format_hits(hits))
        return hits

    def answer(self, reasoning: str, content: str) -> None:
        self.messages.append(Message("assistant", content, reasoning))

    def _run(self, name: str, arguments: dict[str, Any]) -> str:
        if name == "calculator":
            return show(evaluate(arguments["expression"]))
        if name == "python":
            return execute(arguments["code"], self.namespace)[0]
        if self.index is None:
            raise ValueError(f"{name} needs documents")
        document = self.index.document(arguments["id"])
        if document is None:
            return f"No document {arguments['id']}. Search first."
        if name == "open":
            return format_open(document, arguments.get("line", 1), PAGE_CHARS)
        if name == "find":
            return format_find(document, arguments["pattern"])
        raise ValueError(f"no tool {name}")

    def record(self, kind: str, **proof: Any) -> Record:
        """The training record: messages and what proves them (the gold value and how it was made)."""
        return {"kind": kind, "messages": [m.to_json() for m in self.messages], "proof": proof}
