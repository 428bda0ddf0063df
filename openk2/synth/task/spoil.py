"""Bad trajectories made of good ones, and valid alternatives: what a verifier must refuse, and what it must not.

Each kind of badness changes the record as a careless or dishonest agent would, executes what follows anew where it has
to, and keeps the record only if it really differs from the good one.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

from openk2.synth.task.episode import Trajectory
from openk2.synth.task.plan import outcome
from openk2.synth.world.populate import draw_value
from openk2.synth.world.state import State
from openk2.synth.world.world import World

Spoil = Callable[[Trajectory, World, random.Random], Trajectory | None]


def _calls(record: Trajectory) -> list[int]:
    """Indices of the messages that call a tool (their results stand one further)."""
    return [i for i, m in enumerate(record["messages"]) if m.get("tool_calls")]


def _function(record: Trajectory, at: int) -> dict[str, Any]:
    return record["messages"][at]["tool_calls"][0]["function"]


def _changing(record: Trajectory, world: World) -> list[int]:
    """Calls that changed something."""

    def passed(at: int) -> bool:
        return "error" not in json.loads(record["messages"][at + 1]["content"])

    return [i for i in _calls(record) if not world.tools[_function(record, i)["name"]].reads and passed(i)]


def _replayed(record: Trajectory, world: World) -> Trajectory | None:
    """The record with the results that its calls really give, if it ends in another state than the goal."""
    start = State.from_json(world.spec, record["proof"]["start"])
    world.restore(start)
    world.fault = None
    record["proof"]["faults"] = [None] * len(_calls(record))
    record["proof"]["calls"] = len(_calls(record))
    for i in _calls(record):
        call = _function(record, i)
        result = world.call(call["name"], json.loads(call["arguments"]))
        record["messages"][i + 1]["content"] = json.dumps(result, ensure_ascii=False)
    return record if outcome(start, world.state) != record["proof"]["goal"] else None


def wrong_argument(record: Trajectory, world: World, rng: random.Random) -> Trajectory | None:
    """Another value in a call that changes something."""
    record = copy.deepcopy(record)
    at = rng.choice(_changing(record, world) or [0])
    if not at:
        return None
    call = _function(record, at)
    tool = world.tools[call["name"]]
    arguments = json.loads(call["arguments"])
    p = rng.choice([p for p in tool.params if p.name in arguments] or [None])
    world.restore(State.from_json(world.spec, record["proof"]["start"]))
    value = draw_value(p, world.state, rng) if p else None
    if p is None or value is None or value == arguments[p.name]:
        return None
    call["arguments"] = json.dumps(arguments | {p.name: value}, ensure_ascii=False)
    return _replayed(record, world)


def skipped_step(record: Trajectory, world: World, rng: random.Random) -> Trajectory | None:
    """A needed call is left out, the answer stays."""
    record = copy.deepcopy(record)
    at = rng.choice(_changing(record, world) or [0])
    if not at:
        return None
    del record["messages"][at : at + 2]
    return _replayed(record, world)


def forged_result(record: Trajectory, world: World, rng: random.Random) -> Trajectory | None:
    """The call was not made as told: its result is made up."""
    record = copy.deepcopy(record)
    at = rng.choice(_calls(record) or [0])
    if not at:
        return None
    result = json.loads(record["messages"][at + 1]["content"])
    numbers = [k for k, v in result.items() if isinstance(v, int) and not isinstance(v, bool)]
    if not numbers:
        return None
    result[rng.choice(numbers)] += rng.randint(1, 9)
    record["messages"][at + 1]["content"] = json.dumps(result, ensure_ascii=False)
    return record


def false_claim(record: Trajectory, world: World, rng: random.Random) -> Trajectory | None:
    """The last answer states a figure that nothing gave."""
    record = copy.deepcopy(record)
    record["messages"][-1]["content"] += f" Its reference number is {rng.randint(10**6, 10**7)}."
    return record


def wrong_order(record: Trajectory, world: World, rng: random.Random) -> Trajectory | None:
    """Two calls that change something are made in the other order."""
    record = copy.deepcopy(record)
    changing = _changing(record, world)
    if len(changing) < 2:
        return None
    at = rng.randrange(len(changing) - 1)
    a, b = changing[at], changing[at + 1]
    m = record["messages"]
    m[a]["tool_calls"][0]["function"], m[b]["tool_calls"][0]["function"] = _function(record, b), _function(record, a)
    return _replayed(record, world)


def guessed_id(record: Trajectory, world: World, rng: random.Random) -> Trajectory | None:
    """An id is used that was never looked up: the reading calls are gone, the answer is right by luck."""
    record = copy.deepcopy(record)
    reads = [i for i in _calls(record) if world.tools[_function(record, i)["name"]].reads]
    if not reads:
        return None
    for i in reversed(reads):
        del record["messages"][i : i + 2]
    _replayed(record, world)
    return record


def right_words(record: Trajectory, world: World, rng: random.Random) -> Trajectory | None:
    """A right answer over a wrong state: something more was changed on the way."""
    record = copy.deepcopy(record)
    world.restore(State.from_json(world.spec, record["proof"]["start"]))
    offered = [t["function"]["name"] for t in record["tools"]]
    tools = [world.tools[name] for name in offered if not world.tools[name].reads]
    for tool in rng.sample(tools, len(tools)):
        arguments = {
            p.name: v for p in tool.params if p.required and (v := draw_value(p, world.state, rng)) is not None
        }
        extra = copy.deepcopy(record)
        at = len(extra["messages"]) - 1
        call = {"id": f"functions.{tool.name}:{len(_calls(extra))}", "type": "function",
                "function": {"name": tool.name, "arguments": json.dumps(arguments)}}  # fmt: skip
        extra["messages"][at:at] = [
            {"role": "assistant", "content": "", "reasoning_content": "One more.", "tool_calls": [call]},
            {"role": "tool", "content": "", "tool_call_id": call["id"]},
        ]
        spoiled = _replayed(extra, world)
        if spoiled is not None:
            return spoiled
    return None


SPOILS: dict[str, Spoil] = {
    "wrong argument": wrong_argument, "skipped step": skipped_step, "forged result": forged_result,
    "false claim": false_claim, "wrong order": wrong_order, "guessed id": guessed_id, "right words": right_words,
}  # fmt: skip


def alternative(record: Trajectory, world: World, rng: random.Random) -> Trajectory | None:
    """Another valid way to the same end: a look more before the last answer, or without a call that was refused."""
    record = copy.deepcopy(record)
    start = State.from_json(world.spec, record["proof"]["start"])
    offered = [t["function"]["name"] for t in record["tools"]]
    tools = [t for name in offered if (t := world.tools[name]).reads and not any(p.required for p in t.params)]
    m = record["messages"]
    failed = [
        i for i in _calls(record) if "error" in json.loads(m[i + 1]["content"]) and not record["proof"]["refused"]
    ]
    if failed and not any("time" in str(x.get("content")) or "day " in str(x.get("content")) for x in m[2:]):
        at = rng.choice(failed)  # the clock is a minute earlier then: only where no time is told
        del m[at : at + 2]
    elif tools:
        tool = rng.choice(tools)
        call = {
            "id": f"functions.{tool.name}:look",
            "type": "function",
            "function": {"name": tool.name, "arguments": "{}"},
        }
        m[-1:-1] = [
            {"role": "assistant", "content": "", "reasoning_content": "I look again.", "tool_calls": [call]},
            {"role": "tool", "content": "", "tool_call_id": call["id"]},
        ]
    else:
        return None
    _replayed(record, world)
    return record if outcome(start, world.state) == record["proof"]["goal"] else None
