"""Real API descriptions, read into nouns and operations: AWS's (package `botocore`) and those of MCP servers.

A noun becomes an entity, a shared id an arrow between entities, a verb an effect, a declared error a guard
(`build.py`). Structures are read one level down: what lies deeper is left out.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import html
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openk2.errors import UserError
from openk2.paths import install
from openk2.synth.world.tree import Kind

_MOST_VALUES = 8  # of an enumeration
_MOST_PARTS = 6  # of an object


@dataclass(frozen=True)
class Slot:
    """A value that an operation takes or a noun has. `of`: the noun whose id it is; `parts`: of an object."""

    name: str
    kind: Kind
    doc: str = ""
    values: tuple[str, ...] = ()
    of: str = ""
    required: bool = False
    parts: tuple[Slot, ...] = ()


@dataclass(frozen=True)
class Operation:
    """`verb` and `noun` (singular) are lower snake case; `plural`: the noun stands in the plural. The verb of an
    operation on many is `batch_get`, `batch_delete` and so on.
    """

    name: str
    verb: str
    noun: str
    plural: bool
    inputs: tuple[Slot, ...]
    outputs: tuple[str, ...]
    errors: tuple[str, ...]
    doc: str
    source: str
    shape: str = ""  # verb and types, all names left out (`signature.shape`)
    deep: str = ""  # the same one level deeper


@dataclass
class Api:
    """One service: its nouns with their fields, and its operations in order of name."""

    name: str
    title: str
    source: str
    nouns: dict[str, tuple[Slot, ...]] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)


def snake(text: str) -> str:
    """`DBClusterSnapshot` -> `db_cluster_snapshot`, `getUser-info` -> `get_user_info`."""
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", text)
    return re.sub(r"_+", "_", re.sub(r"[^A-Za-z0-9]+", "_", text)).strip("_").lower()


def singular(noun: str) -> tuple[str, bool]:
    """(the noun in the singular, whether it was plural)."""
    if noun.endswith("ies") and len(noun) > 4:
        return noun[:-3] + "y", True
    if re.search(r"(ss|sh|ch|x|z|tatus)es$", noun):
        return noun[:-2], True
    if noun.endswith("s") and not noun.endswith(("ss", "us", "is", "status", "access", "dns", "aws", "sms")):
        return noun[:-1], True
    return noun, False


def _head(noun: str) -> str:
    """`volume_from_snapshot` -> `volume`: the noun of an operation that says whence, for whom or how besides."""
    return re.split(r"_(?:from|for|by|with|in|to|of|on|and|as|at|into|using|via)_", noun)[0]


def _free(name: str) -> str:
    """The name of a field that results may have: `error` is for refusals there, `items` for lists."""
    return "contents" if name == "items" else name.replace("error", "failure")


def first_sentence(doc: str) -> str:
    """Of a documentation in HTML, at most 200 characters."""
    text = html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", doc))).strip()
    match = re.match(r"(.{8,200}?[.!?])(?:\s|$)", text)
    return (match[1] if match else text[:200]).replace(" .", ".").replace(" ,", ",").strip()


# ---- AWS


def botocore_apis() -> Iterator[Api]:
    """Every service of the installed botocore, in order of name. Raises UserError when it is not installed."""
    try:
        import botocore
    except ImportError:
        raise UserError(f"Tools are made from AWS's API descriptions; install them with: {install('synth')}") from None
    folder = Path(botocore.__file__).parent / "data"
    for service in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = sorted(service.glob("*/service-2.json*"))
        if files:
            raw = files[-1].read_bytes()
            yield read_botocore(service.name, json.loads(gzip.decompress(raw) if files[-1].suffix == ".gz" else raw))


def read_botocore(name: str, model: dict[str, Any]) -> Api:
    """One service-2.json."""
    title = model["metadata"].get("serviceId") or model["metadata"].get("serviceFullName", name)
    api = Api(name, str(title), "botocore (Apache-2.0)")
    shapes = model["shapes"]
    found: dict[str, dict[str, Slot]] = defaultdict(dict)
    seen: dict[str, dict[str, Slot]] = defaultdict(dict)  # what results show of a noun
    for raw_name, operation in sorted(model["operations"].items()):
        words = snake(raw_name).split("_")
        if len(words) < 2:
            continue
        many = words[0] == "batch" and len(words) > 2
        verb = "_".join(words[: 1 + many])
        noun, plural = singular(_head("_".join(words[1 + many :])))
        inputs = _members(shapes, (operation.get("input") or {}).get("shape"))
        outputs = _members(shapes, (operation.get("output") or {}).get("shape"))
        api.operations.append(
            Operation(
                name=snake(raw_name), verb=verb, noun=noun, plural=plural, inputs=tuple(inputs),
                outputs=tuple(slot.name for slot in outputs),
                errors=tuple(error["shape"] for error in operation.get("errors", ())),
                doc=first_sentence(operation.get("documentation", "")), source=f"{name}.{raw_name}",
                shape=_shape(words[0], operation, shapes, deep=False),
                deep=_shape(words[0], operation, shapes, deep=True),
            )
        )  # fmt: skip
        if verb in _MAKES:
            found[noun] |= {slot.name: slot for slot in inputs}
        if words[many] in ("get", "describe", "list", "search") and (plural or words[many] in ("list", "search")):
            listed = _items(shapes, noun, (operation.get("output") or {}).get("shape"))
            asked = (s for s in inputs if s.kind in ("text", "choice", "flag", "int") and not says_how(s.name))
            seen[noun] |= {slot.name: slot for slot in (*asked, *listed)}
        elif verb in ("get", "describe"):
            found[noun] |= {slot.name: slot for slot in outputs}
    for noun in sorted(found.keys() | seen.keys()):
        slots = found[noun]
        for suffix in ("", "Summary", "Detail", "Details", "Description", "Metadata", "Info"):
            shape = "".join(word.capitalize() for word in noun.split("_")) + suffix
            match = next((s for s in shapes if s.lower() == shape.lower()), None)
            if match:
                slots |= {slot.name: slot for slot in _members(shapes, match) if slot.name not in slots}
        slots |= {name: slot for name, slot in seen[noun].items() if name not in slots}
    return _linked(api, found)


_MAKES = frozenset(
    "create put register update add start request send import submit generate modify set copy restore purchase "
    "allocate run invite export publish issue schedule write insert provision".split()
)


def _shape(verb: str, operation: dict[str, Any], shapes: dict[str, Any], deep: bool) -> str:
    """Verb, typed inputs (whether required, how many choices) and typed outputs of a real operation."""

    def wire(name: str, deep: bool) -> str:
        shape = shapes[name]
        kind = f"{shape['type']}{len(shape.get('enum', ())) or ''}"
        if not deep or shape["type"] not in ("list", "structure"):
            return kind
        if shape["type"] == "list" and shapes[shape["member"]["shape"]]["type"] != "structure":
            return f"list({shapes[shape['member']['shape']]['type']})"
        inner = shapes[shape["member"]["shape"]] if shape["type"] == "list" else shape
        return f"{kind}({','.join(sorted(wire(m['shape'], False) for m in inner.get('members', {}).values()))})"

    def typed(key: str) -> list[str]:
        shape = shapes.get((operation.get(key) or {}).get("shape", ""), {})
        need = shape.get("required", ())
        return sorted(
            f"{wire(member['shape'], deep)}{'' if name in need else '?'}"
            for name, member in shape.get("members", {}).items()
        )

    return f"{verb}({','.join(typed('input'))}) -> {','.join(typed('output'))}"


def _members(shapes: dict[str, Any], name: str | None) -> list[Slot]:
    """The members of a structure; of one that holds a single structure and hardly more, of that one."""
    shape = shapes.get(name or "", {})
    members = shape.get("members", {})
    structures = [m["shape"] for m in members.values() if shapes[m["shape"]]["type"] == "structure"]
    needed = shape.get("required", ())
    plain = [slot for key, m in members.items() if (slot := _slot(key, m, shapes, key in needed, deep=False))]
    if len(structures) == 1 and len(plain) <= 1:
        inner = shapes[structures[0]].get("members", {})
        return plain + [slot for key, m in inner.items() if (slot := _slot(key, m, shapes, False))]
    return [slot for key, m in members.items() if (slot := _slot(key, m, shapes, key in needed))]


def _items(shapes: dict[str, Any], noun: str, name: str | None) -> list[Slot]:
    """The members of what a result lists: of its only list of structures, or of the one that is called as the noun."""
    members = shapes.get(name or "", {}).get("members", {})
    lists = {
        key: item for key, m in members.items()
        if shapes[m["shape"]]["type"] == "list"
        and shapes[item := shapes[m["shape"]]["member"]["shape"]]["type"] == "structure"
    }  # fmt: skip
    named = [item for key, item in lists.items() if singular(snake(key))[0] == noun]
    return _members(shapes, (named or list(lists.values()))[0]) if named or len(lists) == 1 else []


_PLAIN: dict[str, Kind] = {
    "string": "text", "integer": "int", "long": "int", "double": "int", "float": "int", "boolean": "flag",
    "timestamp": "time",
}  # fmt: skip
_IGNORED = frozenset(
    "next_token max_results client_token client_request_token marker max_items dry_run max_records page_token "
    "next_marker starting_token continuation_token next_page_token token position accept_language "
    "idempotency_token page_size request_id response_metadata aws_account_id account_id".split()
)


def _slot(key: str, member: dict[str, Any], shapes: dict[str, Any], required: bool, deep: bool = True) -> Slot | None:
    """`deep`: structures and lists of them too, with their plain members."""
    name, shape = _free(snake(key)), shapes[member["shape"]]
    if name in _IGNORED or member.get("idempotencyToken"):
        return None
    doc = first_sentence(member.get("documentation", ""))
    inner = shapes[shape["member"]["shape"]] if shape["type"] == "list" else shape
    if inner["type"] == "structure":
        if not deep:
            return None
        parts = _parts(slot for k, m in inner.get("members", {}).items() if (slot := _slot(k, m, shapes, False, False)))
        kind: Kind = "object" if inner is shape else "objects"
        return Slot(name, kind, doc, (), "", required, parts) if parts else None
    values = tuple(sorted({snake(v) for v in inner.get("enum", ())}))
    values = values if 2 <= len(values) <= _MOST_VALUES else ()
    if inner is not shape:
        return Slot(name, "texts", doc, values, "", required) if inner["type"] == "string" else None
    kind = "choice" if values else _timed(name, _PLAIN.get(shape["type"], "object"))
    return Slot(name, kind, doc, values, "", required) if kind != "object" else None


def _timed(name: str, kind: Kind) -> Kind:
    """A time that is written as text, or as a number without saying so, is a time (`created_at`, `end_date`)."""
    plain = r"(_at|_date|_time|date|deadline)$" if kind == "text" else r"_(at|date|timestamp)$"
    return "time" if kind in ("text", "int") and re.search(plain, name) else kind


def _parts(slots: Iterable[Slot]) -> tuple[Slot, ...]:
    """Those that can lie in an object."""
    return tuple(slot for slot in slots if slot.kind in ("text", "int", "flag", "choice"))[:_MOST_PARTS]


# ---- MCP servers


def mcp_apis(path: Path) -> Iterator[Api]:
    """The servers with tools of a file of MCP specifications (JSON lines, as Toucan crawled them), in order.

    Small ones that have nothing in common are put together, as an agent is given several servers at once.
    """
    together: list[Api] = []
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                api = read_mcp(json.loads(line)["spec"]["metadata"])
                if len(api.nouns) > _SMALL:
                    yield api
                elif api.operations:
                    if any(_collide(api, other) for other in together):
                        yield _joined(together)
                        together = []
                    together.append(api)
                    if sum(len(other.nouns) for other in together) > _SMALL or len(together) == _MOST_SERVERS:
                        yield _joined(together)
                        together = []
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is no file of MCP specifications ({error}); restore it.") from None
    if together:
        yield _joined(together)


_SMALL, _MOST_SERVERS = 8, 8  # nouns of a server that has a world of its own; servers that share one


def _collide(a: Api, b: Api) -> bool:
    names = {operation.name for operation in b.operations}
    return bool(a.nouns.keys() & b.nouns.keys()) or any(operation.name in names for operation in a.operations)


def _joined(apis: list[Api]) -> Api:
    name = "_".join(dict.fromkeys(api.name.removeprefix("mcp_") for api in apis))
    both = Api(f"mcp_{name}"[:80], " and ".join(dict.fromkeys(api.title for api in apis)), apis[0].source)
    for api in apis:
        both.nouns |= api.nouns
        both.operations += api.operations
    return both


_VERBS = frozenset(
    "create get list update delete search add remove set find fetch send read write run execute start stop move "
    "copy rename archive assign unassign close open complete cancel approve reject publish schedule book reserve "
    "upload download merge split transfer count query edit insert link unlink enable disable pause resume submit "
    "retrieve show check analyze generate describe view lookup browse extract resolve scan scrape explore compare "
    "inspect validate save log track monitor export import deploy install register clear reset connect disconnect "
    "build modify take play navigate click fill load convert calculate summarize translate crawl ping test parse "
    "format evaluate explain".split()
)
_READS = frozenset(
    "get list search find fetch read count query retrieve show check analyze describe view lookup browse extract "
    "resolve scan scrape explore compare inspect validate monitor download crawl test parse evaluate explain "
    "summarize".split()
)


def verb_at(words: Sequence[str]) -> int | None:
    """Where the verb stands in the words of an MCP tool's name."""
    return next((i for i, word in enumerate(words) if word in _VERBS), None)


