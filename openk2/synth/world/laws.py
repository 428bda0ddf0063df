"""The tests of a tool, from outside: what it should do is read from its claims a second time, and compared.

For each guard: just beyond it the call is refused with the error that the claim names and nothing has changed; just
before it the call passes. After a call that passes, every record of the world is what the effects say, all others are
as they were, and the answer shows what it should. Besides: a key repeats nothing; an undone change is as never made.
"""

from __future__ import annotations

import random

from openk2.synth.world import claims as c
from openk2.synth.world.arrange import Situation, arrange, holds, look_for, provide
from openk2.synth.world.expect import NEW, After, canonical
from openk2.synth.world.spec import Tool
from openk2.synth.world.state import State
from openk2.synth.world.world import World, invalid

_TRIES = 40


def failures(world: World, tool: Tool, seed: int = 0, rounds: int = 4) -> list[str]:
    """What the tool of `world` does otherwise than its claims say; empty for a sound one. The world's state is kept.

    A tool whose guards cannot all hold at once is a failure too: nobody could ever call it.
    """
    start = world.snapshot()
    rng = random.Random(f"laws {world.spec.name} {tool.name} {seed}")
    out: list[str] = []
    try:
        for number in range(rounds):
            out += _passes(world, tool, start, rng, (0.0, 1.0, 0.4)[min(number, 2)])
            for claim in tool.claims:
                if isinstance(claim, c.Guard) and not isinstance(claim, c.Idempotent):
                    out += _stops(world, tool, claim, start, rng)
            if out:
                break
    finally:
        world.restore(start)
    return out


def _guards(tool: Tool) -> list[c.Guard]:
    return [claim for claim in tool.claims if isinstance(claim, c.Guard)]


def situation(world: World, tool: Tool, start: State, rng: random.Random, slack: int = 0) -> Situation | None:
    """One in which every guard of the tool holds, or None.

    With `slack` it is one for a task: the caller stays who it is, what holds already is left as it is, and everything
    holds for so many minutes more. Without, guards just hold: the situations of tests.
    """
    for _ in range(_TRIES):
        s = Situation(world.spec, tool, start, rng)
        s.slack = slack
        if not slack:
            record = rng.choice(list(s.table("user").values()))
            s.state.me = {"id": record["id"], "role": record["role"]}
        for claim in tool.claims:
            if isinstance(claim, c.Effect) and not (slack and isinstance(claim, c.Unlinks)):
                provide(claim, s)
        for _ in range(2):  # a guard may undo what one before it needs
            for claim in _guards(tool):
                arrange(claim, s, True)
        if not slack and isinstance(tool.claims[-1], c.Lists | c.Computes):
            look_for(tool.claims[-1], s)
        if invalid(tool, s.args) == "" and all(holds(claim, s) for claim in _guards(tool)):
            s.state.commit(undoable=False)
            return s
    return None


def _passes(world: World, tool: Tool, start: State, rng: random.Random, without: float) -> list[str]:
    """`without`: the chance that an optional argument is left out."""
    s = situation(world, tool, start, rng)
    if s is None:
        return ["no situation lets it pass"]
    if any(isinstance(claim, c.Undoes) for claim in tool.claims):
        return _undoes(world, tool, s)
    for p in tool.params:
        if not p.required and rng.random() < without and not any(_uses(claim, p.name) for claim in _guards(tool)):
            s.args.pop(p.name, None)
    world.restore(s.state)
    result = world.call(tool.name, s.args)
    if "error" in result:
        return [f"refused with {result['error']['code']} though all guards hold"]
    after = After(s)
    known = s.state.tables
    out = []
    if canonical(world.state.tables, known) != canonical(after.tables, known, after.made):
        out.append("the records after the call are not what its effects say")
    shown = dict(result)
    if "id" in shown and shown["id"] not in known.get(_shown_entity(tool), {}):
        shown["id"] = NEW
    if shown != after.shown:
        out.append("it gives back something else than it says")
    key = next((claim.arg for claim in tool.claims if isinstance(claim, c.Idempotent)), None)
    if key is not None and key in s.args:
        digest = world.state.digest()
        if world.call(tool.name, s.args) != result or world.state.digest() != digest:
            out.append("a repeated key took effect again")
    return out


def _uses(claim: c.Guard, arg: str) -> bool:
    return arg in (getattr(claim, name, None) for name in ("arg", "other", "id_arg", "start_arg", "end_arg"))


def _shown_entity(tool: Tool) -> str:
    return getattr(tool.claims[-1], "entity", "")


def _stops(world: World, tool: Tool, claim: c.Guard, start: State, rng: random.Random) -> list[str]:
    """The guard stops a call that all guards before it let pass."""
    before = _guards(tool)[: _guards(tool).index(claim)]
    for _ in range(_TRIES):
        s = situation(world, tool, start, rng)
        if s is None:
            return []  # said by _passes
        arrange(claim, s, False)
        if invalid(tool, s.args) or holds(claim, s) or not all(holds(other, s) for other in before):
            continue
        s.state.commit(undoable=False)
        world.restore(s.state)
        digest = world.state.digest()
        result = world.call(tool.name, s.args)
        if "error" not in result:
            return [f"{type(claim).__name__} did not stop it"]
        if result["error"]["code"] != claim.error:  # pyright: ignore[reportAttributeAccessIssue]
            return [f"{type(claim).__name__} stopped it with {result['error']['code']}"]
        if world.state.digest() != digest:
            return [f"it changed something though {type(claim).__name__} stopped it"]
        return []
    return [f"{type(claim).__name__} can never stop it"]


def _undoes(world: World, tool: Tool, s: Situation) -> list[str]:
    """Of another tool's change, all is as before; with nothing to undo it is refused."""
    world.restore(s.state)
    world.state.forget()
    if "error" not in world.call(tool.name, {}):
        return ["there was nothing to undo, yet it passed"]
    others = [t for t in world.spec.tools if not t.reads and t.motif != "undo"]
    rng = random.Random(s.state.now)
    for other in rng.sample(others, min(len(others), 6)):
        made = situation(world, other, s.state, rng)
        if made is None:
            continue
        world.restore(made.state)
        world.state.forget()
        digest = world.state.digest()
        if "error" in world.call(other.name, made.args) or world.state.digest() == digest:
            continue
        result = world.call(tool.name, {})
        if "error" in result or world.state.digest() != digest:
            return ["the change was not taken back"]
        return []
    return ["no change could be made to take back"]
