"""Is a trajectory true? Everything is executed again, and every claim is held against what came out.

Refused, each with its reason: a result that is not what the tool gives; an id that nobody had told or shown; a state at
the end that is not the goal (also where the answer sounds right); an answer that claims figures or ids nobody has seen;
an impossible wish that is said to be done; calls that are cut off, unknown, or made with tools the agent does not have.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from openk2.synth.task.episode import Trajectory
from openk2.synth.task.plan import outcome
from openk2.synth.world.state import State
from openk2.synth.world.world import World

_ID = re.compile(r"\b[a-z]{1,4}-[0-9a-f]{6}\b")
_NUMBER = re.compile(r"(?<![\w.-])\d[\d,]*(?:\.\d+)?(?![\w-])")


def problems(record: Trajectory, world: World) -> list[str]:
    """What is wrong with a trajectory of this world; empty for a true one. Raises nothing on malformed records."""
    try:
        return list(_problems(record, world))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        return [f"malformed: {error!r}"]


def _problems(record: Trajectory, world: World) -> list[str]:
    proof = record["proof"]
    start = State.from_json(world.spec, proof["start"])
    world.restore(start)
    faults = iter(proof["faults"])
    world.fault = lambda tool, arguments: next(faults, None)
    offered = {tool["function"]["name"] for tool in record["tools"]}
    out: list[str] = []
    seen = ""
    pending: dict[str, Mapping[str, Any]] = {}
    answers: list[str] = []
    for message in record["messages"]:
        role, content = message["role"], message.get("content") or ""
        if role == "assistant":
            for call in message.get("tool_calls") or ():
                arguments = json.loads(call["function"]["arguments"])
                name = call["function"]["name"]
                if name not in offered:
                    out.append(f"{name} is none of the agent's tools")
                out += [
                    f"{name} was called with the id {key}, which nobody had shown"
                    for key in _ids(arguments)
                    if key not in seen
                ]
                pending[call["id"]] = {"name": name, "arguments": arguments}
            if not message.get("tool_calls"):
                answers.append(content)
                unseen = [key for key in _ID.findall(content) if key not in seen]
                unseen += [n for n in _NUMBER.findall(content) if not _known(n, seen)]
                out += [f"the answer claims {what}, which nobody had shown" for what in unseen]
        elif role == "tool":
            call = pending.pop(message["tool_call_id"])
            result = world.call(call["name"], dict(call["arguments"]))
            if json.loads(content) != result:
                out.append(f"{call['name']} gives something else than the record says")
        seen += "\n" + content
    world.fault = None
    if pending:
        out.append("a call has no result")
    if next(faults, "end") != "end":
        out.append("calls are missing: the record says that there were more")
    if outcome(start, world.state) != proof["goal"]:
        out.append("the state at the end is not the goal")
    if not answers or record["messages"][-1]["role"] != "assistant":
        out.append("there is no answer at the end")
    elif proof["refused"] and not _declines(answers[-1]):
        out.append("an impossible wish is said to be done")
    elif not proof["refused"] and _declines(answers[-1]):
        out.append("a wish that can be fulfilled is said to be impossible")
    return out


def _ids(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value] if _ID.fullmatch(value) else []
    if isinstance(value, list | dict):
        return [key for part in (value.values() if isinstance(value, dict) else value) for key in _ids(part)]
    return []


def _known(number: str, seen: str) -> bool:
    """A number was seen as it is, or as cents or minutes of which it is the spoken form."""
    plain = number.replace(",", "")
    if re.search(rf"(?<!\d){re.escape(plain)}(?!\d)", seen):
        return True
    if "." in plain:
        cents = plain.replace(".", "").lstrip("0") or "0"
        return bool(re.search(rf"(?<!\d){cents}(?!\d)", seen))
    return _part_of_a_time(plain, seen)


def _part_of_a_time(number: str, seen: str) -> bool:
    """`day 12` or `05` of `day 12, 14:05`, said of minutes that were seen."""
    value = int(number)
    return any(
        value in (minutes // 1440, minutes % 1440 // 60, minutes % 60)
        for minutes in map(int, re.findall(r"(?<![\d-])\d{3,6}(?!\d)", seen))
    )


def _declines(answer: str) -> bool:
    says = r"\bI (could not|cannot|can't|may not|am not able|am unable|am not allowed)\b|\bis not (possible|allowed)\b"
    return bool(re.search(says, answer, re.IGNORECASE))
