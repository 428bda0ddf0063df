"""Is a trajectory true, and how good is it? Everything is executed again, and the rubric is held against what came out.

A record is untrue, whatever its rubric says, where a result is not what the tool gives, the user says what this user
would not say, the tools are not the world's, calls are missing, or the dialogue stops before its end.
"""

from __future__ import annotations

from dataclasses import dataclass

from openk2.chat.messages import Message
from openk2.synth.task.dialogue import Dialogue, Trajectory
from openk2.synth.task.facts import wire
from openk2.synth.task.rubric import sentence_of
from openk2.synth.world.world import World


@dataclass(frozen=True)
class Score:
    """`untrue`: what the record says that did not happen; `failed`: checks that fail, (sentence, what was found)."""

    checks: int
    failed: tuple[tuple[str, str], ...]
    untrue: tuple[str, ...]

    @property
    def share(self) -> float:
        """Of the checks, those that hold; 0 for a record that is not true."""
        return 0.0 if self.untrue else 1 - len(self.failed) / self.checks


def problems(record: Trajectory, world: World) -> list[str]:
    """What is wrong with a trajectory of this world; empty for a true one. Raises nothing on malformed records."""
    score_ = score(record, world)
    return [*score_.untrue, *(found for _, found in score_.failed)]


def score(record: Trajectory, world: World) -> Score:
    """The record's checks, evaluated anew. Raises nothing on malformed records; `world` is left as it is."""
    try:
        talk = Dialogue.of_record(record, world)
        untrue = _replay(record, talk)
        failed = tuple((sentence_of(check), found) for check, found in talk.failures())
        return Score(len(talk.rubric), failed, tuple(untrue))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        return Score(0, (), (f"malformed: {error!r}",))


def _replay(record: Trajectory, talk: Dialogue) -> list[str]:
    """Speak the record's part of the agent; what does not come out as recorded."""
    out: list[str] = []
    if record["tools"] != [wire(spec) for spec in talk.specs]:
        out.append("the tools are not those of the world")
    messages = record["messages"]
    at = len(talk.messages)
    if messages[:at] != [m.to_json() for m in talk.messages]:
        out.append("the user says something else than the record says")
    while at < len(messages):
        if messages[at]["role"] != "assistant" or talk.over:
            out.append("a message stands where none can follow")
            break
        follow = talk.assistant(Message.from_json(messages[at]))
        recorded = messages[at + 1 : at + 1 + len(follow)]
        out += [_differs(mine) for mine, theirs in zip(follow, recorded, strict=False) if mine.to_json() != theirs]
        if len(recorded) < len(follow):
            out.append("a call has no result" if follow[0].role == "tool" else "the user's answer is missing")
        at += 1 + len(follow)
    if not talk.over:
        out.append("the dialogue stops before its end")
    if talk.calls != record["proof"]["calls"] or len(talk.faults) != len(record["proof"]["faults"]):
        out.append("calls are missing: the record says that there were others")
    return out


def _differs(message: Message) -> str:
    who = "a tool gives" if message.role == "tool" else "the user says"
    return f"{who} something else than the record says"
