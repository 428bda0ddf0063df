"""Worlds from APIs: which nouns live together, their real operations as tools, motifs and policies laid over them.

A world is a function of the API description and a seed; nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from openk2.synth.world import policies, verbs
from openk2.synth.world.claims import Effect
from openk2.synth.world.draft import Draft
from openk2.synth.world.lifecycle import connect, lifecycle
from openk2.synth.world.motifs import MOTIFS as OTHERS
from openk2.synth.world.motifs import RARE, READING
from openk2.synth.world.schemas import Api, Operation
from openk2.synth.world.spec import WorldSpec
from openk2.synth.world.tree import Field, Type

MOTIFS = OTHERS | {"lifecycle": lifecycle}
_SIZES = ((0.66, (2, 4)), (0.14, (5, 8)), (0.2, (12, 22)))  # nouns of a world that can be changed, with the chance
_MOST_NOUNS = 22
_FIELDS = 20  # of an entity, before motifs
_MOTIFS = (1, 3)  # and one more for every four nouns
_LEAST_TOOLS = 10
_SAME_VERB = 3  # tools of one kind (get, list, ...) a noun
_FEW = 5
_COMMON = (  # what a result of an MCP tool may hold
    Field("summary", Type("text")), Field("url", Type("text")), Field("author", Type("text")),
    Field("category", Type("choice", values=("article", "dataset", "event", "product"))),
    Field("language", Type("text")), Field("tags", Type("texts")), Field("score", Type("int"), 1, 100),
    Field("size", Type("int"), 1, 900), Field("verified", Type("flag")), Field("created_at", Type("time")),
    Field("updated_at", Type("time")), Field("state", Type("choice", values=("active", "archived", "draft"))),
    Field("origin", Type("object", parts=(Field("site", Type("text")), Field("page", Type("int"), 1, 40)))),
)  # fmt: skip
ROLES = (
    ("viewer", "editor", "admin"), ("clerk", "manager"), ("member", "moderator", "owner"),
    ("agent", "lead", "director"),
    ("operator", "engineer", "administrator"), ("guest", "staff", "supervisor"),
)  # fmt: skip


def worlds_of(api: Api, seed: int) -> Iterator[WorldSpec]:
    """The worlds of one API: its nouns in groups that refer to each other; one whose tools are too few is left out."""
    for number, group in enumerate(noun_groups(api)):
        name = f"{api.name.replace('-', '_')}_{number}" + (f"_{seed}" if seed else "")
        world = build(api, group, name, seed)
        if len(world.tools) >= _LEAST_TOOLS:
            yield world


def noun_groups(api: Api) -> Iterator[list[str]]:
    """Nouns in groups, each grown along references and common words: first those that operations change, then to each
    group as many again that can only be read; those left over are by themselves. What MCP servers offer stays together.
    """
    rng = random.Random(f"openk2 groups {api.name}")
    uses: dict[str, int] = dict.fromkeys(api.nouns, 0)
    changed: set[str] = set()
    for operation in api.operations:
        if operation.noun in uses:
            uses[operation.noun] += 1
            if operation.verb.removeprefix("batch_") not in verbs.GET | verbs.LIST:
                changed.add(operation.noun)
    mixed = not api.name.startswith("mcp_")
    left = dict.fromkeys(sorted(changed))
    groups: list[list[str]] = []
    while left:
        ((low, most),) = rng.choices([size for _, size in _SIZES], [share for share, _ in _SIZES])
        most = rng.randint(low, most) if mixed else _MOST_NOUNS
        group = [max(left, key=lambda noun: (uses[noun], noun))]
        del left[group[0]]
        while len(group) < most and left:
            near = max(left, key=lambda noun: (_nearness(api, noun, group), uses[noun], noun))
            if len(group) >= _SIZES[0][1][0] and _nearness(api, near, group) == 0 and mixed and most < _SIZES[-1][1][0]:
                break
            group.append(near)
            del left[near]
        groups.append(group)
    room = [len(group) + 1 if mixed else _MOST_NOUNS - len(group) for group in groups]
    rest: list[str] = []
    for noun in sorted(api.nouns.keys() - changed):
        near = max(range(len(groups)), key=lambda i: (room[i] > 0, _nearness(api, noun, groups[i]), -i), default=-1)
        if near >= 0 and room[near] > 0:
            groups[near].append(noun)
            room[near] -= 1
        else:
            rest.append(noun)
    yield from groups
    yield from (rest[i : i + _MOST_NOUNS] for i in range(0, len(rest), _MOST_NOUNS))


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
        if len(fields) < _FEW and api.name.startswith("mcp_"):  # whose specifications do not say what results hold
            known = {f.name for f in fields}
            fields += rng.sample([f for f in _COMMON if f.name not in known], rng.randint(2, 4))
        draft.entity(noun, fields)
    kinds: dict[str, int] = {}
    for operation in _in_order(api.operations):
        if kinds.get(operation.verb, 0) >= _SAME_VERB * max(3, len(nouns)):
            continue
        linked = verbs.compile_link(draft, operation, names)
        if linked or (operation.noun in names and verbs.compile_operation(draft, operation)):
            kinds[operation.verb] = kinds.get(operation.verb, 0) + 1
    connect(draft)
    effects = (claim for tool in draft.tools.values() for claim in tool.claims if isinstance(claim, Effect))
    changed = {getattr(effect, "entity", "") for effect in effects}
    able = [motif for motif in MOTIFS if motif not in RARE or draft.chance(0.4)]
    for motif in rng.sample(able, min(len(able), rng.randint(*_MOTIFS) + len(nouns) // 4)):
        for noun in rng.sample(nouns, len(nouns)):
            if (noun in changed or motif in READING) and MOTIFS[motif](draft, noun):
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
