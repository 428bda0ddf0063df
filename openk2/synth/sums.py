"""Bare sums as people type them: `12 + 30`, `what's 15% of 80?`, `half of 90`; each is one calculator call."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from openk2.synth.heldout import held_out
from openk2.synth.trajectory import Record, Trajectory
from openk2.synth.wordings import styled
from openk2.tools.base import ToolError

LARGEST = 1e12  # of a result
LONGEST = 15  # characters of a result

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

    {a} and {b} are numbers, {p} a percentage, {k} a small exponent, {l} a list of numbers. `words`: small numbers may
    be said as words.
    """

    expression: str
    reason: str
    nouns: tuple[str, ...]
    orders: tuple[str, ...] = ()
    share: float = 1.0
    words: bool = True
    sign: str = ""  # said after the result


def F(
    expression: str, reason: str, nouns: str, orders: str = "", share: float = 1.0, words: bool = True, sign: str = ""
) -> Form:
    split = (tuple(p.strip() for p in text.split("|") if p.strip()) for text in (nouns, orders))
    return Form(expression, reason, *split, share, words, sign)


FORMS = (
    F("{a} + {b}", "I add.",
      "{a} + {b}|{a} + {b}|{a}+{b}|{a}+{b}|{a} plus {b}|{a} plus {b}|{a} and {b} together|the sum of {a} and {b}|"
      "sum of {a} and {b}|{a} added to {b}|the total of {a} and {b}|{a} and {b} added up",
      "add {a} and {b}|add {a} to {b}|sum {a} and {b}|add up {a} and {b}|add {a} plus {b}", 5),
    F("{a} - {b}", "I subtract.",
      "{a} - {b}|{a} - {b}|{a}-{b}|{a} minus {b}|{a} minus {b}|{a} less {b}|{a} take away {b}|{a} – {b}",
      "subtract {b} from {a}|take {b} from {a}|take {b} away from {a}|deduct {b} from {a}", 4),
    F("abs({a} - {b})", "I subtract.",
      "the difference between {a} and {b}|difference between {a} and {b}|the difference of {a} and {b}", "", 0.5),
    F("{a} * {b}", "I multiply.",
      "{a} * {b}|{a}*{b}|{a} x {b}|{a}x{b}|{a} × {b}|{a} times {b}|{a} times {b}|{a} multiplied by {b}|"
      "the product of {a} and {b}|product of {a} and {b}|{a} X {b}|{a}×{b}",
      "multiply {a} by {b}|multiply {a} and {b}|multiply {a} with {b}", 5),
    F("round({a} / {b}, 4)", "I divide.",
      "{a} / {b}|{a}/{b}|{a} ÷ {b}|{a} divided by {b}|{a} divided by {b}|{a} over {b}|the quotient of {a} and {b}|"
      "{a} by {b} divided|{a} ÷ {b}|{a} : {b}",
      "divide {a} by {b}|divide {a} into {b} parts|split {a} into {b} equal parts", 5),
    F("{p} * {b} / 100", "A share of it.",
      "{p}% of {b}|{p}% of {b}|{p}% of {b}|{p} % of {b}|{p} percent of {b}|{p} percent of {b}|{p} per cent of {b}|"
      "{p}pct of {b}|a {p}% share of {b}|a {p}% tip on {b}|{p}% tax on {b}|{p}% interest on {b}",
      "take {p}% of {b}|find {p}% of {b}|calculate {p} percent of {b}", 5, False),
    F("{b} * (100 - {p}) / 100", "What is left of it.",
      "{p}% off {b}|{p}% off of {b}|{b} minus {p}%|{b} - {p}%|{b} less {p}%|{b} with a {p}% discount|"
      "{b} after a {p}% discount|{b} minus {p} percent|{b} reduced by {p}%|{b} with {p}% off",
      "reduce {b} by {p}%|decrease {b} by {p} percent|take {p}% off {b}|lower {b} by {p}%|subtract {p}% from {b}", 1.5,
      False),
    F("{b} * (100 + {p}) / 100", "It and a share more.",
      "{b} plus {p}%|{b} + {p}%|{b} plus {p} percent|{b} with {p}% tax|{b} and {p}% on top|{b} increased by {p}%|"
      "{b} with a {p}% tip|{b} plus a {p}% tip",
      "increase {b} by {p}%|increase {b} by {p} percent|add {p}% to {b}|raise {b} by {p}%", 1.5, False),
    F("round(100 * {a} / {b}, 2)", "One in percent of the other.",
      "{a} as a percentage of {b}|{a} in percent of {b}|{a} out of {b} in percent|the percentage of {a} in {b}", "", 0.8,
      False, "%"),
    F("round(100 * ({b} - {a}) / {a}, 2)", "The change in percent of the first.",
      "the percentage change from {a} to {b}|the percent change from {a} to {b}|the increase from {a} to {b} in percent|"
      "percentage increase from {a} to {b}", "", 0.5, False, "%"),
    F("{a} / 2", "I halve it.", "half of {a}|a half of {a}|half {a}|one half of {a}|1/2 of {a}", "halve {a}"),
    F("round({a} / 3, 4)", "A third of it.", "a third of {a}|one third of {a}|1/3 of {a}", "", 0.4),
    F("{a} / 4", "A quarter of it.", "a quarter of {a}|one quarter of {a}|1/4 of {a}|a fourth of {a}", "", 0.5),
    F("{a} * 3 / 4", "Three quarters of it.", "three quarters of {a}|3/4 of {a}|three fourths of {a}", "", 0.3),
    F("round({a} * 2 / 3, 4)", "Two thirds of it.", "two thirds of {a}|2/3 of {a}", "", 0.3),
    F("{a} / 10", "A tenth of it.", "a tenth of {a}|one tenth of {a}", "", 0.2),
    F("{a} * 2", "I double it.", "double {a}|twice {a}|two times {a}|the double of {a}|2 times {a}", "double {a}"),
    F("{a} * 3", "I triple it.", "triple {a}|three times {a}|three times as much as {a}", "triple {a}", 0.4),
    F("{a} ** 2", "I square it.", "{a} squared|the square of {a}|square of {a}|{a}^2|{a}²", "square {a}", 1.2, False),
    F("{a} ** 3", "To the third power.", "{a} cubed|the cube of {a}|{a}^3", "cube {a}", 0.5, False),
    F("{a} ** {k}", "A power.",
      "{a} to the power of {k}|{a} to the power {k}|{a}^{k}|{a}^{k}|{a} ^ {k}|{a} ** {k}|{a}**{k}|"
      "{a} raised to {k}|{a} to the {k}th power|the {k}th power of {a}", "raise {a} to the power of {k}", 1.5, False),
    F("round(sqrt({a}), 4)", "A root.",
      "the square root of {a}|square root of {a}|sqrt({a})|sqrt {a}|the root of {a}|sqrt of {a}|root {a}|√{a}", "", 1.5,
      False),
    F("round({a} ** (1 / 3), 4)", "The third root.", "the cube root of {a}|cube root of {a}|the third root of {a}", "",
      0.3, False),
    F("{a} % {b}", "What is left over.",
      "{a} mod {b}|{a} modulo {b}|the remainder of {a} divided by {b}|the remainder when {a} is divided by {b}|"
      "remainder of {a} / {b}", "", 0.6, False),
    F("round(({l}) / {n}, 4)", "I add and divide by the number of them.",
      "the average of {l}|average of {l}|the mean of {l}|mean of {l}|the average value of {l}", "average {l}", 1.2,
      False),
    F("{l}", "I add them all.",
      "the sum of {l}|sum of {l}|the total of {l}|{l} together|{l} added up|all of {l} added together",
      "add {l}|add up {l}|sum up {l}|add together {l}", 1.2, False),
    F("factorial({f})", "A factorial.", "{f}!|{f} factorial|the factorial of {f}|factorial of {f}", "", 0.3, False),
)  # fmt: skip
# Whole questions about two numbers, that fit no frame.
QUESTIONS = (
    F("round(100 * {a} / {b}, 2)", "One in percent of the other.",
      "What percent of {b} is {a}?|What percentage of {b} is {a}?|{a} is what percent of {b}?|what % of {b} is {a}|"
      "{a} is what percentage of {b}?|How many percent of {b} is {a}?|What percentage is {a} of {b}?|"
      "How much is {a} of {b} in percent?|{a} of {b} is how many percent?", "", 2, False, "%"),
    F("{b} - {a}", "I subtract.",
      "How much must I add to {a} to get {b}?|How much more is {b} than {a}?|What plus {a} makes {b}?|"
      "How much bigger is {b} than {a}?|{a} plus what is {b}?", "", 0.7),
    F("round({b} / {a}, 4)", "I divide.",
      "How many times does {a} go into {b}?|How often does {a} fit into {b}?|How many times {a} is {b}?|"
      "{a} times what is {b}?", "", 0.7),
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


def _number(rng: random.Random, low: int = 2, whole: bool = False) -> Said:
    """Mostly small; some large, grouped or not; some with decimals."""
    roll = rng.random()
    if roll < 0.2 and not whole:
        places = rng.choice((1, 1, 2, 2, 3))
        text = f"{rng.randint(0, 10 ** rng.choice((1, 2, 3)))}.{rng.randint(1, 10**places - 1):0{places}}"
        return Said(text, text)
    size = rng.choices((10, 100, 1000, 10_000, 1_000_000, 100_000_000), (4, 6, 3, 2, 1, 0.5))[0]
    value = rng.randint(low, size)
    if rng.random() < 0.15:
        value = max(low, round(value, -max(1, len(str(value)) - 2)))  # a round number
    if value >= 1000 and rng.random() < 0.45:
        return Said(f"{value:,}", f"{value:_}")
    return Said(str(value), str(value))


def _percentage(rng: random.Random) -> Said:
    common = (5, 10, 15, 20, 25, 30, 40, 50, 60, 75, 80, 90)
    roll = rng.random()
    value = rng.choice(common) if roll < 0.4 else rng.randint(1, 120)
    text = f"{value}.{rng.randint(1, 9)}" if roll > 0.85 else str(value)
    return Said(text, text)


def _fill(rng: random.Random, form: Form, wording: str) -> tuple[str, str]:
    """(the wording with numbers, the expression with them)."""
    plain = "**" in form.expression or "%" in form.expression or "sqrt" in form.expression
    slots = {name: _number(rng, whole=plain and rng.random() < 0.9) for name in "ab"}
    if form.expression.startswith("{a} - ") and rng.random() < 0.8:  # most differences are not below nothing
        first, second = sorted(slots.values(), key=lambda s: -float(s.code))
        slots = {"a": first, "b": second}
    elif form.expression.startswith("{b} - ") or form.sign:
        second, first = sorted(slots.values(), key=lambda s: -float(s.code))
        slots = {"a": first, "b": second}
    elif "**" in form.expression:
        slots["a"] = Said(*[str(rng.randint(2, rng.choice((12, 30, 100))))] * 2) if rng.random() < 0.8 else slots["a"]
    elif "sqrt" in form.expression and rng.random() < 0.5:
        square = rng.randint(2, rng.choice((15, 40, 200))) ** 2
        slots["a"] = Said(f"{square:,}" if rng.random() < 0.3 else str(square), str(square))
        slots["a"] = Said(slots["a"].text, slots["a"].text.replace(",", "_"))
    elif " / {b}" in form.expression and rng.random() < 0.45:  # a division that comes out even
        b, times = rng.randint(2, rng.choice((10, 30, 200))), rng.randint(2, rng.choice((20, 100, 1000)))
        grouped = b * times >= 1000 and rng.random() < 0.4
        slots = {"b": Said(str(b), str(b)), "a": Said(*([f"{b * times:,}", f"{b * times:_}"] if grouped else [str(b * times)] * 2))}
    slots["p"] = _percentage(rng)
    slots["k"] = Said(*[str(rng.randint(2, rng.choice((4, 6, 12))))] * 2)
    slots["f"] = Said(*[str(rng.randint(3, 15))] * 2)
    numbers = [_number(rng) for _ in range(rng.randint(3, 6))]
    texts = [n.text for n in numbers]
    joined = rng.choice((", ".join(texts[:-1]) + f" and {texts[-1]}", ", ".join(texts), " and ".join(texts)))
    slots["l"] = Said(joined, " + ".join(n.code for n in numbers))
    slots["n"] = Said("", str(len(numbers)))
    roll = rng.random()
    if form.words and roll < 0.15 and not any(c in wording for c in "+-*/×÷:xX^="):
        for name in "ab":
            value = rng.randint(0 if name == "b" and "/" not in form.expression else 1, rng.choice((12, 20, 99)))
            slots[name] = Said(in_words(value), str(value))
    elif roll < 0.2 and "{p}" in wording:
        slots["b"] = Said(rng.choice(MONEY).format(slots["b"].text), slots["b"].code)
    elif roll > 0.96 and wording.startswith("{a} ") and "**" not in form.expression and "{b}" in wording:
        slots["a"] = Said(f"-{slots['a'].text}", f"-{slots['a'].code}")
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


def bare_sum(rng: random.Random, held: bool = False) -> Record | None:
    """One sum without a story; `held`: in the wordings held out from training. None where no result makes sense."""

    def allowed(kind: str, wordings: tuple[str, ...]) -> list[str]:
        # A wording that is there twice is common; as the plain forms of a sum it is on both sides.
        return [w for w in wordings if wordings.count(w) > 1 or held_out(kind, w) == held]

    sign = ""
    if rng.random() < 0.16:
        text, expression = _expression(rng)
        question, reason = rng.choice(allowed("sum frame", NOUN_FRAMES)).format(x=text), "I calculate it."
    else:
        forms = FORMS + QUESTIONS
        form = rng.choices(forms, [f.share for f in forms])[0]
        orders = allowed("sum", form.orders)
        order = bool(orders) and rng.random() < 0.2
        wordings = orders if order else allowed("sum", form.nouns)
        if not wordings:
            return None
        text, expression = _fill(rng, form, rng.choice(wordings))
        frames = ("{x}",) if form in QUESTIONS else ORDER_FRAMES if order else NOUN_FRAMES
        question, reason, sign = rng.choice(allowed("sum frame", frames) or ["{x}"]).format(x=text), form.reason, form.sign
    roll = rng.random()
    question = question[0].lower() + question[1:] if roll < 0.4 else question[0].upper() + question[1:]
    t = Trajectory(styled(rng, question))
    try:
        result = t.call(reason, "calculator", expression=expression)
    except ToolError:
        return None
    if len(result) > LONGEST or "e" in result or abs(float(result.replace(",", ""))) > LARGEST:
        return None
    t.answer("That is the answer.", f"The answer is {result}{sign}.")
    return t.record("sum", gold=result, expression=expression)
