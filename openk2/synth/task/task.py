"""A task: a world in a state, an agent (prompt and tools), a user, what must be true at the end, and a plan to it.

A function of the world's spec and a seed. Dials: wishes, calls before a wish, tools, private facts, impossible ones.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from openk2.chat.messages import ToolSpec
from openk2.synth.task.plan import SLACK, Call, Plan, label_of, make_plan, outcome
from openk2.synth.task.users import Manner, Request, User
from openk2.synth.task.words import Voice, clock, handbook, technical
from openk2.synth.world import claims as c
from openk2.synth.world.arrange import arrange, holds
from openk2.synth.world.laws import situation
from openk2.synth.world.spec import Tool, WorldSpec
from openk2.synth.world.state import State
from openk2.synth.world.world import World, invalid, schema

_STATES = 4  # first states of a world: making one costs as much as a task
_IMPOSSIBLE = (c.Owner, c.Role, c.Deadline, c.Ceiling, c.Approved, c.Enough, c.Room, c.Unused)
_MANNERS: tuple[Manner, ...] = ("plain", "polite", "terse", "chatty", "hurried")


@dataclass(frozen=True)
class Dials:
    """`goals`: wishes (from, to). `depth`: calls that one may need before it. `tools`: how many an agent sees at least.

    `private`: the chance that a value is kept back until asked. `impossible`: that of a wish that must be refused.
    """

    goals: tuple[int, int] = (1, 3)
    depth: int = 2
    tools: int = 12
    private: float = 0.15
    impossible: float = 0.12


@dataclass
class Task:
    """`refused`: the error with which the wish of an impossible task is refused, or "". `goal`: see `plan.outcome`."""

    world: WorldSpec
    seed: int
    plan: Plan
    requests: tuple[Request, ...]
    manner: Manner
    tools: tuple[str, ...]
    system: str
    goal: str
    refused: str = ""
    by_id: frozenset[str] = frozenset()

    def user(self) -> User:
        return User(self.requests, self.manner, self.seed)

    def tool_specs(self) -> list[ToolSpec]:
        return [ToolSpec(tool.name, tool.doc, schema(tool)) for name in self.tools if (tool := self.world.tool(name))]


def draw_task(world: World, seed: int, dials: Dials | None = None) -> Task | None:
    """The task of this seed, or None where none is found; leaves `world` in the task's first state."""
    dials = dials or Dials()
    rng = random.Random(f"openk2 task {world.spec.name} {world.spec.seed} {seed}")
    world.reset(seed % _STATES)
    refused = ""
    plan = None
    if rng.random() < dials.impossible:
        plan, refused = _impossible(world, rng)
    if plan is None:
        refused = ""
        plan = make_plan(world, rng, rng.randint(*dials.goals), dials.depth)
    if plan is None or _trivial(world, plan):
        return None
    needed = {call.tool for call in plan.calls}
    readers = {tool.name for tool in world.spec.tools if tool.reads}
    rest = [tool.name for tool in world.spec.tools if tool.name not in needed]
    rest.sort(key=lambda name: name not in readers)
    reading = [name for name in rest if name in readers]
    others = [name for name in rest if name not in readers]
    chosen = set(needed) | set(reading) | set(rng.sample(others, min(len(others), max(0, dials.tools - len(needed)))))
    tools = tuple(tool.name for tool in world.spec.tools if tool.name in chosen)
    by_id = frozenset(e.name for e in world.spec.entities if finder(world.spec, e.name, tools) is None)
    voice = Voice(world.spec, plan.start, by_id)
    requests = tuple(_request(rng, voice, world.tools[call.tool], call, dials) for call in plan.calls if call.wanted)
    goal = outcome(plan.start, plan.end)
    world.restore(plan.start)
    return Task(
        world.spec, seed, plan, requests, rng.choice(_MANNERS), tools, _system(world.spec, plan.start, tools), goal,
        refused, by_id,
    )  # fmt: skip


def _trivial(world: World, plan: Plan) -> bool:
    """One call about no record that is there: whoever copies what was said would be right."""
    only = world.tools[plan.calls[0].tool]
    return len(plan.calls) == 1 and not any(isinstance(claim, c.Needs) for claim in only.claims)


def finder(spec: WorldSpec, entity: str, tools: tuple[str, ...]) -> Tool | None:
    """A tool that lists all records of an entity with their labels, without an argument that must be known."""
    label = label_of(spec, entity)
    for tool in spec.tools:
        shown = tool.claims[-1]
        if tool.name in tools and isinstance(shown, c.Lists) and shown.entity == entity and label in shown.fields:
            plain = not shown.mine and not shown.fixed and shown.top >= 50
            if plain and len(tool.claims) == 1 and not any(p.required for p in tool.params):
                return tool
    return None


def _impossible(world: World, rng: random.Random) -> tuple[Plan | None, str]:
    """A wish that a rule or a record forbids: (a plan of the one call that is refused, its error)."""
    tools = [t for t in world.spec.tools if not t.reads and any(isinstance(x, _IMPOSSIBLE) for x in t.claims)]
    for tool in rng.sample(tools, min(len(tools), 6)):
        claim = rng.choice([x for x in tool.claims if isinstance(x, _IMPOSSIBLE)])
        s = situation(world, tool, world.state, rng, slack=SLACK)
        if s is None:
            continue
        me = dict(world.state.me)
        arrange(claim, s, False)
        s.state.me = me
        if invalid(tool, s.args) or holds(claim, s) or s.state.now != world.state.now:
            continue
        s.state.commit(undoable=False)
        s.state.forget()
        before = world.snapshot()
        world.restore(s.state)
        result = world.call(tool.name, s.args)
        world.restore(before)
        if result.get("error", {}).get("code") == claim.error:
            return Plan(s.state, [Call(tool.name, s.args, True)], s.state.copy(), [result]), claim.error
    return None, ""


def _request(rng: random.Random, voice: Voice, tool: Tool, call: Call, dials: Dials) -> Request:
    """The wish in words; some of its values kept back."""
    plain = [
        p for p in tool.params
        if p.name in call.args and p.required and p.type.kind not in ("id", "ids") and not technical(p.name)
    ]  # fmt: skip
    private = [p for p in plain if rng.random() < dials.private]
    given = {name: value for name, value in call.args.items() if name not in {p.name for p in private}}
    text = voice.request(rng, tool, given)
    return Request(text, tuple((p.name, voice.value(call.args[p.name], p.type)) for p in private))


def _system(spec: WorldSpec, state: State, tools: tuple[str, ...]) -> str:
    """What the agent is told: whom it helps, the time, how values are written, the rules of the house."""
    me = state.tables["user"].get(state.me["id"], {"name": "a guest", "role": ""})
    rules = handbook(spec, [spec.tool(name) for name in tools])
    lines = [
        f"You help {me['name']} (id {state.me['id']}, role {state.me['role']}) with {spec.domain}.",
        f"It is {clock(state.now)}. Tools write times in minutes since day 0 (a day has 1440) and money in cents.",
        "Use only ids that you were told or have seen. Do what is asked, nothing else. If a rule forbids it, say so.",
    ]
    if rules:
        lines.append("Rules:\n" + "\n".join(f"- {rule}" for rule in rules))
    return "\n".join(lines)
