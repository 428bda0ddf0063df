"""The questions of a sceptic, answered by running things: how many tools are there really, and what do tasks prove?"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from openk2.chat.messages import Message, ToolCall
from openk2.synth.task.dialogue import Dialogue, Trajectory
from openk2.synth.task.episode import Episode
from openk2.synth.task.make import Library
from openk2.synth.task.rubric import Declines, Evidence, Fulfils, StateCheck, States, reached
from openk2.synth.task.spoil import ALTERNATIVES, SPOILS, alternative
from openk2.synth.task.task import Task, draw_task
from openk2.synth.task.users import Wish
from openk2.synth.task.verify import problems
from openk2.synth.world.laws import failures
from openk2.synth.world.mutants import survivors
from openk2.synth.world.schemas import Api
from openk2.synth.world.signature import effects, fingerprint, shape
from openk2.synth.world.spec import Tool
from openk2.synth.world.world import World

_LARGE = 50  # tools of a world
_NEAR = 0.5  # Jaccard similarity of words at which a real tool counts as covered


@dataclass(frozen=True)
class Row:
    """One line of the table: what was asked, the figure, how it was found."""

    question: str
    figure: str
    how: str


def share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}% ({part:,} of {whole:,})" if whole else "none"


def tools_of(library: Library) -> list[Row]:
    """Counts and distinctness over all worlds."""
    shapes, deep, signatures, motifs = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    real = entities = large = 0
    for number in range(len(library)):
        spec = library.spec(number)
        entities += sum(not e.hidden for e in spec.entities)
        large += len(spec.tools) >= _LARGE
        for tool in spec.tools:
            shapes[shape(spec, tool)] += 1
            deep[shape(spec, tool, deep=True)] += 1
            signatures[effects(spec, tool)] += 1
            motifs[tool.motif] += 1
            real += bool(tool.source)
    tools = shapes.total()
    return [
        Row("worlds, entities, tools", f"{len(library):,}, {entities:,}, {tools:,}", "counted"),
        Row(f"worlds of {_LARGE} tools or more", share(large, len(library)), "counted"),
        Row("read off a real operation", share(real, tools), "botocore and MCP specifications; the rest are motifs"),
        Row("distinct shapes", share(len(shapes), tools), "verb, types of arguments and results, names left out"),
        Row("the same one level deeper", share(len(deep), tools), "with the types inside structures and lists"),
        Row("distinct effect signatures", share(len(signatures), tools), "shape, guards, reads, writes, errors"),
        Row("motifs", ", ".join(f"{name} {n:,}" for name, n in motifs.most_common()), "pieces of the algebra"),
    ]  # fmt: skip


def botocore_rows(apis: Iterable[Api]) -> list[Row]:
    shown = [operation for api in apis for operation in api.operations if operation.shape]
    top, deep = len({operation.shape for operation in shown}), len({operation.deep for operation in shown})
    how = "the same measure on real operations"
    return [
        Row("botocore's own distinct shapes", share(top, len(shown)), how),
        Row("botocore's, one level deeper", share(deep, len(shown)), how),
    ]


def sample(library: Library, count: int, rng: random.Random) -> list[tuple[World, Tool]]:
    """`count` different tools, a few a world."""
    out: list[tuple[World, Tool]] = []
    for number in rng.sample(range(len(library)), len(library)):
        world = World(library.spec(number))
        out += [(world, tool) for tool in rng.sample(world.spec.tools, min(4, len(world.spec.tools)))]
        if len(out) >= count:
            break
    return out[:count]


def proofs(tools: Sequence[tuple[World, Tool]]) -> list[Row]:
    """Laws, mutants and fingerprints of a sample."""
    unsound = [tool.name for world, tool in tools if failures(world, tool)]
    alive = mutants = 0
    prints: Counter[str] = Counter()
    for world, tool in tools:
        left, count = survivors(world, tool)
        alive, mutants = alive + len(left), mutants + count
        if mark := fingerprint(world, tool):
            prints[mark] += 1
    return [
        Row("tools that break a law", share(len(unsound), len(tools)), "guards at their edge, effects, frame, answer"),
        Row(
            "mutation score",
            share(mutants - alive, mutants),
            "faults planted in guards and effects, noticed by the laws",
        ),
        Row(
            "distinct fingerprints",
            share(len(prints), prints.total()),
            "results and changes in six situations, renamed",
        ),
    ]


def coverage(library: Library, apis: Iterable[Api]) -> list[Row]:
    """Real MCP tools with a tool of ours whose name and arguments share half their words; of any source, of another."""
    ours: dict[str, set[tuple[frozenset[str], str]]] = {}
    for number in range(len(library)):
        for tool in library.spec(number).tools:
            words = frozenset(_words(tool.name, *(p.name for p in tool.params)))
            for word in _words(tool.name):
                ours.setdefault(word, set()).add((words, tool.source.partition(".")[0]))
    seen = near = other = 0
    for operation in (operation for api in apis for operation in api.operations):
        words = frozenset(_words(operation.name, *(slot.name for slot in operation.inputs)))
        close = {pair for word in _words(operation.name) for pair in ours.get(word, ())}
        found = {source for w, source in close if len(words & w) >= _NEAR * len(words | w)}
        seen, near = seen + 1, near + bool(found)
        other += bool(found - {operation.source.partition(".")[0]})
    how = f"Jaccard of words of name and arguments >= {_NEAR}"
    return [
        Row("real MCP tools with a neighbour", share(near, seen), how),
        Row("... read off another service", share(other, seen), how),
    ]


def _words(*names: str) -> list[str]:
    return [word for name in names for word in name.split("_") if len(word) > 2]


# ---- tasks


def tasks_of(library: Library, count: int, rng: random.Random) -> list[tuple[World, Task]]:
    """`count` tasks, a few a world."""
    out: list[tuple[World, Task]] = []
    while len(out) < count:
        world = World(library.spec(rng.randrange(len(library))))
        for seed in range(6):
            if (task := draw_task(world, seed)) is not None:
                out.append((world, task))
    return out[:count]


def floors(tasks: Sequence[tuple[World, Task]]) -> list[Row]:
    """What policies without a thought reach on solvable tasks, and how many tasks need state."""
    solvable = [(world, task) for world, task in tasks if not task.refused]
    needs = sum(_needs_state(world, task) for world, task in solvable)
    rows = [Row("tasks that need state", share(needs, len(solvable)), "fail when the state is reset between calls")]
    for name, policy in (("first tool", _first), ("copy", _copy), ("keyword match", _keyword)):
        done = sum(_passes(world, task, policy) for world, task in solvable)
        rows.append(Row(f"floor: {name}", share(done, len(solvable)), "a policy that does not read results"))
    return rows


def _needs_state(world: World, task: Task) -> bool:
    """Whether something must be read, or the calls, each made in the first state, miss the goal."""
    if any(goal.kind in ("ask", "each") for goal in task.plan.goals):
        return True
    said = task.system + " ".join(wish.text for wish in task.wishes)
    ids = {key for table in task.plan.start.tables.values() for key in table if key not in said}
    if any(isinstance(v, str) and v in ids for call in task.plan.calls for v in call.args.values()):
        return True
    for call in task.plan.calls:
        world.restore(task.plan.start)
        world.call(call.tool, call.args)
    return not reached(task.rubric, Evidence(world.spec, task.plan.start, world.state, []))


Calls = list[tuple[str, dict[str, Any]]]
Policy = Callable[[Task, str, list[Any]], Calls]  # (task, the wish's text, what was said in it) -> calls


def _values(wish: Wish) -> list[Any]:
    """Ids, numbers and names that the user says."""
    text = f"{wish.text} {' '.join(value for _, value in wish.private)}"
    return [int(v) if v.isdigit() else v for v in re.findall(r"[a-z]+(?:-[a-z0-9]+)+|\d+", text)]


def _filled(tool: Tool, values: list[Any]) -> dict[str, Any]:
    """Arguments from what was said, in order, by type."""
    left = list(values)
    out: dict[str, Any] = {}
    for p in tool.params:
        kind = str if p.type.kind in ("text", "id") else int if p.type.kind in ("int", "money", "time") else None
        value = next((v for v in left if kind and isinstance(v, kind)), None)
        if p.type.kind == "choice":
            value = p.type.values[0]
        if p.type.kind == "flag":
            value = True
        if value is not None:
            out[p.name] = value
            if value in left:
                left.remove(value)
    return out


def _first(task: Task, text: str, values: list[Any]) -> Calls:
    return [(task.tools[0], _filled(task.world.tool(task.tools[0]), values))]


def _copy(task: Task, text: str, values: list[Any]) -> Calls:
    """Every tool once, with what was said."""
    return [(name, _filled(task.world.tool(name), values)) for name in task.tools]


def _keyword(task: Task, text: str, values: list[Any]) -> Calls:
    """The tool whose name shares most words with the wish."""
    words = set(re.findall(r"[a-z]+", text))
    best = max(task.tools, key=lambda name: (len(words & set(name.split("_"))), name))
    return [(best, _filled(task.world.tool(best), values))]


def _passes(world: World, task: Task, policy: Policy) -> bool:
    """Whether a policy that makes its calls and says the last result passes the checks of state and answers."""
    talk = Dialogue.of_task(world, task)
    while not talk.over:
        wish = task.wishes[talk.user.at]
        last = ""
        for name, arguments in policy(task, wish.text, _values(wish)):
            call = ToolCall("", name, json.dumps(arguments))
            last = talk.assistant(Message("assistant", "", "", (call,)))[0].content
        talk.assistant(Message("assistant", f"Done: {last}"))
    return not any(isinstance(check, StateCheck | States | Fulfils | Declines) for check, _ in talk.failures())


def dialogues(tasks: Sequence[tuple[World, Task]]) -> tuple[Row, list[tuple[World, Trajectory]]]:
    """Users replayed against their goals by the planner; a failure is ours, not an agent's."""
    made: list[tuple[World, Trajectory]] = []
    failed: Counter[str] = Counter()
    for world, task in tasks:
        try:
            record = Episode(world, task).run()
        except RuntimeError as error:
            failed[str(error).split(":")[0]] += 1
            continue
        if found := problems(record, world):
            failed[found[0]] += 1
        else:
            made.append((world, record))
    by_user = sum(n for what, n in failed.items() if "user" in what)
    told = ", ".join(f"{what} {n}" for what, n in failed.most_common(3))
    return Row(
        "dialogues that fail through the user", share(by_user, len(tasks)), f"other draws dropped: {told or 'none'}"
    ), made


