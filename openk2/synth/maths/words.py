"""People and things of a word problem get other names: one person one name, a woman a woman's, apples plums."""

from __future__ import annotations

import random
import re

_WOMEN = (
    "Natalia Betty Julie Mimi Tina Joy Kylar Carly Haley Mary Anna Anne Sarah Emily Emma Jane Lisa Jessica "
    "Jennifer Julia Amy Kate Katie Laura Linda Maria Martha Mia Nancy Nicole Olivia Rachel Rebecca Samantha "
    "Sophia Sophie Susan Wendy Alice Amanda Angela Brenda Carla Carol Christina Claire Cynthia Diana Donna "
    "Elizabeth Ella Ellen Eva Gina Hannah Helen Isabella Jenny Joan Joanna Josie Judy Karen Kelly Lily Lucy Marie "
    "Megan Melissa Michelle Mila Molly Natalie Nora Ruth Sally Sandra Shannon Sharon Stella Stephanie Tanya Tara "
    "Teresa Tiffany Vanessa Victoria Zoe Abby Ava Beth Bella Cindy Erin Fiona Gloria Holly Janet Jill Josephine "
    "Kathy Kylie Leah Lena Lola Mabel Macy Maddie Marcy Mandy Marissa Marla Melanie Miriam Monica Paula Peggy Pam "
    "Roxanne Sonia Tracy Adelaide Bethany Brittany Courtney Danielle Elise Heather Jasmine Jasmin Kristen Kendra "
    "Lauren Leila Mckenna Miranda Naomi Priscilla Rosie Tabitha Tasha Uma Valerie Wanda Yolanda Sara Alyssa Annie "
    "Diane Jenna Bianca Connie Isabel Carrie Paige Lana Nina Ashley Joyce Faye Janice Susie Jean Sue Barbara Elsa "
    "Becky Madeline Patricia Chloe Christine Debby Gwen Layla Jen Rita Marta Bonnie Kimberly Lydia Clara Madison "
    "Ruby Marcia Carolyn Phoebe Brooke Stacy Patty Theresa Maggie Liza Veronica Lucille "
    "Candace Marion Juanita Libby Emilia Nadia Missy"
).split()
_MEN = (
    "John James Robert Michael William David Richard Joseph Thomas Charles Daniel Matthew Anthony Donald Steven "
    "Paul Andrew Joshua Kenneth Kevin Brian George Edward Ronald Timothy Jason Jeffrey Ryan Jacob Gary Nicholas "
    "Eric Jonathan Stephen Larry Justin Scott Brandon Benjamin Gregory Frank Raymond Jack Dennis Jerry Tyler "
    "Aaron Henry Adam Peter Nathan Zachary Walter Kyle Harold Carl Jeremy Keith Roger Gerald Ethan Arthur Sean "
    "Lawrence Joe Noah Albert Bryan Billy Bruce Dylan Alan Ralph Gabriel Roy Juan Wayne Eugene Logan Randy "
    "Russell Vincent Philip Bobby Johnny Bradley Tom Tim Jim Bob Mike Dan Ben Sam Max Luke Fred Ted Greg Steve "
    "Jeff Ken Ron Don Leo Liam Lucas Oliver Oscar Owen Pedro Carlos Marcus Martin Mitchell Nick Patrick Rick "
    "Ricardo Simon Stan Trevor Victor Xavier Zach Calvin Colin Craig Derek Doug Felix Finn Gilbert Harry Howard "
    "Hugo Ian Isaac Ivan Jake Jared Josh Julian Karl Kurt Lloyd Malcolm Miguel Neil Omar Raul Roland Seth Sid "
    "Toby Todd Tony Wally Wesley Matt Jimmy Dave Tommy Andy Samuel Benny Barry Kaleb Mason Danny Bert Carter Ned "
    "Carson Connor Caleb Kenny Cody Pete Jorge Jerome Phillip Brad Nate Joey Jonah Christopher Alexander Phil "
    "Diego Shane Hank Rob"
).split()
_IS_WOMAN, _IS_MAN = frozenset(_WOMEN), frozenset(_MEN)
# Things of which one can stand for another: bought, held, counted, given; no unit. Plural and singular.
_THINGS: tuple[tuple[tuple[str, str], ...], ...] = (
    tuple((f"{w}s", w) for w in "apple orange banana plum lemon melon pear apricot mango".split()),
    tuple((f"{w}s", w) for w in "pencil pen crayon marker".split()),
    tuple((f"{w}s", w) for w in "cookie muffin cupcake brownie doughnut".split()),
    tuple((f"{w}s", w) for w in "rose tulip daffodil sunflower orchid".split()),
)
# Words beside which a thing is not any other one of its family.
_OWN = re.compile(
    r"\b(?:pies?|juice|trees?|sauce|cakes?|seeds?|packs? of gum|bush(?:es)?|cider|orchard|peel\w*|squeez\w+|lemonade|"
    r"slices?|sharpen\w*|ink|erasers?|chips?|dough|batter|flour|petals?|thorns?|bracelets?|necklaces?|shirts?|sew\w*|"
    r"cloth\w*|tailor|coats?|pounds?|ounces?|inch(?:es)?|split|bread|bunch(?:es)?|jam)\b",
    re.IGNORECASE,
)
_NAME = re.compile(r"\b[A-Z][a-z]{2,}\b")


