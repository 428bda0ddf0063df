"""A record is what executed tools gave: nothing in it is made up, and its answer follows from it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from itertools import islice, pairwise
from typing import Any

from source_files import Example  # type: ignore[import-not-found]

from openk2.chat.messages import Message, ToolCall
from openk2.sandbox.worker import execute
from openk2.synth.make import Maker
from openk2.synth.names import Pieces
from openk2.synth.sources import Sources
from openk2.synth.trajectory import PAGE_CHARS
from openk2.tools.calculator import calculator
from openk2.tools.search import search_tools

KINDS = {
    "lookup", "missing", "difference", "ratio", "total", "derived", "compare2", "compare3", "mawps", "gsm8k", "chain",
    "notes", "field", "quote", "unanswerable", "outside", "talk", "repeat", "sum",
}  # fmt: skip


def calls(record: dict[str, Any]) -> Iterator[tuple[Message, ToolCall, str]]:
    """(assistant message, call, recorded result)."""
    messages = [Message.from_json(m) for m in record["messages"]]
    for message, result in pairwise(messages):
        for call in message.tool_calls:
            assert result.role == "tool" and result.tool_call_id == call.id
            yield message, call, result.content


def answer(record: dict[str, Any]) -> str:
    return record["messages"][-1]["content"]


def test_every_kind_is_made(examples: list[Example]) -> None:
    assert {e.record["kind"] for e in examples} >= KINDS


def test_the_seed_decides(sources: Sources, pieces: Pieces) -> None:
    def made(seed: int) -> list[dict[str, Any]]:
        return list(islice(Maker(sources, pieces, seed), 25))

    assert json.dumps(made(3)) == json.dumps(made(3)) != json.dumps(made(4))


def test_every_call_gives_the_recorded_result_again(examples: list[Example]) -> None:
    """Through the very tools that an agent is given."""
    seen = set()
    for example in examples:
        tools = {"calculator": calculator}
        if example.index:
            tools |= search_tools(example.index, page_chars=PAGE_CHARS)
        namespace: dict[str, Any] = {}
        for number, (message, call, recorded) in enumerate(calls(example.record)):
            assert message.reasoning and call.id == f"functions.{call.name}:{number}"
            if call.name == "python":
                result, is_error = execute(json.loads(call.arguments)["code"], namespace)
            else:
                run = asyncio.run(tools[call.name].run(call.arguments))
                result, is_error = run.content, run.is_error
            assert (result, is_error) == (recorded, False), (example.record["kind"], call)
            seen.add(call.name)
    assert seen == {"calculator", "python", "search", "open"}


def test_answers_hold_the_gold(examples: list[Example]) -> None:
    for example in examples:
        gold = example.record["proof"]["gold"]
        said = answer(example.record)
        if gold is None:
            assert re.search("could not find|outside my reach", said)
        else:
            assert gold in said


def test_cited_lines_exist_and_carry_the_value(examples: list[Example]) -> None:
    cited = 0
    for example in examples:
        proof = example.record["proof"]
        shown = "\n".join(result for _, _, result in calls(example.record))
        for mark in re.findall(r"\[([^\[\]\s]+:\d+)\]", answer(example.record)):
            assert example.index
            id, _, line = mark.rpartition(":")
            document = example.index.document(id)
            assert document, mark
            text = document.lines[int(line) - 1]
            assert f"[{mark}]" in shown  # the model has seen it
            if example.record["kind"] in ("lookup", "field", "quote", "notes"):
                assert proof["gold"] in text
            if "cites" in proof:
                assert mark in proof["cites"]
            cited += 1
    assert cited > 50


def test_figures_of_an_expression_stand_in_the_lines_before_it(examples: list[Example]) -> None:
    """Difference, ratio, sum, quotient: each number of the call was read, none remembered."""
    for example in examples:
        if example.record["kind"] not in ("difference", "ratio", "total", "derived"):
            continue
        *searches, (_, call, _) = calls(example.record)
        read = " ".join(result for _, _, result in searches).replace(",", "")
        for figure in re.findall(r"(\d[\d_.]*)(?:e\d+)?", call.arguments.partition(": ")[2].replace(", 2)", ")")):
            plain = figure.replace("_", "").rstrip(".")
            assert plain in read or len(plain) == 1, (call.arguments, figure)
