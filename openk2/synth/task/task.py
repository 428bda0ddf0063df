"""A task: a world in a state, an agent (prompt and tools), a user, a plan, and the rubric by which it is judged.

A function of the world's spec, a seed and the dials.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from openk2.synth.task import rubric as r
from openk2.synth.task.dials import Dials
from openk2.synth.task.facts import finder
from openk2.synth.task.goals import make_plan
from openk2.synth.task.needed import given
from openk2.synth.task.office import Office
from openk2.synth.task.phrases import MANNERS, Manner
from openk2.synth.task.plan import Goal, Plan
from openk2.synth.task.users import POLICIES, Policy, User, Wish
from openk2.synth.task.words import Voice, clock, handbook, money, technical
from openk2.synth.world import claims as c
from openk2.synth.world.spec import Tool, WorldSpec
from openk2.synth.world.state import State
from openk2.synth.world.tree import said
from openk2.synth.world.world import World

_STATES = 4  # fresh states of a world: making one costs as much as a task


@dataclass
class Task:
    """`wishes`: one for each goal of the plan. `finders`: by entity, the tool that lists all its records with their
    labels; records of other entities are called by their ids.
    """

    world: WorldSpec
    seed: int
    plan: Plan
    wishes: tuple[Wish, ...]
    manner: Manner
    policy: Policy
    tools: tuple[str, ...]
    system: str
    rubric: tuple[r.Check, ...]
    finders: dict[str, str]

    @property
    def first(self) -> int:
        """The seed of the world's first state from which the task's was made."""
        return self.seed % _STATES

    @property
    def refused(self) -> bool:
        """Whether every wish must be declined."""
        return all(goal.kind == "refuse" for goal in self.plan.goals)

    def reached(self, state: State) -> bool:
        """Whether the state is one in which the task may end."""
        return r.reached(self.rubric, r.Evidence(self.world, self.plan.start, state, []))

    def user(self) -> User:
        return User(self.wishes, self.manner, self.seed, self.policy)


def draw_task(world: World, seed: int, dials: Dials | None = None) -> Task | None:
    """The task of this seed, or None where none is found; leaves `world` in the task's first state.

    In an office the task is about the main world, and the tools of the others are in the agent's hand, too.
    """
    office, world = world, world.main if isinstance(world, Office) else world
    rng = random.Random(f"openk2 task {world.spec.name} {world.spec.seed} {seed}")
    dials = (dials or Dials()).stretched(rng)
    world.fault = None
    world.reset(seed % _STATES)
    plan = make_plan(world, rng, dials, lambda plan: _needs_looking(world, plan))
    if plan is None:
        return None
    spec = world.spec
    finders, by_id = _finders(spec, plan)
    tools = _offered(rng, world, plan, dials.tools)
    wishes, checks = [], []
    for number, goal in enumerate(plan.goals):
        assert goal.before is not None
        wish, more = _wish(rng, Voice(spec, goal.before, by_id), world, number, goal, dials)
        wishes.append(wish)
        checks += more
    rubric = (*r.state_checks(spec, plan.start, plan.end, given(plan)), *checks, *r.CONDUCT)
    system = _system(spec, plan.start, [world.tools[name] for name in tools])
    if isinstance(office, Office):
        more = [name for name in office.tools if name not in world.tools]
        tools = (*tools, *more)
        office.restore(plan.start)
        system += "".join(_beside(other, [t for n, t in other.tools.items() if n in more]) for other in office.beside)
    office.restore(plan.start)
    return Task(
        spec, seed, plan, tuple(wishes), rng.choice(MANNERS), rng.choice(POLICIES), tools,
        system, rubric, finders,
    )  # fmt: skip


def _finders(spec: WorldSpec, plan: Plan) -> tuple[dict[str, str], frozenset[str]]:
    """The tools that list all records of an entity, and the entities that have none."""
    names = [entity.name for entity in spec.entities]
    finders = {name: tool.name for name in names if (tool := finder(spec, name, plan.few)) is not None}
    return finders, frozenset(names) - finders.keys()


def _needs_looking(world: World, plan: Plan) -> bool:
    """Whether something must be looked up, or done that is not said: else whoever copies what was said is right."""
    _, by_id = _finders(world.spec, plan)
    if all(goal.kind == "refuse" for goal in plan.goals):
        return True
    for goal in plan.goals:
        if goal.kind == "refuse":
            continue
        if goal.kind in ("each", "ask") or len(goal.calls) > 1:
            return True
        assert goal.before is not None
        tool, args = world.tools[goal.calls[0].tool], goal.calls[0].args
        voice = Voice(world.spec, goal.before, by_id)
        for p in tool.params:
            if p.type.kind == "id" and p.name in args and voice.called(p.type.of, args[p.name]) != args[p.name]:
                return True
        if any(isinstance(claim, c.Version) for claim in tool.claims):
            return True
    return False


def _offered(rng: random.Random, world: World, plan: Plan, least: int) -> tuple[str, ...]:
    """What is needed, all that reads, and others that are not."""
    chosen = {call.tool for goal in plan.goals for call in goal.calls}
    others = [tool.name for tool in world.spec.tools if not tool.reads and tool.name not in chosen]
    chosen |= set(rng.sample(others, min(len(others), max(0, least - len(chosen)))))
    return tuple(tool.name for tool in world.spec.tools if tool.reads or tool.name in chosen)


def _wish(
    rng: random.Random, voice: Voice, world: World, number: int, goal: Goal, dials: Dials
) -> tuple[Wish, list[r.Check]]:
    """A goal in words, some of its values kept back, and the checks of what is told."""
    if goal.question is not None:
        forms = voice.forms(goal.question, goal.answer)
        wish = Wish(voice.question(rng, goal.question), calls=0, question=True)
        return wish, [r.States(number, forms), r.Fulfils(number)]
    target = goal.calls[-1]
    tool = world.tools[target.tool]
    if goal.kind == "each":
        text = voice.each(rng, tool, target.args, goal.entity, goal.by)
        return Wish(text, calls=len(goal.calls)), [r.Fulfils(number)]
    simple = ("text", "int", "money", "time", "flag", "choice")
    plain = [p for p in tool.params if p.name in target.args and p.required and p.type.kind in simple]
    plain = [p for p in plain if not technical(p.name)]
    private = [p for p in plain if rng.random() < dials.private]
    names = {p.name for p in private}
    spoken = tuple((p.name, voice.value(target.args[p.name], p.type)) for p in private)
    checks: list[r.Check] = [
        r.Asked(tool.name, name, target.args[name], value) for name, value in spoken if not _guessable(tool, name)
    ]
    instead, correction = _corrected(rng, voice, tool, target.args, names, dials)
    given_ = {name: value for name, value in target.args.items() if name not in names}
    text = voice.request(rng, tool, given_, instead)
    if goal.kind == "refuse":
        checks += [r.Declines(number), r.Explains(number, goal.words)]
    else:
        checks.append(r.Fulfils(number))
    return Wish(text, spoken, correction, len(goal.changing)), checks


def _guessable(tool: Tool, name: str) -> bool:
    """A value of few: to have used it before it was said need not be a guess of this wish's."""
    return tool.param(name).type.kind in ("flag", "choice")


