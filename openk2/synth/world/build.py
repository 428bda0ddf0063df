"""Worlds from APIs: which nouns live together, their real operations as tools, motifs and policies laid over them.

A world is a function of the API description and a seed; nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from openk2.synth.world import policies, verbs
from openk2.synth.world.draft import Draft
from openk2.synth.world.lifecycle import connect, lifecycle
from openk2.synth.world.motifs import MOTIFS as OTHERS
from openk2.synth.world.schemas import Api, Operation
from openk2.synth.world.spec import WorldSpec
from openk2.synth.world.tree import Field, Type

MOTIFS = OTHERS | {"lifecycle": lifecycle}
NOUNS = (2, 4)  # of a world
_FIELDS = 14  # of an entity, before motifs
_MOTIFS = (3, 6)
_LEAST_TOOLS = 8
_SAME_VERB = 9  # tools of one kind (get, list, ...) in a world at most
ROLES = (
    ("viewer", "editor", "admin"), ("clerk", "manager"), ("member", "moderator", "owner"),
    ("agent", "lead", "director"),
    ("operator", "engineer", "administrator"), ("guest", "staff", "supervisor"),
)  # fmt: skip


def worlds_of(api: Api, seed: int) -> Iterator[WorldSpec]:
    """The worlds of one API: its nouns in groups that refer to each other; one whose tools are too few is left out."""
    for number, group in enumerate(_groups(api)):
        name = f"{api.name.replace('-', '_')}_{number}" + (f"_{seed}" if seed else "")
        world = build(api, group, name, seed)
        if len(world.tools) >= _LEAST_TOOLS:
            yield world


def _groups(api: Api) -> Iterator[list[str]]:
    """Nouns in groups of a few, each grown along references and common words."""
    left = dict.fromkeys(sorted(api.nouns))
    uses: dict[str, int] = dict.fromkeys(left, 0)
    for operation in api.operations:
        if operation.noun in uses:
            uses[operation.noun] += 1
    while left:
        first = max(left, key=lambda noun: (uses[noun], noun))
        group = [first]
        del left[first]
        while len(group) < NOUNS[1] and left:
            near = max(left, key=lambda noun: (_nearness(api, noun, group), uses[noun], noun))
            if len(group) >= NOUNS[0] and _nearness(api, near, group) == 0:
                break
            group.append(near)
            del left[near]
        yield group


def _nearness(api: Api, noun: str, group: list[str]) -> int:
    refers = sum(slot.of in group for slot in api.nouns[noun])
    refers += sum(slot.of == noun for other in group for slot in api.nouns[other])
    words = set(noun.split("_"))
    return 3 * refers + sum(bool(words & set(other.split("_"))) for other in group)


def build(api: Api, nouns: list[str], name: str, seed: int) -> WorldSpec:
    """One world around these nouns."""
    rng = random.Random(f"openk2 world {name} {seed}")
    draft = Draft(rng, rng.choice(ROLES))
    names = set(nouns)
    for noun in nouns:
        fields = verbs.fields_of(api.nouns[noun], names, _FIELDS)
        if not any(f.type.kind == "text" for f in fields):
            fields.insert(0, Field("name", Type("text")))
        draft.entity(noun, fields)
    kinds: dict[str, int] = {}
    for operation in _in_order(api.operations):
        if kinds.get(operation.verb, 0) >= _SAME_VERB:
            continue
        linked = verbs.compile_link(draft, operation, names)
        if linked or (operation.noun in names and verbs.compile_operation(draft, operation)):
            kinds[operation.verb] = kinds.get(operation.verb, 0) + 1
    connect(draft)
    for motif in rng.sample(list(MOTIFS), rng.randint(*_MOTIFS)):
        for noun in rng.sample(nouns, len(nouns)):
            if MOTIFS[motif](draft, noun):
                break
    _overlay(draft)
    return WorldSpec(name, api.title, seed, draft.entities(), tuple(draft.tools.values()), api.source)


def _in_order(operations: Iterable[Operation]) -> list[Operation]:
    """Creates first: whether an update is one depends on them."""
    return sorted(operations, key=lambda o: (o.verb != "create", o.name))


def _overlay(draft: Draft) -> None:
    for name, tool in list(draft.tools.items()):
        if tool.reads or tool.motif == "undo":
            continue
        for overlay, share in policies.OVERLAYS.values():
            if draft.chance(share):
                draft.tools[name] = overlay(draft, draft.tools[name]) or draft.tools[name]
    for name, tool in draft.tools.items():
        draft.tools[name] = policies.visible(draft, policies.alive(draft, tool))
