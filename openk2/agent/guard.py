"""Runs that go in circles: what is noticed, and what is done about it.

Three signs are looked for after each step: the same call with the same result again and again (also in turn with
others), the same search in other words, and replies whose calls cannot be run. The first time the model is told; the
second time its last replies are taken back as well; the third time the run ends with the best answer so far. What came
before the last word of a guard is not counted again. A fourth sign, a reply that repeats itself while it is being
written, is for `Babble`.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from itertools import takewhile

from openk2.agent.entries import call_line, handle
from openk2.agent.events import Guarded, ReplyReceived, ToolFinished
from openk2.agent.state import State
from openk2.chat.messages import ToolCall
from openk2.tools.formats import NO_LINE

WINDOW = 24  # calls that are looked back at
SAME = 3  # times the same call gave the same result
SEARCHES = 4  # with the same words
INVALID = 2  # replies in a row of which no call could be run
ACTIONS = ("nudge", "rollback", "stop")


@dataclass(frozen=True, slots=True)
class Made:
    """A call with its result. `reply` is the number of the event that made it."""

    reply: int
    call: ToolCall
    result: ToolFinished

    @property
    def sign(self) -> tuple[str, str, str]:
        return self.call.name, _canonical(self.call.arguments), self.result.content


def look(state: State) -> Guarded | None:
    """What to do now, if the run goes in circles."""
    since = max(state.turn, state.guards[-1].seq if state.guards else 0)
    made = _made(state, since)
    if not made:
        return None
    if found := _invalid(state, made):
        return _action(state, "invalid", *found)
    for kind, find in (("repeat", _repeat), ("search", _search)):
        if found := find(made):
            return _action(state, kind, *found)
    return None


def empty_handed(state: State) -> bool:
    """Whether the last reply only searched and no line was found, by a model that cannot be told to try other words.

    Such a model has been shown lines after each search it was trained on: asked on, it makes them up.
    """
    last = state.last
    if state.habits.steer or last is None or last.seq <= state.turn or not last.message.tool_calls:
        return False
    results = [state.results.get((last.seq, index)) for index in range(len(last.message.tool_calls))]
    return all(result is not None and result.name == "search" and result.content == NO_LINE for result in results)


def _action(state: State, kind: str, text: str, since: int) -> Guarded:
    before = sum(guard.kind == kind and guard.seq > state.turn for guard in state.guards)
    action = ACTIONS[min(before, 2)] if state.habits.steer else "stop"
    return Guarded(kind=kind, action=action, text=text, since=since)


def _made(state: State, since: int) -> list[Made]:
    """The last calls that have a result, oldest first."""
    made: list[Made] = []
    for reply in reversed(state.replies):
        if reply.seq <= since or len(made) >= WINDOW:
            break
        for index, call in reversed(list(enumerate(reply.message.tool_calls))):
            if result := state.results.get((reply.seq, index)):
                made.append(Made(reply.seq, call, result))
    return made[::-1]


def _invalid(state: State, made: list[Made]) -> tuple[str, int] | None:
    def nothing_ran(reply: ReplyReceived) -> bool:
        calls = reply.message.tool_calls
        results = [state.results.get((reply.seq, index)) for index in range(len(calls))]
        return bool(calls) and all(result is not None and result.invalid for result in results)

    first = made[0].reply
    last = list(takewhile(nothing_ran, (r for r in reversed(state.replies) if r.seq >= first)))
    if len(last) < INVALID:
        return None
    why = made[-1].result.content
    text = f"None of your last {len(last)} replies held a call that can be run. {why}\nMake one valid call, or answer."
    return text, last[-1].seq


def _repeat(made: list[Made]) -> tuple[str, int] | None:
    last = made[-1]
    same = [item for item in made if item.sign == last.sign]
    if len(same) < SAME:
        return None
    text = (
        f"You have called {call_line(last.call)} {len(same)} times and got the same result each time "
        f"({handle(same[0].result)}). Calling it again will not help: use what it showed, try another way, or answer."
    )
    return text, same[1].reply


def _search(made: list[Made]) -> tuple[str, int] | None:
    """The same words searched for again, in another order or with other small words, while they found the same."""
    if made[-1].call.name != "search":
        return None
    found = [(item, words, item.result.content) for item in made if (words := _query(item.call))]
    if not found or found[-1][0] is not made[-1]:
        return None
    wanted = found[-1][1:]
    same = [item for item, words, content in found if (words, content) == wanted]
    if len(same) < SEARCHES:
        return None
    text = (
        f"You have searched for the same words {len(same)} times ({handle(same[0].result)}); the search gives "
        "the same. Open what it found, search in truly other words, or say that it is not to be found."
    )
    return text, same[1].reply


def _query(call: ToolCall) -> frozenset[str]:
    if call.name != "search":
        return frozenset()
    from openk2.tools.index import STOP_WORDS, words

    try:
        query = json.loads(call.arguments)["query"]
    except (ValueError, KeyError, TypeError):
        return frozenset()
    return frozenset(words(str(query))) - STOP_WORDS


def _canonical(arguments: str) -> str:
    try:
        return json.dumps(json.loads(arguments), sort_keys=True)
    except (ValueError, RecursionError):
        return " ".join(arguments.split())


class Babble:
    """Watches a reply as it is written: true once it says the same over and over, which no model ends by itself."""

    EVERY = 2000  # characters between looks
    LOOK = 6000  # characters looked at
    TIMES = 12

    def __init__(self) -> None:
        self.heard = False
        self._tail = ""
        self._next = self.LOOK

    def feed(self, text: str) -> bool:
        self._tail += text
        if len(self._tail) < self._next:
            return False
        self._tail = self._tail[-self.LOOK :]
        self._next = self.LOOK + self.EVERY
        self.heard = self.heard or self._repeats()
        return self.heard

    def _repeats(self) -> bool:
        """Whether the text is made of a few lines, or of one short piece without lines, many times over."""
        lines = [line.strip() for line in self._tail.split("\n") if len(line.strip()) > 8]
        if len(lines) >= 3 * self.TIMES:
            few = Counter(lines).most_common(3)
            return sum(count for _, count in few) > 0.9 * len(lines)
        text = self._tail
        piece = text[-40:]
        step = len(text) - 40 - text.rfind(piece, 0, len(text) - 1)
        if not 0 < step <= self.LOOK // self.TIMES:
            return False
        span = step * self.TIMES
        return text[-span:] == text[-step:] * self.TIMES and len(set(text[-step:])) > 1
