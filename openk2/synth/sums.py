"""Bare sums as people type them: `12 + 30`, `what's 15% of 80?`, `half of 90`; each is one calculator call."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from openk2.synth.heldout import held_out
from openk2.synth.trajectory import Record, Trajectory
from openk2.synth.wordings import styled
from openk2.tools.base import ToolError

LARGEST = 1e12  # of a result
LONGEST = 15  # characters of a result
SYMBOLS = re.compile(r"[-+*/×÷:xX^=]")
# How the numbers a and b are drawn: as they come, a above b, b above a, a small to be raised to a power, a square,
# a multiple of b (half of the time), whole.
Draw = Literal["any", "falling", "rising", "base", "square", "even", "whole"]

# Around what is to be calculated, where it reads as a noun (`12 + 30`) ...
NOUN_FRAMES = (
    "{x}", "{x}", "{x}", "{x}?", "{x}?", "{x} =", "{x}=", "{x} = ?", "{x}=?", "What is {x}?", "What is {x}?",
    "What is {x}", "What's {x}?", "What's {x}?", "Whats {x}", "How much is {x}?", "How much is {x}?", "Calculate {x}",
    "Calculate {x}.", "Compute {x}.", "Compute {x}", "Work out {x}.", "What does {x} make?", "How much does {x} make?",
    "What is the result of {x}?", "Tell me {x}.", "Tell me what {x} is.", "Solve {x}", "Solve: {x}", "Evaluate {x}.",
    "Can you calculate {x}?", "Please calculate {x}.", "Could you compute {x} for me?", "I need {x}.", "Quick: {x}",
    "Do you know what {x} is?", "{x} equals what?", "{x} is how much?", "{x} makes?", "Give me {x}.", "Find {x}.",
    "What would {x} be?", "Use the calculator: {x}", "What comes out of {x}?", "What do I get for {x}?",
    "What is the value of {x}?", "What is the answer to {x}?", "Let me know what {x} is.", "How many is {x}?",
    "Can you tell me what {x} is?", "My homework: {x}", "And {x}?", "So {x}?", "Hey, what's {x}?", "Hi, {x}?",
    "what does {x} equal?", "what's the answer to {x}", "math: {x}", "{x} please", "{x}, please.",
)  # fmt: skip
# ... and where it is an order (`add 12 and 30`).
ORDER_FRAMES = (
    "{x}", "{x}", "{x}.", "{x}.", "Please {x}.", "Can you {x}?", "Could you {x} for me?", "{x} please",
    "What do you get if you {x}?", "What is the result if I {x}?", "What happens if you {x}?", "I want to {x}.",
    "What do I get when I {x}?", "Now {x}.", "What comes out if you {x}?", "Use the calculator: {x}.",
)  # fmt: skip


@dataclass(frozen=True)
class Form:
    """What is calculated: `nouns` and `orders` are its wordings, `expression` its formula, `reason` the thought.

    {a} and {b} are numbers (drawn as `draw` says), {p} a percentage, {k} a small exponent, {f} a small number, {l} a
    list of {n} numbers. `words`: small numbers may be said as words; `sign`: what is said after the result.
    """

    expression: str
    reason: str
    nouns: tuple[str, ...]
    orders: tuple[str, ...] = ()
    share: float = 1.0
    draw: Draw = "any"
    words: bool = True
    sign: str = ""


def F(
    expression: str, reason: str, nouns: str, orders: str = "", share: float = 1.0, draw: Draw = "any",
    words: bool = True, sign: str = "",
) -> Form:  # fmt: skip
    def split(text: str) -> tuple[str, ...]:
        return tuple(part for part in text.split("|") if part)

    return Form(expression, reason, split(nouns), split(orders), share, draw, words, sign)


FORMS = (
    F("{a} + {b}", "I add.",
      "{a} + {b}|{a} + {b}|{a}+{b}|{a}+{b}|{a} plus {b}|{a} plus {b}|{a} and {b} together|the sum of {a} and {b}|"
      "sum of {a} and {b}|{a} added to {b}|the total of {a} and {b}|{a} and {b} added up",
      "add {a} and {b}|add {a} to {b}|sum {a} and {b}|add up {a} and {b}|add {a} plus {b}", 5),
    F("{a} - {b}", "I subtract.",
      "{a} - {b}|{a} - {b}|{a}-{b}|{a} minus {b}|{a} minus {b}|{a} less {b}|{a} take away {b}|{a} – {b}",
      "subtract {b} from {a}|take {b} from {a}|take {b} away from {a}|deduct {b} from {a}", 4, "falling"),
    F("abs({a} - {b})", "I subtract.",
      "the difference between {a} and {b}|difference between {a} and {b}|the difference of {a} and {b}", "", 0.5),
    F("{a} * {b}", "I multiply.",
      "{a} * {b}|{a}*{b}|{a} x {b}|{a}x{b}|{a} × {b}|{a} times {b}|{a} times {b}|{a} multiplied by {b}|"
      "the product of {a} and {b}|product of {a} and {b}|{a} X {b}|{a}×{b}",
      "multiply {a} by {b}|multiply {a} and {b}|multiply {a} with {b}", 5),
    F("round({a} / {b}, 4)", "I divide.",
      "{a} / {b}|{a}/{b}|{a} ÷ {b}|{a} divided by {b}|{a} divided by {b}|{a} over {b}|the quotient of {a} and {b}|"
      "{a} ÷ {b}|{a} : {b}",
      "divide {a} by {b}|divide {a} into {b} parts|split {a} into {b} equal parts", 5, "even"),
    F("{p} * {b} / 100", "A share of it.",
      "{p}% of {b}|{p}% of {b}|{p}% of {b}|{p} % of {b}|{p} percent of {b}|{p} percent of {b}|{p} per cent of {b}|"
      "{p}pct of {b}|a {p}% share of {b}|a {p}% tip on {b}|{p}% tax on {b}|{p}% interest on {b}",
      "take {p}% of {b}|find {p}% of {b}|calculate {p} percent of {b}", 5, words=False),
    F("{b} * (100 - {p}) / 100", "What is left of it.",
      "{p}% off {b}|{p}% off of {b}|{b} minus {p}%|{b} - {p}%|{b} less {p}%|{b} with a {p}% discount|"
      "{b} after a {p}% discount|{b} minus {p} percent|{b} reduced by {p}%|{b} with {p}% off",
      "reduce {b} by {p}%|decrease {b} by {p} percent|take {p}% off {b}|lower {b} by {p}%|subtract {p}% from {b}", 1.5,
      words=False),
    F("{b} * (100 + {p}) / 100", "It and a share more.",
      "{b} plus {p}%|{b} + {p}%|{b} plus {p} percent|{b} with {p}% tax|{b} and {p}% on top|{b} increased by {p}%|"
      "{b} with a {p}% tip|{b} plus a {p}% tip",
      "increase {b} by {p}%|increase {b} by {p} percent|add {p}% to {b}|raise {b} by {p}%", 1.5, words=False),
    F("round(100 * {a} / {b}, 2)", "One in percent of the other.",
      "{a} as a percentage of {b}|{a} in percent of {b}|{a} out of {b} in percent|the percentage of {a} in {b}", "",
      0.8, "rising", False, "%"),
    F("round(100 * ({b} - {a}) / {a}, 2)", "The change in percent of the first.",
      "the percentage change from {a} to {b}|the percent change from {a} to {b}|percentage increase from {a} to {b}|"
      "the increase from {a} to {b} in percent", "", 0.5, "rising", False, "%"),
    F("{a} / 2", "I halve it.", "half of {a}|a half of {a}|half {a}|one half of {a}|1/2 of {a}", "halve {a}"),
    F("round({a} / 3, 4)", "A third of it.", "a third of {a}|one third of {a}|1/3 of {a}", "", 0.4),
    F("{a} / 4", "A quarter of it.", "a quarter of {a}|one quarter of {a}|1/4 of {a}|a fourth of {a}", "", 0.5),
    F("{a} * 3 / 4", "Three quarters of it.", "three quarters of {a}|3/4 of {a}|three fourths of {a}", "", 0.3),
    F("round({a} * 2 / 3, 4)", "Two thirds of it.", "two thirds of {a}|2/3 of {a}", "", 0.3),
    F("{a} / 10", "A tenth of it.", "a tenth of {a}|one tenth of {a}", "", 0.2),
    F("{a} * 2", "I double it.", "double {a}|twice {a}|two times {a}|the double of {a}|2 times {a}", "double {a}"),
    F("{a} * 3", "I triple it.", "triple {a}|three times {a}|three times as much as {a}", "triple {a}", 0.4),
    F("{a} ** 2", "I square it.", "{a} squared|the square of {a}|square of {a}|{a}^2|{a}²", "square {a}", 1.2, "base",
      False),
    F("{a} ** 3", "To the third power.", "{a} cubed|the cube of {a}|{a}^3", "cube {a}", 0.5, "base", False),
    F("{a} ** {k}", "A power.",
      "{a} to the power of {k}|{a} to the power {k}|{a}^{k}|{a}^{k}|{a} ^ {k}|{a} ** {k}|{a}**{k}|{a} raised to {k}|"
      "{a} to the {k}th power|the {k}th power of {a}", "raise {a} to the power of {k}", 1.5, "base", False),
    F("round(sqrt({a}), 4)", "A root.",
      "the square root of {a}|square root of {a}|sqrt({a})|sqrt {a}|the root of {a}|sqrt of {a}|root {a}|√{a}", "", 1.5,
      "square", False),
    F("round({a} ** (1 / 3), 4)", "The third root.", "the cube root of {a}|cube root of {a}|the third root of {a}", "",
      0.3, "base", False),
    F("{a} % {b}", "What is left over.",
      "{a} mod {b}|{a} modulo {b}|the remainder of {a} divided by {b}|the remainder when {a} is divided by {b}|"
      "remainder of {a} / {b}", "", 0.6, "whole", False),
    F("round(({l}) / {n}, 4)", "I add and divide by the number of them.",
      "the average of {l}|average of {l}|the mean of {l}|mean of {l}|the average value of {l}", "average {l}", 1.2),
    F("{l}", "I add them all.",
      "the sum of {l}|sum of {l}|the total of {l}|{l} together|{l} added up|all of {l} added together",
      "add {l}|add up {l}|sum up {l}|add together {l}", 1.2),
    F("factorial({f})", "A factorial.", "{f}!|{f} factorial|the factorial of {f}|factorial of {f}", "", 0.3),
)  # fmt: skip
# Whole questions about two numbers, that fit no frame.
QUESTIONS = (
    F("round(100 * {a} / {b}, 2)", "One in percent of the other.",
      "What percent of {b} is {a}?|What percentage of {b} is {a}?|{a} is what percent of {b}?|what % of {b} is {a}|"
      "{a} is what percentage of {b}?|How many percent of {b} is {a}?|What percentage is {a} of {b}?|"
      "How much is {a} of {b} in percent?|{a} of {b} is how many percent?", "", 2, "rising", False, "%"),
    F("{b} - {a}", "I subtract.",
      "How much must I add to {a} to get {b}?|How much more is {b} than {a}?|What plus {a} makes {b}?|"
      "How much bigger is {b} than {a}?|{a} plus what is {b}?", "", 0.7, "rising"),
    F("round({b} / {a}, 4)", "I divide.",
      "How many times does {a} go into {b}?|How often does {a} fit into {b}?|How many times {a} is {b}?|"
      "{a} times what is {b}?", "", 0.7, "rising"),
)  # fmt: skip

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen"
).split()
TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()
MONEY = ("${}", "${}", "{} dollars", "{} euros", "€{}", "£{}")


def in_words(n: int) -> str:
    """0-99 in words: `forty-two`."""
    if n < 20:
        return ONES[n]
    return TENS[n // 10] + (f"-{ONES[n % 10]}" if n % 10 else "")


@dataclass(frozen=True)
class Said:
    """A number as the question says it and as the expression has it."""

    text: str
    code: str


def _whole(rng: random.Random, value: int) -> Said:
    """A whole number; of the large ones nearly half with their thousands apart."""
    if value >= 1000 and rng.random() < 0.45:
        return Said(f"{value:,}", f"{value:_}")
    return Said(str(value), str(value))


def _number(rng: random.Random, whole: bool = False) -> Said:
    """Mostly small; some large; a fifth with decimals, unless `whole`."""
    if not whole and rng.random() < 0.2:
        places = rng.choice((1, 1, 2, 2, 3))
        text = f"{rng.randint(0, 10 ** rng.choice((1, 2, 3)))}.{rng.randint(1, 10**places - 1):0{places}}"
        return Said(text, text)
    size = rng.choices((10, 100, 1000, 10_000, 1_000_000, 100_000_000), (4, 6, 3, 2, 1, 0.5))[0]
    value = rng.randint(2, size)
    if rng.random() < 0.15:
        value = max(2, round(value, -max(1, len(str(value)) - 2)))  # a round number
    return _whole(rng, value)


def _two(rng: random.Random, draw: Draw) -> tuple[Said, Said]:
    """The numbers a and b of a form."""
    whole = draw in ("base", "square", "whole") and rng.random() < 0.9
    a, b = _number(rng, whole), _number(rng, whole)
    if draw == "falling" and rng.random() < 0.8:  # most differences are not below nothing
        b, a = sorted((a, b), key=lambda said: float(said.code))
    elif draw == "rising":
        a, b = sorted((a, b), key=lambda said: float(said.code))
    elif draw == "base" and rng.random() < 0.8:
        a = _whole(rng, rng.randint(2, rng.choice((12, 30, 100))))
    elif draw == "square" and rng.random() < 0.5:
        a = _whole(rng, rng.randint(2, rng.choice((15, 40, 200))) ** 2)
    elif draw == "even" and rng.random() < 0.45:
        b = _whole(rng, rng.randint(2, rng.choice((10, 30, 200))))
        a = _whole(rng, int(b.code.replace("_", "")) * rng.randint(2, rng.choice((20, 100, 1000))))
    return a, b


def _percentage(rng: random.Random) -> Said:
    common = (5, 10, 15, 20, 25, 30, 40, 50, 60, 75, 80, 90)
    roll = rng.random()
    value = rng.choice(common) if roll < 0.4 else rng.randint(1, 120)
    text = f"{value}.{rng.randint(1, 9)}" if roll > 0.85 else str(value)
    return Said(text, text)


def _fill(rng: random.Random, form: Form, wording: str) -> tuple[str, str]:
    """(the wording with numbers, the expression with them)."""
    a, b = _two(rng, form.draw)
    roll = rng.random()
    if form.words and roll < 0.15 and not SYMBOLS.search(wording):
        a, b = (Said(in_words(value), str(value)) for value in rng.choices(range(1, rng.choice((13, 21, 100))), k=2))
    elif roll < 0.2 and "{p}" in wording:
        b = Said(rng.choice(MONEY).format(b.text), b.code)
    elif roll > 0.96 and form.words and wording.startswith("{a} ") and "{b}" in wording:
        a = Said(f"-{a.text}", f"-{a.code}")
    numbers = [_number(rng) for _ in range(rng.randint(3, 6))]
    texts = [number.text for number in numbers]
    joined = rng.choice((", ".join(texts[:-1]) + f" and {texts[-1]}", ", ".join(texts), " and ".join(texts)))
    slots = {
        "a": a, "b": b, "p": _percentage(rng), "k": _whole(rng, rng.randint(2, rng.choice((4, 6, 12)))),
        "f": _whole(rng, rng.randint(3, 15)), "l": Said(joined, " + ".join(number.code for number in numbers)),
        "n": Said("", str(len(numbers))),
    }  # fmt: skip
    text = wording.format(**{name: said.text for name, said in slots.items()})
    return text, form.expression.format(**{name: said.code for name, said in slots.items()})


SIGNS = {
    "*": (" * ", " * ", "*", "*", " x ", "x", " × ", "×"),
    "/": (" / ", "/", "/", " ÷ "),
    "+": (" + ", " + ", "+", "+"),
    "-": (" - ", " - ", "-", "-"),
}


def _tree(rng: random.Random, depth: int, sign: Callable[[str], str]) -> tuple[str, str]:
    """An expression of two or more numbers as (text, code)."""

    def side(inner: bool) -> tuple[str, str]:
        if inner:
            text, code = _tree(rng, depth - 1, sign)
            return f"({text})", f"({code})"
        number = _number(rng)
        return number.text, number.code

    deep = depth > 1
    parts = [side(deep and rng.random() < 0.4)]
    for _ in range(rng.choices((1, 2, 3), (5, 4, 1))[0]):
        operator = rng.choice("++--**/")
        text, code = side(deep and rng.random() < 0.3)
        parts.append((sign(operator) + text, f" {operator} {code}"))
    return "".join(p[0] for p in parts), "".join(p[1] for p in parts)


def _expression(rng: random.Random) -> tuple[str, str]:
    """A longer expression: (text, code); one way of writing each sign throughout."""
    ways = {operator: rng.choice(forms) for operator, forms in SIGNS.items()}
    text, code = _tree(rng, rng.choice((1, 2, 2)), ways.__getitem__)
    return text, f"round({code}, 4)" if "/" in code else code


def _allowed(kind: str, wordings: tuple[str, ...], held: bool) -> list[str]:
    """Those on the wanted side of the split; one that is written twice is common, and on both sides."""
    return [w for w in wordings if wordings.count(w) > 1 or held_out(kind, w) == held]


def _asked(rng: random.Random, held: bool) -> tuple[str, str, str, str] | None:
    """(question, expression, reason, sign); None where a form has no wording on this side of the split."""
    if rng.random() < 0.16:
        text, expression = _expression(rng)
        return rng.choice(_allowed("sum frame", NOUN_FRAMES, held)).format(x=text), expression, "I calculate it.", ""
    forms = FORMS + QUESTIONS
    form = rng.choices(forms, [f.share for f in forms])[0]
    nouns, orders = _allowed("sum", form.nouns, held), _allowed("sum", form.orders, held)
    order = bool(orders) and rng.random() < 0.2
    if not (orders if order else nouns):
        return None
    text, expression = _fill(rng, form, rng.choice(orders if order else nouns))
    if form not in QUESTIONS:
        text = rng.choice(_allowed("sum frame", ORDER_FRAMES if order else NOUN_FRAMES, held)).format(x=text)
    return text, expression, form.reason, form.sign


def bare_sum(rng: random.Random, held: bool = False) -> Record | None:
    """One sum without a story; `held`: in the wordings held out from training. None where no result makes sense."""
    asked = _asked(rng, held)
    if asked is None:
        return None
    question, expression, reason, sign = asked
    question = (question[0].lower() if rng.random() < 0.4 else question[0].upper()) + question[1:]
    t = Trajectory(styled(rng, question))
    try:
        result = t.call(reason, "calculator", expression=expression)
    except ToolError:
        return None
    if len(result) > LONGEST or "e" in result or abs(float(result.replace(",", ""))) > LARGEST:
        return None
    t.answer("That is the answer.", f"The answer is {result}{sign}.")
    return t.record("sum", gold=result, expression=expression)