def read_mcp(metadata: dict[str, Any]) -> Api:
    """One server's tools; of a name such as `crm_create_contact` the verb is found wherever it stands, and what comes
    before it is taken for the noun where nothing follows (`contact_search`). A tool that only reads makes its arguments
    fields of what it finds.
    """
    title = str(metadata.get("server_name", "server"))
    server = snake(title) or "server"
    api = Api(f"mcp_{server}", title, "Toucan MCP specifications (MIT)")
    found: dict[str, dict[str, Slot]] = defaultdict(dict)
    read: dict[str, dict[str, Slot]] = defaultdict(dict)
    for tool in (metadata.get("remote_server_response") or {}).get("tools") or ():
        words = snake(str(tool.get("name", ""))).split("_")
        at = verb_at(words) or 0
        noun, plural = singular(_head("_".join(words[at + 1 :] or words[:at]) or server))
        inputs = tuple(_mcp_slots(tool.get("input_schema") or {}))
        doc = first_sentence(str(tool.get("description", "")))
        api.operations.append(
            Operation("_".join(words), words[at], noun, plural, inputs, (), (), doc, f"{api.name}.{tool['name']}")
        )
        if words[at] in _READS:
            read[noun] |= {slot.name: slot for slot in inputs if not says_how(slot.name)}
            read[noun].setdefault("name", Slot("name", "text"))
        elif words[at] in _VERBS - {"delete", "remove", "stop", "close", "cancel", "disable", "disconnect", "clear"}:
            found[noun] |= {slot.name: slot for slot in inputs}
    for noun, slots in read.items():
        found[noun] |= {name: slot for name, slot in slots.items() if name not in found[noun]}
    return _linked(api, found)