def _corrected(
    rng: random.Random, voice: Voice, tool: Tool, args: dict[str, object], private: set[str], dials: Dials
) -> tuple[dict[str, str], str]:
    """A number said wrong first: (what is said in its place, how it is put right later, or "" if at once)."""
    numbers = [p for p in tool.params if p.name in args and p.name not in private and p.type.kind in ("int", "money")]
    numbers = [p for p in numbers if not technical(p.name)]
    if not numbers or rng.random() >= dials.corrected:
        return {}, ""
    p = rng.choice(numbers)
    right, value = voice.value(args[p.name], p.type), args[p.name]
    assert isinstance(value, int)
    other = value + rng.choice((1, 2, 5, 10))
    wrong = money(other) if p.type.kind == "money" else str(other)
    if private:
        return {p.name: wrong}, f"And the {said(p.name)} is {right}, not {wrong}."
    return {p.name: rng.choice((f"{wrong}, no, {right}", f"{wrong} - sorry, {right}", f"{wrong}, I mean {right}"))}, ""


def _system(spec: WorldSpec, state: State, tools: list[Tool]) -> str:
    """What the agent is told: whom it helps, the time, how values are written, the rules of the house."""
    me = state.tables["user"].get(state.me["id"], {"name": "a guest", "role": ""})
    lines = [
        f"You help {me['name']} (id {state.me['id']}, role {state.me['role']}) with {spec.domain}.",
        f"It is {clock(state.now)}. Tools write times in minutes since day 0 (a day has 1440) and money in cents.",
        "Use only ids that you were told or have seen. Do what is asked, nothing else; but where a record must be in "
        "another state first, bring it there. If a rule forbids what is asked, say so.",
    ]
    return "\n".join(lines) + _rules("Rules", spec, tools)


def _beside(world: World, tools: list[Tool]) -> str:
    """What is told of a world whose tools the agent has besides."""
    me = world.state.me
    told = f"\nYou also have tools of {world.spec.domain}, where the user is {me['id']} with the role {me['role']}."
    return told + _rules(f"Rules of {world.spec.domain}", world.spec, tools)


def _rules(title: str, spec: WorldSpec, tools: list[Tool]) -> str:
    rules = handbook(spec, tools)
    return f"\n{title}:\n" + "\n".join(f"- {rule}" for rule in rules) if rules else ""