def renamed(rng: random.Random, text: str) -> str:
    """Known first names become others of the same kind; names that are not known stay. One person alone in a text is
    what its pronouns say; a woman's name otherwise becomes a woman's.
    """
    present = [n for n in dict.fromkeys(_NAME.findall(text)) if not _thing(n, text)]
    kinds = [(_WOMEN, [n for n in present if n in _IS_WOMAN]), (_MEN, [n for n in present if n in _IS_MAN])]
    found_names = [n for _, found in kinds for n in found]
    if any(n != o and (n[:3] == o[:3] or n[:2] + n[-2:] == o[:2] + o[-2:]) for n in found_names for o in present):
        return text  # a slip in the spelling of a name
    he, she = (re.search(rf"\b(?:{words})\b", text, re.IGNORECASE) for words in ("he|his|him", "she|hers?"))
    if sum(len(found) for _, found in kinds) == 1 and (he is None) != (she is None):
        kinds = [(_MEN if he else _WOMEN, [n for _, found in kinds for n in found])]
    table: dict[str, str] = {}
    for people, found in kinds:
        free = [n for n in people if n not in text and n not in table.values()]
        table |= dict(zip(found, rng.sample(free, len(found)), strict=True))
    return re.sub(r"\b([A-Z][a-z]{2,})('(?!\w))?", lambda m: _put(table, m[1], m[2] or ""), text)


def _put(table: dict[str, str], name: str, mark: str) -> str:
    """The new name, with the mark of the old one's genitive: `James' car` becomes `Peter's car`."""
    new = table.get(name, name)
    return f"{new}'s" if mark and name in table and name.endswith("s") and not new.endswith("s") else new + mark


def _thing(name: str, text: str) -> bool:
    """Words that are no names here: `Rose` behind an article, a street, a title with a family name."""
    return bool(re.search(rf"\b(?:the|The|a|in|at|from) {name}\b(?!')|\b{name} (?:Street|Avenue|Park|City)\b", text))


def other_things(rng: random.Random, text: str) -> str:
    """One kind of thing becomes another where it is the only one of its family in the text."""
    if _OWN.search(text):
        return text
    for family in _THINGS:
        present = [pair for pair in family if re.search(rf"\b({pair[0]}|{pair[1]})\b", text, re.IGNORECASE)]
        if len(present) != 1 or present[0][0] not in text:  # `orange` alone may be a colour, `rose` a verb
            continue
        old, new = present[0], rng.choice(family)
        if _vowel(old[1]) != _vowel(new[1]) and re.search(rf"\ban? {old[1]}\b", text, re.IGNORECASE):
            continue
        for a, b in zip(old, new, strict=True):
            text = re.sub(rf"\b{a}\b", b, text)
            text = re.sub(rf"\b{a.capitalize()}\b", b.capitalize(), text)
    return text


def _vowel(word: str) -> bool:
    return word[0] in "aeiou"