def _mcp_slots(shape: dict[str, Any], deep: bool = True) -> Iterator[Slot]:
    required = shape.get("required") or ()
    for key, value in (shape.get("properties") or {}).items():
        if isinstance(value, dict) and (slot := _mcp_slot(snake(str(key)), value, key in required, deep)):
            yield slot


def _mcp_slot(name: str, value: dict[str, Any], required: bool, deep: bool) -> Slot | None:
    name = _free(name)
    if not name or not name.isidentifier() or name in _IGNORED:
        return None
    if isinstance(value.get("anyOf"), list):  # a type or null
        value = value | next((v for v in value["anyOf"] if isinstance(v, dict) and v.get("type") != "null"), {})
    kinds: dict[str, Kind] = {"string": "text", "integer": "int", "number": "int", "boolean": "flag"}
    doc = first_sentence(str(value.get("description", "")))
    many = value.get("type") == "array"
    items = value.get("items") if many else value
    items = items if isinstance(items, dict) else {}
    values = tuple(sorted({snake(str(v)) for v in items.get("enum") or () if snake(str(v))}))
    values = values if 2 <= len(values) <= _MOST_VALUES else ()
    if items.get("type") == "object":
        parts = _parts(_mcp_slots(items, deep=False)) if deep else ()
        return Slot(name, "objects" if many else "object", doc, (), "", required, parts) if parts else None
    kind = kinds.get(str(items.get("type")))
    if kind is None or many:
        return Slot(name, "texts", doc, values, "", required) if kind == "text" and many else None
    return Slot(name, "choice" if values else _timed(name, kind), doc, values, "", required)


