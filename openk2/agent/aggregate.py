"""The agentic merge: an agent whose documents are the logs of the paths.

After AggAgent (Princeton): it reads solutions, searches what the tools have shown and opens steps, so that it can
weigh evidence where a vote can only count heads; it is right where one path in eight has seen what matters.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from dataclasses import replace

from openk2.agent.answers import Trajectory
from openk2.agent.entries import call_line, handle
from openk2.agent.sources import READERS
from openk2.agent.state import State
from openk2.agent.verify import audit
from openk2.tools.base import Tool, ToolError, tool
from openk2.tools.index import Document, Hit, Index

LIST_CHARS = 240  # of an answer in the list of paths
THOUGHT_CHARS = 1200  # of what was thought in one step
OUTPUT_CHARS = 4000  # of one output in a segment
SEGMENT_STEPS = 5
HITS = 8
LINE_CHARS = 400

PROMPT = """\
{count} agents have worked on the question below, each by itself and with the same tools. Find out which answer the \
evidence bears out, and write the final answer.

Question:
{question}

The agents' paths, in no order that means anything:
{paths}

- What the tools have shown is ground truth. What an agent thought or answered is only a claim.
- Count evidence, not agents: an answer that most of them give may rest on nothing, and one path alone may have seen \
the line that decides. search_paths searches all that their tools have shown; get_segment shows steps of one path; \
get_solution shows a whole answer and what of it its own path does not bear out.
- Where they disagree, find the claim on which they part, and check at least that one: in their logs, and with your \
other tools.
- Choose one answer; do not blend answers. When the evidence bears out none of them, answer from the evidence.
- Answer the question as if you had been asked alone: short, without mention of agents or paths, each fact with the \
[id:line] that a tool has shown."""


def prompt(paths: Sequence[Trajectory], seed: int) -> str:
    """The task of the aggregator. Paths are shuffled: the place in a list must not decide."""
    listed = list(paths)
    random.Random(seed).shuffle(listed)
    lines = [f"path {path.number}: {_outline(path)}" for path in listed]
    return PROMPT.format(count=len(paths), question=paths[0].question, paths="\n".join(lines))


def path_tools(paths: Sequence[Trajectory]) -> dict[str, Tool]:
    """Tools over the logs of the paths. What their tools brought from outside stays marked as such."""
    by_number = {path.number: path for path in paths}
    outputs = Outputs(paths)

    def find(number: int) -> Trajectory:
        if number in by_number:
            return by_number[number]
        raise ToolError(f"There is no path {number}. The paths are: {', '.join(map(str, sorted(by_number)))}.")

    @tool(idempotent=True)
    def get_solution(path: int) -> str:
        """The whole answer of one path, and what of it the outputs of its own tools do not bear out.

        Args:
            path: The number of the path.
        """
        chosen = find(path)
        found = audit(chosen.answer, chosen.state)
        doubts = "\n".join(f"- {item}" for item in found) or "- nothing"
        ended = f"Path {path} ended ({chosen.reason}) after {chosen.state.steps} steps."
        answer = _indented(chosen.answer or "It gave no answer.")
        return f"{ended} Its answer:\n{answer}\nWhat its tools do not bear out:\n{doubts}"

    @tool(idempotent=True, timeout=120.0)
    def search_paths(query: str, k: int = HITS) -> str:
        """Search everything that the tools of all paths have shown, line by line, best first, with who has seen it.

        Args:
            query: A few words to look for: names and figures as an output would have them.
            k: How many lines.
        """
        return outputs.search(query, max(1, min(k, 5 * HITS)))

    @tool(idempotent=True)
    def get_segment(path: int, start: int, end: int) -> str:
        """Some steps of one path: what was thought, which calls were made, what they showed. At most five at once.

        Args:
            path: The number of the path.
            start: The first step, from 1.
            end: The last step.
        """
        return segment(find(path).state, start, end)

    outside = any(path.state.outside for path in paths)
    private = any(path.state.private for path in paths)
    made = (get_solution, search_paths, get_segment)
    return {item.name: replace(item, untrusted=outside, private=private) for item in made}


class Outputs:
    """All lines that tools of the paths have shown, to be searched; equal lines are one, with all their places."""

    def __init__(self, paths: Sequence[Trajectory]) -> None:
        self._paths = paths
        self._index: Index | None = None
        self._lock = threading.Lock()
        self._places: dict[tuple[str, str], dict[int, str]] = {}  # title and line -> path -> where in it

    def search(self, query: str, k: int) -> str:
        with self._lock:
            if self._index is None:
                self._index = Index.memory(self._documents())
        hits = self._index.search(query, k)
        if not hits:
            return "No output of any path has these words. Try other words."
        return "\n".join(self._shown(hit) for hit in hits)

    def _documents(self) -> list[Document]:
        """A line of a reader says itself what it is about; what was computed is found by its call as well."""
        for path in self._paths:
            for step, reply in enumerate(path.state.replies, 1):
                for index, call in enumerate(reply.message.tool_calls):
                    result = path.state.results.get((reply.seq, index))
                    if result is None or result.is_error:
                        continue
                    reader = result.name in READERS
                    title, where = "" if reader else call_line(call), f"step {step}, {call_line(call)}"
                    for line in _lines(result.content, reader):
                        if line.strip() and not line.startswith("(lines "):
                            self._places.setdefault((title, line), {}).setdefault(path.number, where)
        by_title: dict[str, list[str]] = {}
        for title, line in self._places:
            by_title.setdefault(title, []).append(line)
        return [Document(title, title, tuple(lines)) for title, lines in by_title.items()]

    def _shown(self, hit: Hit) -> str:
        places = self._places[hit.title, hit.text]
        first, *others = sorted(places)
        also = f"path{'s' * (len(others) > 1)} {', '.join(map(str, others))} too" if others else "no other path"
        return f"{hit.text}\n  (path {first}, {places[first]}; shown to {also})"


def segment(state: State, start: int, end: int) -> str:
    """Steps `start` to `end` of a run as text. What models wrote is indented: only readers' lines stand at the left."""
    total = state.steps
    first = max(1, start)
    last = min(end, total, first + SEGMENT_STEPS - 1)
    if first > last:
        raise ToolError(f"This path has the steps 1 to {total}; start is the first to show, end the last.")
    shown: list[str] = []
    for number in range(first, last + 1):
        reply = state.replies[number - 1]
        message = reply.message
        shown.append(f"step {number} of {total}")
        if message.reasoning:
            shown.append(f"  thought: {_clipped(' '.join(message.reasoning.split()), THOUGHT_CHARS)}")
        if message.content.strip():
            shown.append(f"  said: {_clipped(' '.join(message.content.split()), THOUGHT_CHARS)}")
        for index, call in enumerate(message.tool_calls):
            shown.append(f"  called {call.name}({_clipped(' '.join(call.arguments.split()), THOUGHT_CHARS)})")
            result = state.results.get((reply.seq, index))
            if result is None:
                shown.append("  (no result: the path was ended before)")
                continue
            note = ", an error" if result.is_error else ""
            shown.append(f"  output {handle(result)}{note}:")
            content = _clipped(result.content, OUTPUT_CHARS)
            shown += _lines(content, result.name in READERS and not result.is_error)
    return "\n".join(shown)


def _outline(path: Trajectory) -> str:
    names: dict[str, int] = {}
    for reply in path.state.replies:
        for call in reply.message.tool_calls:
            names[call.name] = names.get(call.name, 0) + 1
    calls = ", ".join(f"{count} {name}" for name, count in names.items()) or "no calls"
    answer = _clipped(" ".join(path.answer.split()), LIST_CHARS) or "none"
    ended = "" if path.whole else f", ended early ({path.reason})"
    return f"{path.state.steps} steps ({calls}){ended}; answer: {answer}"


def _lines(text: str, reader: bool) -> list[str]:
    text = text.encode("utf-8", "replace").decode()  # the index takes no lone surrogates
    return [line[:LINE_CHARS] if reader else f"  {line[:LINE_CHARS]}" for line in text.split("\n")]


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.split("\n"))


def _clipped(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most * 3 // 4]} … {text[-(most // 4) :]}"
