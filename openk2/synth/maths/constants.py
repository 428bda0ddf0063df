"""Numbers that a solution may use without finding them as numbers of the question, and what in the words allows it."""

from __future__ import annotations

import re

# A number as a person writes it; not part of a word, a time, an ordinal, or a fraction's lower half.
NUMBER = re.compile(r"(?<![\w.,/:])(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?!\d*(?:st|nd|rd|th)\b)(?![\d]*[\w/:])(?!,\d)")

# Constants, and the words (or kinds of words) of which at least one must stand in the question or the solution's line.
CONSTANTS: dict[float, str] = {
    0.5: r"half|1/2|twice|double|50%",
    1.5: r"half|1/2|50%|time and a half",
    2: (
        r"half|1/2|twice|double|two|pair|both|couple|second|each|other|average|even|again|round|sides|"
        r"another|weekend|bi|2"
    ),
    3: r"three|triple|thrice|third|1/3|2/3|trio|average|each|both|other",
    4: r"four|quarter|1/4|3/4|quadruple|square|weeks|average|each|month|season|wheels|legs|car",
    5: r"five|fifth|1/5|weekday|work|school|average|nickel|hand|finger",
    6: r"six|sixth|half a dozen|average|sides",
    7: r"seven|week|daily|every day|a day|each day|per day|days",
    8: r"eight|octopus|spider|legs|average|ounce",
    9: r"nine|average|ninth",
    10: r"ten|tenth|dime|decade|average|1/10|percent|%|toe|finger",
    11: r"eleven",
    12: r"twelve|dozen|year|month|inch|foot|feet|annual|yearly",
    13: r"thirteen",
    14: r"two weeks|fortnight|2 weeks|week",
    15: r"quarter|minutes|hour|fifteen",
    16: r"ounce|pound",
    18: r"eighteen|age",
    20: r"twenty|score",
    24: r"hour|day|daily",
    25: r"quarter|%",
    28: r"february|week",
    30: r"month|june|april|september|november|half|minutes|thirty|days",
    31: r"month|january|march|may|july|august|october|december",
    36: r"yard|inch",
    50: r"half|%|fifty|cent",
    52: r"week|year|cards|deck",
    60: r"minute|hour|second",
    75: r"3/4|%|quarter",
    90: r"angle|degree",
    100: r"%|percent|cent|hundred|dollar|\$|centimet|century|meter",
    180: r"triangle|degree",
    365: r"year|annual|daily",
    360: r"circle|degree",
    1000: r"thousand|kilo|gram|liter|meter|ton",
    3600: r"hour|second",
    0.25: r"quarter|1/4|25%",
    0.75: r"3/4|quarter|75%",
    0.1: r"dime|tenth|1/10|10%|cent",
    0.05: r"nickel|5%|cent",
    0.01: r"cent|penn|%|percent",
    1: (
        r"one|1|whole|full|itself|him|her|own|total|a |an |another|more|less|first|last|%|per|rest|"
        r"remaining|left|fraction|third|half|quarter"
    ),
}


CONVERSIONS = (7, 12, 24, 52, 60, 100, 365, 1000)  # days of a week, months of a year ...: constants before all else
WORDS: tuple[str, ...] = tuple(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty".split()
)
TENS = {"thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90, "hundred": 100}
_ORDINALS = {"third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10}
_UNITS = {
    "dozen": 12,
    "thousand": 1000,
    "twice": 2,
    "double": 2,
    "triple": 3,
    "thrice": 3,
    "quarter": 4,
    "couple": 2,
    "pair": 2,
    "half": 2,
    "both": 2,
}


_SAID = {w: i for i, w in enumerate(WORDS)} | TENS | _ORDINALS | _UNITS
_SAID_WORD = re.compile(rf"\b({'|'.join(_SAID)})s?\b")
_LARGE = re.compile(
    rf"\b({'|'.join(list(TENS)[:-1])}|twenty)(?:[- ]({'|'.join(WORDS[1:10])}))?(?= [a-z])|"
    rf"\b({'|'.join(WORDS[13:20])})(?= [a-z])",
    re.IGNORECASE,
)


def in_figures(question: str) -> str:
    """`thirty-five apples` -> `35 apples`: from thirteen on; smaller ones are often part of how a thing is told."""

    def figure(match: re.Match[str]) -> str:
        tens, ones, teen = (m.lower() if m else "" for m in match.groups())
        if teen:
            return str(WORDS.index(teen))
        return str(({"twenty": 20} | TENS)[tens] + (WORDS.index(ones) if ones else 0))

    return _LARGE.sub(figure, question)


# Numbers that a word of the question brings with it, told or not.
_IMPLIED = tuple(
    (re.compile(rf"\b(?:{words})", re.IGNORECASE), values)
    for words, values in {
        r"parents|twins|couple|weekends?|round.?trip|and back|back and forth|each way|one way|return|perimeter|"
        r"bicycles?|bikes?|motorcycles?|sandwich": (2,),
        r"triplets|tricycles?": (3,),
        r"nickels?": (5, 0.05),
        r"dimes?": (10, 0.1),
        r"quarters?": (25, 0.25, 4),
        r"penn(?:y|ies)|cents?": (1, 100, 0.01),
        r"weekdays?|work(?:ing)? ?days?|school days?|monday": (5,),
        r"months?|monthly": (30, 4),
        r"january|march|may|july|august|october|december": (31,),
        r"april|june|september|november": (30,),
        r"february": (28,),
        r"legs?|dogs?|cats?|horses?|cars?|wheels?|square|walls?|tires?": (4,),
        r"rectang\w+|borders?|corners?": (2, 4),
        r"spiders?|octop\w+": (8,),
        r"feet|foot|inch(?:es)?": (12, 3),
        r"yards?": (3, 36),
        r"pounds?|ounces?|oz": (16,),
        r"gallons?|quarts?|pints?|cups?": (4, 2, 8, 16),
        r"fortnight": (14, 2),
        r"decade": (10,),
        r"centur": (100,),
    }.items()
)


def in_words(question: str) -> list[float]:
    """The numbers that a question has as words, each as often as it has it; "half" and "twice" are 2."""
    return [float(_SAID[word]) for word in _SAID_WORD.findall(question.lower())]


def explained(question: str) -> set[float]:
    """Values that the question has other than as numbers of its own: in words, fractions, times, parts of words."""
    lower = question.lower()
    plain = NUMBER.sub(" ", lower)
    out = {float(d) for d in re.findall(r"\d+(?:\.\d+)?", plain)}
    out |= set(in_words(question))
    out |= {float(v) for words, values in _IMPLIED if words.search(lower) for v in values}
    fractions = re.findall(r"\b(\d+)/(\d+)\b", lower)
    return (
        out | {int(a) / int(b) for a, b in fractions if int(b)} | {1 - int(a) / int(b) for a, b in fractions if int(b)}
    )
