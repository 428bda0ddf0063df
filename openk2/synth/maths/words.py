"""People and things of a word problem get other names: one person one name, a woman a woman's, apples plums."""

from __future__ import annotations

import random
import re

_WOMEN = (
    "Mary Anna Anne Sarah Emily Emma Jane Lisa Jessica Jennifer Julia Julie Amy Kate Katie Laura Linda Maria "
    "Martha Mia Nancy Nicole Olivia Rachel Rebecca Samantha Sophia Sophie Susan Tina Wendy Alice Amanda Angela "
    "Betty Brenda Carla Carol Christina Claire Cynthia Diana Donna Elizabeth Ella Ellen Eva Gina Grace Hannah "
    "Helen Isabella Jenny Joan Joanna Josie Judy Karen Kelly Kim Lily Lucy Marie Megan Melissa Michelle Mila "
    "Molly Natalie Nora Penny Rose Ruth Sally Sandra Shannon Sharon Stella Stephanie Tanya Tara Teresa Tiffany "
    "Vanessa Victoria Violet Zoe Abby Ava Beth Bella Cindy Daisy Erin Fiona Gloria Hazel Holly Ivy Jackie Janet "
    "Jill Josephine Kathy Kylie Leah Lena Lola Mabel Macy Maddie Marcy Mandy Marissa Marla Melanie Miriam Monica "
    "Paula Peggy Pam Roxanne Sasha Sonia Tracy Adelaide Bethany Brittany Courtney Danielle Elise Georgia Heather "
    "Jasmine Jasmin Kristen Kendra Lauren Leila Mckenna Miranda Naomi Priscilla Rosie Skyler Tabitha Tasha Uma "
    "Valerie Wanda Yolanda"
).split()
_MEN = (
    "John James Robert Michael William David Richard Joseph Thomas Charles Daniel Matthew Anthony Mark Donald "
    "Steven Paul Andrew Joshua Kenneth Kevin Brian George Edward Ronald Timothy Jason Jeffrey Ryan Jacob Gary "
    "Nicholas Eric Jonathan Stephen Larry Justin Scott Brandon Benjamin Gregory Frank Raymond Jack Dennis Jerry "
    "Tyler Aaron Jose Henry Adam Peter Nathan Zachary Walter Kyle Harold Carl Jeremy Keith Roger Gerald Ethan "
    "Arthur Terry Christian Sean Lawrence Austin Joe Noah Jesse Albert Bryan Billy Bruce Willie Dylan Alan Ralph "
    "Gabriel Roy Juan Wayne Eugene Logan Randy Louis Russell Vincent Philip Bobby Johnny Bradley Tom Tim Jim Bob "
    "Mike Dan Ben Sam Max Luke Fred Ted Greg Steve Jeff Ken Ron Don Leo Liam Lucas Oliver Oscar Owen Pedro Carlos "
    "Marcus Martin Mitchell Nick Patrick Rick Ricardo Simon Stan Trevor Victor Xavier Zach Calvin Colin Craig "
    "Derek Dean Doug Earl Felix Finn Gilbert Harry Howard Hugo Ian Isaac Ivan Jake Jared Jay Josh Julian Karl "
    "Kurt Lee Lloyd Malcolm Miguel Neil Omar Raul Roland Sal Seth Sid Toby Todd Tony Wally Wesley Will"
).split()
# Things of which one can stand for another: bought, held, counted, given; no unit. Plural and singular.
_THINGS: tuple[tuple[tuple[str, str], ...], ...] = (
    tuple((f"{w}s", w) for w in "apple orange banana plum lemon melon coconut pear apricot mango".split()),
    tuple((f"{w}s", w) for w in "marble sticker button bead stamp seashell coin".split()),
    tuple((f"{w}s", w) for w in "pencil pen crayon marker eraser notebook".split()),
    tuple((f"{w}s", w) for w in "cookie muffin cupcake brownie doughnut pancake waffle".split()),
    tuple((f"{w}s", w) for w in "rose tulip daffodil sunflower orchid".split()),
)
_SAME_NAME = re.compile(r"\b[A-Z][a-z]{2,}\b")


def renamed(rng: random.Random, text: str) -> str:
    """Known first names become others of the same kind; names that are not known stay."""
    table: dict[str, str] = {}
    for people in (_WOMEN, _MEN):
        known = set(people)
        found = [n for n in dict.fromkeys(_SAME_NAME.findall(text)) if n in known and not _thing(n, text)]
        free = [
            n
            for n in people
            if n not in text and n not in ("Will", "Rose", "Violet", "Daisy", "Grace", "Mark", "Hazel")
        ]
        table |= dict(zip(found, rng.sample(free, len(found)), strict=True))
    return _SAME_NAME.sub(lambda m: table.get(m[0], m[0]), text)


def _thing(name: str, text: str) -> bool:
    """`Will` at the start of a question, `Rose` behind an article: words that are no names here."""
    return name in ("Will", "Mark", "May") or bool(re.search(rf"\b(?:the|The|a|of|in|at|from|to|on) {name}\b", text))


def other_things(rng: random.Random, text: str) -> str:
    """One kind of thing becomes another where it is the only one of its family in the text."""
    for family in _THINGS:
        present = [pair for pair in family if re.search(rf"\b({pair[0]}|{pair[1]})\b", text, re.IGNORECASE)]
        if len(present) != 1 or re.search(
            rf"\b{present[0][1]}s?\b[ -](?:pie|juice|tree|sauce|cake|seed|pack|bush)", text
        ):
            continue
        old, new = present[0], rng.choice(family)
        if _article(old[1]) != _article(new[1]) and re.search(rf"\ban? {old[1]}\b", text, re.IGNORECASE):
            continue
        for a, b in zip(old, new, strict=True):
            text = re.sub(rf"\b{a}\b", b, text)
            text = re.sub(rf"\b{a.capitalize()}\b", b.capitalize(), text)
    return text


def _article(word: str) -> bool:
    return word[0] in "aeiou"
