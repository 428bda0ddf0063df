"""People who want something: an explicit state machine with wishes, private facts, a way to reveal them, a manner.

No traps, so that a dialogue can fail through the agent alone. The user hears a text, and knows how much was done (what
a person would see in the service). In this order:

1. something of the wish is not said yet and nothing was done: the user says it (all of it, what was asked, or piece by
   piece, as is this user's way), unless the agent declines;
2. the wish is done, or the agent declines it, or reports: the user goes on to the next wish, and ends after the last;
3. the agent asks something else, announces what it will do, or asks whether to go on: the user repeats the wish, or
   says go on; after `PATIENCE` such answers to one wish the user goes on as in 2.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from openk2.synth.task.phrases import FRAMES, GO_ON, NEXT, NOTHING_MORE, TELLS, Manner, declines, listed, sentence
from openk2.synth.world.tree import said

Policy = Literal["all", "asked", "pieces"]
POLICIES: tuple[Policy, ...] = ("all", "asked", "pieces")
PATIENCE = 3

_COURTESY = re.compile(
    r"[^.?!]*\b((any|some)thing else|what else|what('s| is) next|other (questions?|requests?)|further (help|assistance|"
    r"questions?)|how (else )?(can|may) I (help|assist)|more I can)\b[^.?!]*\?",
    re.IGNORECASE,
)
_PROMISE = re.compile(r"\b(I will|I'll|let me|I am going to|I'm going to|one moment|please wait)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Wish:
    """`text`: a verb phrase, as first said. `private`: what is kept back, (name of the argument, value as said).

    `correction`: said with the first private fact, where something of `text` was wrong. `calls`: how many calls that
    change something it takes (0: none, a question or a wish that will be declined). `question`: it is one.
    """

    text: str
    private: tuple[tuple[str, str], ...] = ()
    correction: str = ""
    calls: int = 1
    question: bool = False


@dataclass
class User:
    """`reply` is the whole behaviour; it depends on the texts heard, on what was done, and on the seed."""

    wishes: tuple[Wish, ...]
    manner: Manner
    seed: int
    policy: Policy = "all"
    at: int = 0  # the wish in work; len(wishes) at the end
    told: set[str] = field(default_factory=set)  # names of its private facts that were said
    nudges: int = 0
    _rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._rng = random.Random(f"user {self.seed}")

    def to_json(self) -> dict[str, Any]:
        """All that decides what the user will say."""
        wishes = [vars(wish) | {"private": [list(fact) for fact in wish.private]} for wish in self.wishes]
        return {"wishes": wishes, "manner": self.manner, "seed": self.seed, "policy": self.policy}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> User:
        """Raises KeyError or TypeError for what is no user."""
        wishes = tuple(Wish(**w | {"private": tuple((k, v) for k, v in w["private"])}) for w in data["wishes"])
        return cls(wishes, data["manner"], data["seed"], data["policy"])

    def opening(self) -> str:
        return self._ask(self._rng.choice(FRAMES[self.manner]))

    def reply(self, text: str, done: int) -> str | None:
        """To an assistant message without calls; None when there is nothing left to want.

        `done`: calls of the wish in work, since it was said, that succeeded and change something.
        """
        wish = self.wishes[self.at]
        asks, refuses = "?" in (_COURTESY.sub("", text) if "?" in text else ""), declines(text)
        missing = [fact for fact in wish.private if fact[0] not in self.told]
        over = (wish.calls > 0 and done >= wish.calls) or refuses
        if missing and not over and (asks or not done):
            return self._tell(wish, missing, text)
        if over or self.nudges >= PATIENCE or not (asks or _PROMISE.search(text)):
            return self._next("No, thanks. " if asks else "")
        self.nudges += 1
        if asks and not done and self.nudges > 1:
            return self._ask("I have told you all that I want: {}.")
        return sentence(self._rng.choice(GO_ON))

    def _tell(self, wish: Wish, missing: list[tuple[str, str]], text: str) -> str:
        words = text.lower()
        asked = [fact for fact in missing if any(w in words for w in fact[0].split("_") if len(w) > 2)]
        chosen = {"all": missing, "asked": asked or missing, "pieces": (asked or missing)[:1]}[self.policy]
        first = not self.told
        self.told |= {name for name, _ in chosen}
        facts = listed([f"the {said(name)} is {value}" for name, value in chosen])
        frame = self._rng.choice(TELLS[self.manner])
        told = sentence(frame.format(facts if re.search(r"[:,] \{\}", frame) else sentence(facts)[:-1]))
        return f"{told} {wish.correction}" if first and wish.correction else told

    def _next(self, before: str) -> str | None:
        self.at, self.told, self.nudges = self.at + 1, set(), 0
        if self.at >= len(self.wishes):
            return None
        if before:
            return before + self._ask(self._rng.choice(NOTHING_MORE))
        return self._ask(self._rng.choice(NEXT))

    def _ask(self, frame: str) -> str:
        """A wish in a frame; a question stands by itself where the frame is made for requests."""
        wish = self.wishes[self.at]
        return sentence(frame.format(f"tell me {wish.text}" if wish.question else wish.text))
