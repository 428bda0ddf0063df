"""Is a search record true? Its collection is drawn again, its calls are executed again, its answer held against lines.

Refused, each with its reason: a result that is not what the tool gives; a document opened that nothing had shown; a
gold value that the facts of the collection do not give, or that should have been computed and was not; an answer that
lacks it, or cites a line that does not hold what it is cited for, or was never shown; a question without an answer that
is answered, and the other way round.
"""

from __future__ import annotations

import json
import re
from typing import Any

from openk2.sandbox.worker import execute
from openk2.synth.search.collection import Collection
from openk2.synth.search.questions import NoAnswer, Query, Solver, hops
from openk2.synth.trajectory import PAGE_CHARS, Record
from openk2.tools.base import ToolError
from openk2.tools.calculator import calculator
from openk2.tools.search import search_tools

MARK = re.compile(r"\[([^\[\]\s]+):(\d+)\]")
NOT_THERE = "I could not find"
COMPUTED = ("between", "earlier", "more")


def problems(record: Record, collection: Collection) -> list[str]:
    """What is wrong with a record of this collection; empty for a true one. Raises nothing on malformed records."""
    try:
        shown, out = _again(record, collection)
        return out + _answer(record, collection, shown)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ToolError, NoAnswer) as error:
        return [f"malformed: {error!r}"]


def _again(record: Record, collection: Collection) -> tuple[str, list[str]]:
    """All that the tools have shown, and which calls did not give what the record says."""
    tools = {"calculator": calculator} | search_tools(collection.index, page_chars=PAGE_CHARS)
    namespace: dict[str, Any] = {}
    out: list[str] = []
    shown, pending = "", ("", "")  # of a call: id, result
    for message in record["messages"]:
        if message["role"] == "tool":
            if (message["tool_call_id"], message["content"]) != pending:
                out.append(f"call {message['tool_call_id']} gives something else than the record says")
            shown, pending = f"{shown}\n{message['content']}", ("", "")
            continue
        if pending[0]:
            out.append(f"call {pending[0]} has no result")
        for call in message.get("tool_calls") or ():
            name, arguments = call["function"]["name"], json.loads(call["function"]["arguments"])
            if name in ("open", "find") and f"[{arguments['id']}:" not in shown:
                out.append(f"{name} of {arguments['id']}, which nothing had shown")
            if name == "python":
                pending = (call["id"], execute(arguments["code"], namespace)[0])
            else:
                pending = (call["id"], str(tools[name](**arguments)))
    if pending[0] or record["messages"][-1]["role"] != "assistant":
        out.append("there is no answer at the end")
    return shown, out


def _answer(record: Record, collection: Collection, shown: str) -> list[str]:
    proof, said = record["proof"], record["messages"][-1]["content"]
    query: Query = proof["query"]
    gold = Solver(collection).solve(query)
    marks = [(id, int(line)) for id, line in MARK.findall(said)]
    out = [f"[{id}:{line}] was never shown" for id, line in marks if f"[{id}:{line}]" not in shown]
    if hops(query) != proof["hops"]:
        out.append("the hops are others")
    if [f"{id}:{line}" for id, line in marks] != proof["cites"]:
        out.append("the answer cites other lines than the proof")
    if any(id in collection.away for id, _ in gold.lines):
        if proof["gold"] is not None or NOT_THERE not in said:
            out.append("an answer is given that the documents do not have")
        said = said.partition("What I found: ")[2]
    else:
        if proof["gold"] != gold.value or gold.value not in said or NOT_THERE in said:
            out.append(f"the answer is {gold.value}")
        out += [f"{id} is not cited" for id, _ in gold.lines if id not in {id for id, _ in marks}]
        if query[0] not in COMPUTED and marks and gold.value not in _line(collection, *marks[-1]):
            out.append(f"the line {marks[-1]} does not hold the answer")
        last = next((m["content"] for m in reversed(record["messages"]) if m["role"] == "tool"), "")
        if query[0] in COMPUTED and last.strip() != gold.value:
            out.append("the answer was not computed")
        said = re.sub(rf"^{re.escape(gold.value)}(?: years)?: ", "", said)
    for sentence in filter(None, re.split(r"(?<=\])\.(?: |$)", said)):  # what is said of a line stands in it
        claim = next((m for form in _TOLD if (m := form.search(sentence))), None)
        place = MARK.findall(sentence)
        if claim is None or not place:
            out.append(f"nothing proves: {sentence}")
        else:
            text = _line(collection, place[-1][0], int(place[-1][1]))
            out += [f"{place[-1]} does not say {part}" for part in claim.groups() if part not in text]
    return out


_TOLD = tuple(re.compile(form, re.I) for form in (  # the forms of a sentence, and what must stand in the cited line
    r" was born on (.+?) \[", r" is from (\d{4}) \[", r"^the cast of .+? is (.+) \[", r"^the genres? of .+?: (.+) \[",
    r"^(.+?) (?:also )?directed .+ \[", r"^(.+?) and (.+?) play in .+ \[", r"^under .+?, (.+?) has (.+) \[\S+ \[",
    r"^the .+? of .+?: (\S+)",
))  # fmt: skip


def _line(collection: Collection, id: str, line: int) -> str:
    """The text that is cited; nothing where there is none."""
    document = collection.index.document(id)
    return document.lines[line - 1] if document and 0 < line <= len(document.lines) else ""
