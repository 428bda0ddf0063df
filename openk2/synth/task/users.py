"""People who want something: an explicit state machine with requests, private facts, a way to reveal them, a manner.

No traps: asked anything, a user says all that is still missing of the request in work; told anything else, the user
goes on to the next request, and ends after the last. So a dialogue can fail through the agent alone.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Literal

from openk2.synth.task.words import sentence

Manner = Literal["plain", "polite", "terse", "chatty", "hurried"]
_FRAMES: dict[Manner, tuple[str, ...]] = {
    "plain": ("{}.", "Please {}.", "I need you to {}.", "Could you {}?", "Can you {}?"),
    "polite": ("Hello! Could you please {}?", "Would you be so kind as to {}?", "I would be grateful if you could {}.",
               "Good day. Please {}. Thank you."),
    "terse": ("{}", "{} - thanks", "todo: {}", "need: {}"),
    "chatty": ("So, we were talking in the team and we think it is best to {}. Can you do that?",
               "One more thing from my long list: {}, please.", "It has been a busy week. Anyway, please {}."),
    "hurried": ("Quick one: {}.", "In a meeting, please {} right away.", "Need this fast: {}."),
}  # fmt: skip
_NEXT = ("Next, {}.", "Also, {}.", "And then {}.", "Thanks. Now {}.", "Great. After that, {}.", "One more: {}.")
_TELLS = ("{}.", "Sorry, I forgot: {}.", "Sure: {}.", "It is this: {}.", "Of course. {}.")


@dataclass(frozen=True)
class Request:
    """What the user says first of a wish, and what is kept back: (name of the argument, value as said)."""

    text: str
    private: tuple[tuple[str, str], ...] = ()


@dataclass
class User:
    """`reply` is the whole behaviour: a function of the state and of whether the agent asked something."""

    requests: tuple[Request, ...]
    manner: Manner
    seed: int
    at: int = 0  # the request in work
    told: bool = False  # whether its private facts were said
    _rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._rng = random.Random(f"user {self.seed}")

    def opening(self) -> str:
        return sentence(self._rng.choice(_FRAMES[self.manner]).format(self.requests[0].text))

    def reply(self, message: str) -> str | None:
        """To an assistant message without calls; None when there is nothing left to want."""
        request = self.requests[self.at]
        if asks(message) and request.private and not self.told:
            self.told = True
            facts = " and ".join(f"the {name.replace('_', ' ')} is {value}" for name, value in request.private)
            return sentence(self._rng.choice(_TELLS).format(facts))
        self.at, self.told = self.at + 1, False
        if self.at >= len(self.requests):
            return None
        return sentence(self._rng.choice(_NEXT).format(self.requests[self.at].text))


def asks(message: str) -> bool:
    return "?" in message
