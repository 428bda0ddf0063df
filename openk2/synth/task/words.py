"""Words for calls, records, values and rules: what a user asks, what an agent answers, what a handbook says."""

from __future__ import annotations

import random
from typing import Any

from openk2.synth.task.facts import label_of
from openk2.synth.task.phrases import listed
from openk2.synth.task.plan import Question
from openk2.synth.world import claims as c
from openk2.synth.world.schemas import verb_at
from openk2.synth.world.spec import Tool, WorldSpec
from openk2.synth.world.state import State
from openk2.synth.world.tree import Type, said

_DAY = 1440


def clock(minutes: int) -> str:
    """`day 12, 14:30`: as people here tell the time."""
    return f"day {minutes // _DAY}, {minutes % _DAY // 60:02}:{minutes % 60:02}"


def money(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02}"


class Voice:
    """How people of a world name things: a record by its label where that is one of a kind and the agent can look it
    up (its entity is not in `by_id`), else by its id.
    """

    def __init__(self, spec: WorldSpec, state: State, by_id: frozenset[str] = frozenset()) -> None:
        self.spec, self.state, self.by_id = spec, state, by_id

    def called(self, entity: str, key: str) -> str:
        record = self.state.tables.get(entity, {}).get(key)
        label = label_of(self.spec, entity)
        if record is None or label is None or record[label] is None or entity in self.by_id:
            return key
        same = sum(r[label] == record[label] for r in self.state.tables[entity].values())
        return str(record[label]) if same == 1 else key

    def value(self, value: Any, kind: Type) -> str:
        """A value as a person says it: money in units, times by the clock, records as `called`."""
        if value is None:
            return "nothing"
        match kind.kind:
            case "money":
                return money(value)
            case "time":
                return clock(value)
            case "flag":
                return "yes" if value else "no"
            case "id":
                return self.called(kind.of, value)
            case "ids":
                return ", ".join(self.called(kind.of, v) for v in value)
            case "texts":
                return ", ".join(map(str, value))
            case "object":
                types = {part.name: part.type for part in kind.parts}
                return " and ".join(f"{said(name)} {self.value(v, types[name])}" for name, v in value.items())
            case "objects":
                return "; ".join(self.value(v, Type("object", parts=kind.parts)) for v in value)
        return said(str(value)) if kind.kind == "choice" else str(value)

    def request(self, rng: random.Random, tool: Tool, args: dict[str, Any], instead: dict[str, str]) -> str:
        """A verb phrase that asks for this call and says all the values given: `move 12 of the stock of A to B`.

        `instead`: what is said in place of a value, by argument.
        """
        entity_of = {claim.id_arg: claim.entity for claim in tool.claims if isinstance(claim, c.Needs)}

        def record(arg: str) -> str:
            return f"the {said(entity_of[arg])} {self.called(entity_of[arg], args[arg])}"

        ids = [arg for arg in entity_of if arg in args]
        told = self._told(tool, args, set(entity_of), instead)
        if tool.motif == "transfer" and "amount" in args:
            field, amount = said(goal_of(tool, c.Adds).field), instead.get("amount", args["amount"])
            return rng.choice((
                f"move {amount} of the {field} of {record(ids[0])} to {record(ids[1])}",
                f"transfer {amount} {field} from {record(ids[0])} to {record(ids[1])}",
                f"take {amount} from the {field} of {record(ids[0])} and give it to {record(ids[1])}",
            ))  # fmt: skip
        phrase = _verb_phrase(rng, tool, [record(arg) for arg in ids])
        return phrase + (_joined(rng, told) if told else "")

    def _told(self, tool: Tool, args: dict[str, Any], without: set[str], instead: dict[str, str]) -> list[str]:
        rest = [p for p in tool.params if p.name in args and p.name not in without and not technical(p.name)]
        return [f"{said(p.name)} {instead.get(p.name) or self.value(args[p.name], p.type)}" for p in rest]

    def each(self, rng: random.Random, tool: Tool, args: dict[str, Any], entity: str, by: tuple[str, Any]) -> str:
        """A verb phrase that asks for this call for every record with this value in this field."""
        id_arg = next(claim.id_arg for claim in tool.claims if isinstance(claim, c.Needs))
        which = self.which(rng, entity, by)
        records = rng.choice((f"every {said(entity)} {which}", f"all {plural(entity)} {which}"))
        told = self._told(tool, args, {id_arg}, {})
        return _verb_phrase(rng, tool, [records]) + (_joined(rng, told) if told else "")

    def which(self, rng: random.Random, entity: str, by: tuple[str, Any]) -> str:
        """`whose status is stopped`."""
        name, value = by
        kind = self.spec.entity(entity).field(name).type
        shown = self.value(value, kind)
        return rng.choice((f"whose {said(name)} is {shown}", f"with {said(name)} {shown}"))

    def question(self, rng: random.Random, q: Question) -> str:
        """What comes after `tell me`."""
        name, which = said(q.field), f" {self.which(rng, q.entity, q.by)}" if q.by else ""
        many = plural(q.entity)
        match q.how:
            case "count":
                return rng.choice((f"how many {many} there are{which}", f"the number of {many}{which}"))
            case "sum":
                return f"the total {name} of all {many}{which}"
            case "value":
                record = f"the {said(q.entity)} {self.called(q.entity, q.key)}"
                return rng.choice((f"the {name} of {record}", f"what {record} has as {name}"))
        time = self.spec.entity(q.entity).field(q.field).type.kind == "time"
        more = ("latest", "earliest") if time else rng.choice((("largest", "smallest"), ("highest", "lowest")))
        return f"which {said(q.entity)}{which} has the {more[q.how == 'least']} {name}"

    def forms(self, q: Question, answer: Any) -> tuple[str, ...]:
        """How an answer may be written: as people say it, or as tools do."""
        if q.how in ("most", "least"):
            return tuple(dict.fromkeys((self.called(q.entity, answer), answer)))
        if q.how == "count":
            return (str(answer),)
        kind = self.spec.entity(q.entity).field(q.field).type
        spoken = "true" if answer is True else "false" if answer is False else str(answer)
        return tuple(dict.fromkeys((self.value(answer, kind), spoken)))


