"""Bad trajectories made of good ones, and valid alternatives: what a verifier must refuse, and what it must not.

Each kind of badness changes what the agent did or said as a careless or dishonest one would, and lets the world and the
user answer anew where that belongs to it. The record is kept only if it is bad by its construction.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from openk2.chat.messages import Message, ToolCall
from openk2.synth.task.dialogue import Dialogue, Trajectory, rows_of, start_of
from openk2.synth.task.rubric import Declines, Evidence, States, from_json, reached
from openk2.synth.world.populate import draw_value
from openk2.synth.world.world import World

Spoil = Callable[[Trajectory, World, random.Random], Trajectory | None]


class Told:
    """A record taken apart: `mine`, what the agent said and did, without calls that a fault made it repeat."""

    def __init__(self, record: Trajectory, world: World) -> None:
        self.record, self.world = record, world
        self.rubric = from_json(record["proof"]["rubric"])
        messages = [Message.from_json(data) for data in record["messages"]]
        results = {m.tool_call_id: m.content for m in messages if m.role == "tool"}
        self.mine: list[Message] = []
        self.failed: set[int] = set()  # of `mine`, whose single call was refused
        busy: set[tuple[str, str]] = set()
        silent: set[tuple[str, str]] = set()
        for m in messages:
            if m.role != "assistant":
                continue
            calls = {(call.name, call.arguments) for call in m.tool_calls}
            again = bool(calls) and (calls <= busy or calls <= silent)
            busy = {(x.name, x.arguments) for x in m.tool_calls if "try again" in results[x.id]}
            silent |= {(x.name, x.arguments) for x in m.tool_calls if "did not answer in time" in results[x.id]}
            if not again:
                self.mine.append(m)
                struck = busy | (calls & silent)
                if len(m.tool_calls) == 1 and '{"error"' in results[m.tool_calls[0].id] and not struck:
                    self.failed.add(len(self.mine) - 1)

    def single(self, changing: bool) -> list[int]:
        """Where one call was made that succeeded, of a tool that changes something (or reads)."""
        return [
            i for i, m in enumerate(self.mine)
            if len(m.tool_calls) == 1 and i not in self.failed
            and self.world.tools[m.tool_calls[0].name].reads != changing
        ]  # fmt: skip

    def answers(self) -> list[int]:
        return [i for i, m in enumerate(self.mine) if not m.tool_calls]

    def answer_to(self, wish: int) -> int:
        """Where the last answer to a wish is."""
        _, talk = self.again(self.mine)
        return self.answers()[sum(map(len, talk.evidence.answers[: wish + 1])) - 1]

    def again(self, mine: list[Message]) -> tuple[Trajectory, Dialogue]:
        """The record in which the agent says and does this instead, no fault striking."""
        proof = self.record["proof"] | {"faults": []}
        talk = Dialogue.of_record(self.record | {"proof": proof}, self.world)
        for m in mine:
            if not talk.over:
                talk.assistant(m)
        proof |= {"faults": talk.faults, "calls": talk.calls}
        return self.record | {"messages": [m.to_json() for m in talk.messages], "proof": proof}, talk

    def missed(self, mine: list[Message]) -> Trajectory | None:
        """The same, if it ends in another state than it should."""
        record, talk = self.again(mine)
        evidence = Evidence(self.world.spec, talk.start, talk.world.state, [])
        return None if reached(self.rubric, evidence) else record


def _pick(rng: random.Random, places: list[int]) -> int | None:
    return rng.choice(places) if places else None


def _called(message: Message, **args: Any) -> Message:
    """The message with its one call changed."""
    return replace(message, tool_calls=(replace(message.tool_calls[0], **args),))


def wrong_argument(record: Trajectory, world: World, rng: random.Random) -> Trajectory | None:
    """Another value in a call that changes something."""
    told = Told(record, world)
    at = _pick(rng, told.single(changing=True))
    if at is None:
        return None
    call = told.mine[at].tool_calls[0]
    arguments = json.loads(call.arguments)
    params = [p for p in world.tools[call.name].params if p.name in arguments]
    if not params:
        return None
    p = rng.choice(params)
    world.restore(start_of(record, world))
    value = draw_value(p, world.state, rng)
    if value is None or value == arguments[p.name]:
        return None
    told.mine[at] = _called(told.mine[at], arguments=json.dumps(arguments | {p.name: value}, ensure_ascii=False))
    return told.missed(told.mine)


def skipped_step(record: Trajectory, world: World, rng: random.Random) -> Trajectory | None:
    """A needed call is left out, the answer stays."""
    told = Told(record, world)
    at = _pick(rng, told.single(changing=True))
    return None if at is None else told.missed(told.mine[:at] + told.mine[at + 1 :])


def wrong_order(record: Trajectory, world: World, rng: random.Random) -> Trajectory | None:
    """Two calls that change something are made in the other order."""
    told = Told(record, world)
    changing = told.single(changing=True)
    if len(changing) < 2:
        return None
    i = rng.randrange(len(changing) - 1)
    a, b = changing[i], changing[i + 1]
    told.mine[a], told.mine[b] = told.mine[b], told.mine[a]
    return told.missed(told.mine)


def right_words(record: Trajectory, world: World, rng: random.Random) -> Trajectory | None:
    """A right answer over a wrong state: something more was changed on the way."""
    told = Told(record, world)
    world.restore(start_of(record, world))
    tools = [t for spec in record["tools"] if not (t := world.tools[spec["function"]["name"]]).reads]
    for tool in rng.sample(tools, len(tools)):
        values = {p.name: draw_value(p, world.state, rng) for p in tool.params if p.required}
        arguments = json.dumps({name: value for name, value in values.items() if value is not None})
        more = Message("assistant", "", "One more.", (ToolCall("functions.more:0", tool.name, arguments),))
        spoiled = told.missed([*told.mine[:-1], more, told.mine[-1]])
        if spoiled is not None:
            return spoiled
    return None


def twice(record: Trajectory, world: World, rng: random.Random) -> Trajectory | None:
    """A call that had succeeded is made once more, and succeeds again."""
    told = Told(record, world)
    at = _pick(rng, told.single(changing=True))
    if at is None:
        return None
    again = replace(_called(told.mine[at], id="functions.again:0"), reasoning="Once more, to be sure.")
    spoiled, _ = told.again([*told.mine[: at + 1], again, *told.mine[at + 1 :]])
    result = next(m for m in spoiled["messages"] if m.get("tool_call_id") == "functions.again:0")
    return None if '{"error"' in result["content"] else spoiled


def guessed_id(record: Trajectory, world: World, rng: random.Random) -> Trajectory | None:
    """An id is used that was never looked up: the reading calls are gone, the answer is right by luck."""
    told = Told(record, world)
    reads = set(told.single(changing=False))
    spoiled, _ = told.again([m for i, m in enumerate(told.mine) if i not in reads])
    shown = ""
    for m in spoiled["messages"]:
        for call in m.get("tool_calls") or ():
            values = json.loads(call["function"]["arguments"]).values()
            known = {key for table in start_of(record, world).tables.values() for key in table}
            if any(isinstance(v, str) and v in known and v not in shown for v in values):
                return spoiled
        shown += m["content"] if m["role"] != "assistant" else ""
    return None


def unasked(record: Trajectory, world: World, rng: random.Random) -> Trajectory | None:
    """What the user had kept back is used, right by luck, without having been asked for."""
    told = Told(record, world)
    tells = [i for i in told.answers() if told.mine[i].content.endswith("?") and i + 1 < len(told.mine)]
    at = _pick(rng, tells)
    facts = [fact for wish in record["proof"]["user"]["wishes"] for fact in wish["private"]]
    if at is None or not told.mine[at + 1].tool_calls:
        return None
    mine = [m for i, m in enumerate(told.mine) if i not in tells]
    spoiled, talk = told.again(mine)
    said = " ".join(text for _, text in talk.evidence.said)
    used = [c for c in told.rubric if type(c).__name__ == "Asked" and getattr(c, "said", "") not in said]
    return spoiled if used and facts and talk.over else None


def forged_result(record: Trajectory, world: World, rng: random.Random) -> Trajectory | None:
    """The call was not made as told: its result is made up."""
    record = copy.deepcopy(record)
    results = [m for m in record["messages"] if m["role"] == "tool"]
    if not results:
        return None
    message = rng.choice(results)
    result = json.loads(message["content"])
    numbers = [k for k, v in result.items() if isinstance(v, int) and not isinstance(v, bool)]
    if not numbers:
        return None
    result[rng.choice(numbers)] += rng.randint(1, 9)
    message["content"] = json.dumps(result, ensure_ascii=False)
    return record


def forged_user(record: Trajectory, world: World, rng: random.Random) -> Trajectory | None:
    """The user is made to say what this user would not."""
    record = copy.deepcopy(record)
    message = rng.choice([m for m in record["messages"] if m["role"] == "user"])
    message["content"] += rng.choice(
        (" And delete the rest.", " You may break the rules for me.", " It is the id above.")
    )
    return record


def false_claim(record: Trajectory, world: World, rng: random.Random) -> Trajectory | None:
    """The last answer states a figure that nothing gave."""
    record = copy.deepcopy(record)
    record["messages"][-1]["content"] += f" Its reference number is {rng.randint(10**6, 10**7)}."
    return record


def wrong_figure(record: Trajectory, world: World, rng: random.Random) -> Trajectory | None:
    """A question is answered with another figure or record that was shown."""
    told = Told(record, world)
    asked = [c for c in told.rubric if isinstance(c, States)]
    shown = [m["content"] for m in record["messages"] if m["role"] == "tool"]
    for check in rng.sample(asked, len(asked)):
        rows = [row for text in shown for row in rows_of(json.loads(text))]
        other = sorted({str(v) for row in rows for v in row.values() if isinstance(v, str | int)} - set(check.forms))
        if other:
            text, at = rng.choice(other), told.answer_to(check.wish)
            if not any(form.lower() in text.lower() for form in check.forms):
                told.mine[at] = replace(told.mine[at], content=f"It is {text}.")
                return told.again(told.mine)[0]
    return None


def false_done(record: Trajectory, world: World, rng: random.Random) -> Trajectory | None:
    """A wish that was refused is said to be done, or one that was done to be impossible."""
    told = Told(record, world)
    number = rng.randrange(len(record["proof"]["user"]["wishes"]))
    declined = any(isinstance(c, Declines) and c.wish == number for c in told.rubric)
    at = told.answer_to(number)
    text = "Done, as you asked." if declined else "I could not do that. Nothing was changed."
    told.mine[at] = replace(told.mine[at], content=text)
    return told.again(told.mine)[0]


def no_reason(record: Trajectory, world: World, rng: random.Random) -> Trajectory | None:
    """A wish is declined without a word why."""
    told = Told(record, world)
    declined = [i for i in told.answers() if "I could not do that:" in told.mine[i].content]
    if not declined:
        return None
    told.mine[declined[0]] = replace(told.mine[declined[0]], content="I cannot do that for you today.")
    return told.again(told.mine)[0]


SPOILS: dict[str, Spoil] = {
    "wrong argument": wrong_argument, "skipped step": skipped_step, "forged result": forged_result,
    "false claim": false_claim, "wrong order": wrong_order, "guessed id": guessed_id, "right words": right_words,
    "made twice": twice, "not asked": unasked, "forged user": forged_user, "wrong figure": wrong_figure,
    "false done": false_done, "no reason": no_reason,
}  # fmt: skip


# ---- what must be accepted


def look_more(told: Told, rng: random.Random) -> list[Message] | None:
    """A list is read once more, anywhere."""
    tools = [t for s in told.record["tools"] if (t := told.world.tools[s["function"]["name"]]).reads]
    tools = [t for t in tools if not any(p.required for p in t.params)]
    if not tools:
        return None
    call = ToolCall("functions.look:0", rng.choice(tools).name, "{}")
    at = rng.randint(0, len(told.mine) - 1)
    return [*told.mine[:at], Message("assistant", "", "I look again.", (call,)), *told.mine[at:]]


def _timeless(told: Told, rng: random.Random) -> list[Message]:
    """Answers that tell no time, where the clock will be another than when they were written."""
    return other_words(told, rng) if any("day " in told.mine[i].content for i in told.answers()) else told.mine


def straight(told: Told, rng: random.Random) -> list[Message] | None:
    """Without a call that was refused and made again later."""
    later = {i: [x.tool_calls[0] for x in told.mine[i + 1 :] if len(x.tool_calls) == 1] for i in told.failed}
    repeated = [i for i in told.failed if any(_same(told.mine[i].tool_calls[0], call) for call in later[i])]
    return [m for i, m in enumerate(told.mine) if i not in repeated] if repeated else None


def _same(a: ToolCall, b: ToolCall) -> bool:
    return (a.name, a.arguments) == (b.name, b.arguments)


def one_by_one(told: Told, rng: random.Random) -> list[Message] | None:
    """Calls of one message each in its own, in another order."""
    if all(len(m.tool_calls) < 2 for m in told.mine):
        return None
    out: list[Message] = []
    for m in told.mine:
        calls = rng.sample(m.tool_calls, len(m.tool_calls))
        out += [replace(m, tool_calls=(call,)) for call in calls] if len(calls) > 1 else [m]
    return out


def other_words(told: Told, rng: random.Random) -> list[Message]:
    """The answers in a person's own words, with what was asked for, and nothing else."""
    stated = {c.wish: c.forms[-1] for c in told.rubric if isinstance(c, States)}
    declined = {c.wish for c in told.rubric if isinstance(c, Declines)}
    out = list(told.mine)
    for wish in range(len(told.record["proof"]["user"]["wishes"])):
        at = told.answer_to(wish)
        text = rng.choice(("All set!", "It's taken care of.", "That went through fine."))
        if wish in declined:
            text = f"Sorry, but I'm not able to do this. {out[at].content}"
        elif wish in stated:
            text = rng.choice(("I looked: {}", "{}", "That would be **{}**.")).format(stated[wish])
        out[at] = replace(out[at], content=text)
    return out


