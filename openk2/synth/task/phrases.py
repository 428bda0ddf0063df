"""Fixed words: how people frame a wish, what a decline sounds like."""

from __future__ import annotations

import re
from typing import Literal

Manner = Literal["plain", "polite", "terse", "chatty", "hurried"]
MANNERS: tuple[Manner, ...] = ("plain", "polite", "terse", "chatty", "hurried")

FRAMES: dict[Manner, tuple[str, ...]] = {
    "plain": (
        "{}.", "Please {}.", "I need you to {}.", "Could you {}?", "Can you {}?", "I want you to {}.",
        "I would like you to {}.",
    ),
    "polite": (
        "Hello! Could you please {}?", "Would you be so kind as to {}?", "I would be grateful if you could {}.",
        "Good day. Please {}. Thank you.", "If it is not too much trouble, please {}.", "May I ask you to {}?",
        "Hi there, would you {}? Many thanks.",
    ),
    "terse": ("{}", "{} - thanks", "todo: {}", "need: {}", "pls {}", "now: {}"),
    "chatty": (
        "So, we were talking in the team and we think it is best to {}. Can you do that?",
        "One more thing from my long list: {}, please.", "It has been a busy week. Anyway, please {}.",
        "You will not believe the morning I had. Could you {}?",
        "My colleague keeps asking about this, so let us get it off the table: {}.",
    ),
    "hurried": (
        "Quick one: {}.", "In a meeting, please do this now: {}.", "Need this fast: {}.", "No time to explain, {}.",
        "Before noon, please: {}.",
    ),
}  # fmt: skip
NEXT = (
    "Next, {}.", "Also, {}.", "And then {}.", "Thanks. Now {}.", "Great. After that, {}.", "One more: {}.",
    "Good. Then please {}.", "While you are at it, {}.", "Perfect, and now {}.", "Next on my list: {}.",
)  # fmt: skip
NOTHING_MORE = ("Now {}.", "But please {}.", "Next, {}.")
TELLS: dict[Manner, tuple[str, ...]] = {
    "plain": ("{}.", "Sorry, I forgot: {}.", "It is this: {}."),
    "polite": ("Of course. {}.", "My apologies, I should have said: {}.", "Thank you for asking. {}."),
    "terse": ("{}", "{}.", "right: {}"),
    "chatty": ("Oh, did I not say? {}.", "Let me look it up. Here: {}.", "Good that you ask, {}."),
    "hurried": ("Sure: {}.", "Quick: {}.", "{}. Go."),
}
GO_ON = (
    "Yes, please go on.", "Yes, please do all of it.", "Please do it now.", "Yes. Do just what I said.",
    "Go ahead, I have nothing to add.",
)  # fmt: skip

_DECLINES = re.compile(
    r"\b(I|we) (could not|couldn't|cannot|can't|can not|may not|am not (able|allowed|permitted)|am unable|was not able|"
    r"was unable|was not allowed|have to decline|must decline)\b|\bI'm (not (able|allowed|permitted)|unable)\b|"
    r"\b(is|was) (not|im)[ ]?(possible|allowed|permitted)\b|\b(isn't|wasn't) (possible|allowed|permitted)\b|"
    r"\bcannot be (done|changed|fulfilled|made)\b|"
    r"\b(request|call|operation|action|attempt) (is|was|has been) (refused|rejected|forbidden|denied)\b|"
    r"\b(refused|rejected|denied|forbids|does not (allow|permit)) (it|this|that|the (request|call|operation|action))\b",
    re.IGNORECASE,
)


def declines(text: str) -> bool:
    """Whether a text of an agent says that something was not, or cannot be, done."""
    return bool(_DECLINES.search(text))


def sentence(text: str) -> str:
    """With a capital (but a name with figures, or an address, stays as it is) and a full stop."""
    if not re.match(r"\S*[\d/]", text):
        text = text[:1].upper() + text[1:]
    return text if re.search(r"[.?!]$", text) else text + "."


def listed(parts: list[str]) -> str:
    """`a, b and c`."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