# ---- both

_KEPT = frozenset({"call", "watch", "notice", "approval"})  # entities of every world (`motifs.py`, `policies.py`)


_SEARCHES = frozenset(  # arguments that say how to look, not what a record has
    "query q search search_query search_term keyword keywords term limit page offset sort sort_by sort_order order "
    "order_by count per_page size num_results top_k top n max cursor filter filters fields include exclude api_key "
    "token verbose pretty timeout sort_criteria reverse_order ascending_order".split()
)
PART_OF = re.compile(r"^(q|text|term)$|(search|query|keyword|_term|contains|prefix|pattern|substring)")


def says_how(name: str) -> bool:
    """Whether an argument says how to look, and is not what a record has."""
    return name in _SEARCHES or bool(PART_OF.search(name))


def _linked(api: Api, found: dict[str, dict[str, Slot]]) -> Api:
    """Keep the nouns that can be entities, and say of every `..._id` whose it is."""
    verbs: dict[str, set[str]] = defaultdict(set)
    for operation in api.operations:
        verbs[operation.noun].add(operation.verb)
    nouns = {noun for noun, slots in found.items() if slots and verbs[noun] and len(noun) <= 40 and noun not in _KEPT}
    for noun in sorted(nouns):
        api.nouns[noun] = _all_referring(found[noun].values(), noun, nouns)
    api.operations = [
        Operation(
            o.name, o.verb, o.noun, o.plural, _all_referring(o.inputs, "", nouns),
            o.outputs, o.errors, o.doc, o.source, o.shape, o.deep,
        )
        for o in api.operations
    ]  # fmt: skip
    return api


