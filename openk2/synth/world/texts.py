"""Texts for fields by their names: an e-mail address where one belongs, a path, a region, a reason."""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Callable

_FIRST = (
    "amber arctic autumn basalt birch bright cedar cobalt copper coral crimson delta ember fern flint frost golden "
    "granite harbor hazel indigo ivory jade juniper lunar maple marble mellow mistral north ocean olive onyx opal "
    "orchid pearl pine polar prairie quartz raven river ruby saffron sage scarlet silver slate solar spruce stone "
    "summit teal tidal topaz umber velvet violet walnut willow winter"
).split()
_SECOND = (
    "anchor apex arrow atlas aurora badge beacon bridge canyon cascade castle circuit comet compass cove crest crown "
    "dome echo falcon field forge fountain gate glade grove haven heron horizon island junction kestrel lagoon lantern "
    "ledger lighthouse lynx meadow mesa mill mirror nest nova orbit otter oasis parcel peak pioneer plaza portal ridge "
    "sail sparrow station terrace tower trail valley vault wharf"
).split()
PEOPLE = (
    "Ana Bruno Chen Dalia Emeka Farah Goran Hana Idris Jonas Keiko Lucia Milan Nadia Omar Petra Quentin Rosa Samir "
    "Tessa Ursula Viktor Wanda Xavier Yara Zoltan"
).split()
_REGIONS = ("north-1", "north-2", "south-1", "south-3", "east-1", "east-2", "west-2", "west-4", "central-1")
_REASONS = (
    "asked for by the team", "part of the spring clean-up", "needed for the audit", "moved from the old system",
    "see the minutes of Monday", "agreed with the owner", "replaces the one from last year", "only for a test",
    "the customer wants it so", "until the new one is ready",
)  # fmt: skip


def name(rng: random.Random) -> str:
    """`copper-lantern-42`: distinct enough to look a record up by."""
    return f"{rng.choice(_FIRST)}-{rng.choice(_SECOND)}-{rng.randint(10, 99)}"


def text(field: str, rng: random.Random) -> str:
    """A value for a text field of this name; what looks like a label is a name of its own."""
    return _maker(field)(rng)


@functools.cache
def _maker(field: str) -> Callable[[random.Random], str]:
    return next((make for pattern, make in _KINDS if re.search(pattern, field)), name)


def _version(rng: random.Random) -> str:
    return f"{rng.randint(1, 9)}.{rng.randint(0, 19)}.{rng.randint(0, 30)}"


_KINDS: tuple[tuple[str, Callable[[random.Random], str]], ...] = (
    (r"e?mail", lambda r: f"{r.choice(PEOPLE).lower()}.{r.choice(_SECOND)}@{r.choice(_FIRST)}.example"),
    (r"cidr", lambda r: f"10.{r.randint(0, 255)}.{r.randint(0, 255)}.0/24"),
    (r"(^|_)ip(v4)?($|_)|ip_address", lambda r: f"10.{r.randint(0, 255)}.{r.randint(0, 255)}.{r.randint(1, 254)}"),
    (r"ur[li]$|endpoint$|website|link$", lambda r: f"https://{r.choice(_FIRST)}.example/{r.choice(_SECOND)}"),
    (r"path$|location$|prefix$|folder|directory", lambda r: f"/{r.choice(_FIRST)}/{r.choice(_SECOND)}"),
    (r"version$", _version),
    (r"region|zone$", lambda r: r.choice(_REGIONS)),
    (r"description|comment|reason|note$|notes$|memo|body|message$|summary", lambda r: r.choice(_REASONS)),
    (r"phone", lambda r: f"+00 555 {r.randint(1000, 9999)}"),
    (r"_ids?$|identifiers?$", lambda r: f"K{r.getrandbits(24):06X}"),
    (r"arns?$", lambda r: f"arn:{r.choice(_FIRST)}:{r.choice(_SECOND)}/{r.randint(100, 999)}"),
    (r"currency", lambda r: r.choice(("EUR", "USD", "GBP", "JPY", "CHF"))),
    (r"language|locale", lambda r: r.choice(("en", "de", "fr", "es", "ja", "pt"))),
)  # fmt: skip