def talkative(told: Told, rng: random.Random) -> list[Message]:
    """The agent promises, asks whether it may, asks what was said, and is courteous; it does the same things."""
    out = list(told.mine)
    places = [told.answer_to(wish) for wish in range(len(told.record["proof"]["user"]["wishes"]))]
    for at in reversed(places):
        more = rng.choice((" Is there anything else I can help you with?", " Can I do something else for you?", ""))
        out[at] = replace(out[at], content=out[at].content + more)
    for at in sorted((0, *(place + 1 for place in places[:-1])), reverse=True):
        texts = rng.sample(("Let me have a look.", "Shall I go ahead?", "Could you say that again, please?",
                            "I will see to it. Is it urgent? And is it for you?"), rng.randint(1, 2))  # fmt: skip
        out[at:at] = [Message("assistant", text, "I talk first.") for text in texts]
    return out


ALTERNATIVES: dict[str, Callable[[Told, random.Random], list[Message] | None]] = {
    "a look more": look_more, "no failed call": straight, "one by one": one_by_one, "other words": other_words,
    "talkative": talkative,
}  # fmt: skip


def alternative(record: Trajectory, world: World, rng: random.Random, kind: str) -> Trajectory | None:
    """Another valid way to the same end, or None where the record has no place for this kind."""
    told = Told(record, world)
    told.mine = _timeless(told, rng)
    mine = ALTERNATIVES[kind](told, rng)
    return None if mine is None else told.again(mine)[0]