def _all_referring(slots: Iterable[Slot], own: str, nouns: set[str]) -> tuple[Slot, ...]:
    """One of each name, a required one before another (an ARN and an id of one noun have the same name here)."""
    out: dict[str, Slot] = {}
    for slot in slots:
        made = _referring(slot, own, nouns)
        if made and (made.name not in out or made.required > out[made.name].required):
            out[made.name] = made
    return tuple(out.values())


_OWN = frozenset({"id", "arn", "ids", "arns", "owner_id", "deleted_at"})  # what records of a world have by themselves


def _referring(slot: Slot, own: str, nouns: set[str]) -> Slot | None:
    """The slot with its noun, or None for the noun's own id; an id of what is no entity here is a text."""
    match = re.fullmatch(r"(.+?)_(ids?|arns?|identifiers?)", slot.name)
    if slot.name in _OWN or (slot.kind in ("object", "objects") and match and match[1] == own):
        return None
    if slot.kind not in ("text", "texts", "int") or not match:
        return slot
    noun = _owner(match[1], nouns)
    if not noun:
        return slot if slot.kind != "int" else dataclasses.replace(slot, kind="text")
    if noun == own:
        return None
    many = slot.kind == "texts" or match[2].endswith("s")
    return Slot(f"{noun}_ids" if many else f"{noun}_id", "ids" if many else "id", slot.doc, (), noun, slot.required)


@functools.lru_cache(maxsize=65536)
def _owner_cached(stem: str, nouns: frozenset[str]) -> str:
    if stem in nouns:
        return stem
    ends = sorted((n for n in nouns if n.endswith("_" + stem) or stem.endswith("_" + n)), key=lambda n: (len(n), n))
    return ends[0] if ends else ""


def _owner(stem: str, nouns: set[str]) -> str:
    return _owner_cached(stem, frozenset(nouns))