def plural(entity: str) -> str:
    words = said(entity)
    if words.endswith("y") and words[-2:-1] not in "aeiou":
        return words[:-1] + "ies"
    return words if words.endswith("s") else words + ("es" if words.endswith(("x", "ch", "sh")) else "s")


def goal_of(tool: Tool, effect: type) -> Any:
    return next((claim for claim in tool.claims if isinstance(claim, effect)), None)


def technical(name: str) -> bool:
    """Arguments that no person would think of."""
    return name in ("expected_version", "idempotency_key")


def _verb_phrase(rng: random.Random, tool: Tool, records: list[str]) -> str:
    """The tool's own verb, or another word for it, and the records it is about."""
    made = goal_of(tool, c.Creates)
    first, second = [*records, "", ""][:2]
    match tool.motif:
        case "merge":
            return rng.choice((f"merge {second} into {first}", f"fold {second} into {first}"))
        case "nest":
            return rng.choice((f"put {first} below {second}", f"move {first} under {second}"))
        case "hand_over":
            return rng.choice((f"hand {first} over to {second}", f"make {second} the owner of {first}"))
        case "reserve":
            return rng.choice((f"hold some of {first} for me", f"reserve from {first}"))
        case "confirm" | "release" | "cancel":
            return f"{tool.motif} {first}"
        case "schedule":
            return rng.choice((f"book {first}", f"reserve a time at {first}"))
        case "split":
            return rng.choice((f"split {first} into two", f"take a part of {first} into a new one"))
        case "ledger":
            verb = "charge" if tool.name.startswith("charge") else "credit"
            return rng.choice((f"{verb} {first}", f"post a {verb} to {first}"))
        case "subscribe":
            return rng.choice((f"tell me when {first} changes", f"put me on the watch list of {first}"))
        case "link":
            return rng.choice((f"link {first} with {second}", f"connect {first} and {second}"))
        case "unlink":
            return rng.choice((f"take {first} and {second} apart", f"end the link between {first} and {second}"))
        case "delete" | "soft_delete":
            return rng.choice((f"delete {first}", f"get rid of {first}", f"remove {first}"))
        case "update":
            return rng.choice((f"change {first}", f"update {first}", f"edit {first}"))
        case "copy":
            return rng.choice((f"make a copy of {first}", f"copy {first}"))
        case "create" if made is not None:
            noun = said(made.entity)
            of = f" for {' and '.join(records)}" if records else ""
            a = "an" if noun[0] in "aeiou" else "a"
            return rng.choice((f"create {a} {noun}{of}", f"set up a new {noun}{of}", f"add {a} {noun}{of}"))
        case "bulk":
            words = said(tool.name)
            return f"{words}{' of ' + first if first else ''}"
    words = tool.name.split("_")
    verb = words[verb_at(words) or 0]  # before the verb stands what the server calls itself: `crm_archive_association`
    return f"{verb} {' and '.join(records)}" if records else said(tool.name)


def _joined(rng: random.Random, told: list[str]) -> str:
    all_ = listed(told)
    return rng.choice((f" with {all_}", f": {all_}", f" ({all_})"))


def handbook(spec: WorldSpec, tools: list[Tool]) -> list[str]:
    """A sentence for every policy of these tools, equal ones together."""
    rules: dict[str, list[str]] = {}
    for tool in tools:
        for claim in tool.policies():
            if rule := rule_of(claim):
                rules.setdefault(rule, []).append(tool.name)
    return [f"{', '.join(names)}: {rule}" for rule, names in rules.items()]


def rule_of(claim: c.Policy) -> str:
    """The rule in words, or "" for what needs none."""
    match claim:
        case c.Owner(_, _, field, or_role):
            others = f" or a user with the role {or_role}" if or_role else ""
            return f"only for the {said(field).removesuffix(' id')} of the record{others}."
        case c.Role(allowed):
            return f"only for the role {' or '.join(allowed)}."
        case c.Hours(start, end):
            return f"only from {start}:00 to {end}:00."
        case c.Deadline(_, _, field, minutes):
            when = f"{abs(minutes)} minutes {'before' if minutes > 0 else 'after'} its {said(field)}"
            return f"only until {when if minutes else 'its ' + said(field)}."
        case c.Ceiling(arg, most, allowed):
            return f"a value of {said(arg)} above {most} only for the role {' or '.join(allowed)}."
        case c.Approved(_, _, n):
            return f"only after {n} other user{'s' if n > 1 else ''} approved the record."
        case c.Rate(_, n, minutes):
            return f"at most {n} calls by one user within {minutes} minutes."
        case c.Version():
            return "takes the version of the record that was read last; it is refused if the record changed meanwhile."
        case c.Idempotent():
            return "with an idempotency_key, a repeated call takes effect once."
    return ""