def planted(made: Sequence[tuple[World, Trajectory]], bad: int, good: int, rng: random.Random) -> list[Row]:
    """Bad trajectories refused, valid alternatives accepted; of each kind as many as its share of tries gives."""
    refused, planted_ = Counter[str](), Counter[str]()
    passed, others = Counter[str](), Counter[str]()
    while (planted_.total() < bad or others.total() < good) and made:
        world, record = rng.choice(made)
        name = rng.choice(list(SPOILS))
        if planted_.total() < bad and (spoiled := SPOILS[name](record, world, rng)) is not None:
            planted_[name] += 1
            refused[name] += bool(problems(spoiled, world))
        kind = rng.choice(list(ALTERNATIVES))
        if others.total() < good and (other := alternative(record, world, rng, kind)) is not None:
            others[kind] += 1
            passed[kind] += not problems(other, world)
    return [
        Row("planted bad trajectories refused", share(refused.total(), planted_.total()), _kinds(refused, planted_)),
        Row("valid alternatives accepted", share(passed.total(), others.total()), _kinds(passed, others)),
    ]


def _kinds(part: Counter[str], whole: Counter[str]) -> str:
    return ", ".join(f"{name} {part[name]}/{n}" for name, n in sorted(whole.items()))


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = ["| question | figure | how |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {row.question} | {row.figure} | {row.how} |" for row in rows)])


def to_json(rows: Sequence[Row]) -> str:
    return json.dumps([row.__dict__ for row in rows], indent=1)
