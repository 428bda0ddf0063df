"""From a real operation to a tool: the verb says the effect, shared ids the references, declared errors the guards."""

from __future__ import annotations

from openk2.synth.world import claims as c
from openk2.synth.world.draft import Draft, id_param
from openk2.synth.world.filters import asked, narrow, order, page_params
from openk2.synth.world.schemas import Operation, Slot
from openk2.synth.world.tree import Field, Param, Type, said

CREATE = set(
    "create register add import allocate purchase request submit invite provision define post upload send put start "
    "run generate schedule book write insert initiate export issue open save log track build take".split()
)
DELETE = set("delete deregister remove terminate deprovision revoke release discard drop erase".split())
GET = set(
    "get describe retrieve read show fetch lookup view check analyze explain inspect resolve evaluate summarize "
    "monitor download extract parse".split()
)
LIST = set("list search query find browse scan explore compare count crawl scrape".split())
UPDATE = set("update modify change set configure edit rename put replace write reset adjust".split())
COPY = set("copy clone duplicate replicate restore".split())
LINK = {"associate": "", "attach": "", "link": "", "assign": "", "subscribe": "", "join": ""}
UNLINK = {"disassociate": "associate", "detach": "attach", "unlink": "link", "unassign": "assign"}
# A verb that moves a record from one state to another, and the states that it may end in (the first that exists).
TO_STATE: dict[str, tuple[str, ...]] = {
    "start": ("running", "started", "active", "in_progress", "starting"), "stop": ("stopped", "inactive", "stopping"),
    "enable": ("enabled", "active", "available"), "disable": ("disabled", "inactive"),
    "cancel": ("cancelled", "canceled", "cancelling", "aborted"), "accept": ("accepted", "active", "approved"),
    "reject": ("rejected", "denied", "failed"), "resume": ("running", "active", "in_progress"),
    "pause": ("paused", "suspended"), "suspend": ("suspended", "paused", "inactive"),
    "activate": ("active", "activated"), "deactivate": ("inactive", "deactivated"), "publish": ("published", "active"),
    "approve": ("approved", "active"), "complete": ("completed", "complete", "succeeded", "done"),
    "close": ("closed", "resolved"), "archive": ("archived",), "unarchive": ("active", "open"),
    "confirm": ("confirmed", "active"), "decline": ("declined", "rejected"), "abort": ("aborted", "cancelled"),
    "acknowledge": ("acknowledged",), "restart": ("restarting", "running"), "reboot": ("rebooting", "available"),
    "promote": ("promoted", "active"), "deprecate": ("deprecated",), "undeprecate": ("active",),
    "retry": ("pending", "queued"), "resolve": ("resolved", "closed"), "lock": ("locked",),
    "unlock": ("unlocked", "active"), "failover": ("failing_over",),
    "apply": ("applied", "active"), "deploy": ("deployed",), "rotate": ("rotating",), "renew": ("renewed", "active"),
    "verify": ("verified",), "validate": ("validated", "valid"), "execute": ("executed", "running"),
    "refresh": ("refreshing",),
    "upgrade": ("upgrading",), "rollback": ("rolled_back",), "reopen": ("open", "active"), "flag": ("flagged",),
}  # fmt: skip
_FIRST = ("pending", "creating", "draft", "new", "open", "active", "enabled", "available", "created", "requested")
_MOST_PARAMS = 12
_MOST_SHOWN = 12  # fields in a result
_MOST_OBJECTS = 4  # structures of an entity


def fields_of(slots: tuple[Slot, ...], names: set[str], most: int) -> list[Field]:
    """The fields of an entity: `names` are the entities of this world, ids of others become text."""
    out: list[Field] = []
    for slot in slots:
        kind, of = slot.kind, slot.of
        if slot.parts and sum(bool(f.type.parts) for f in out) == _MOST_OBJECTS:
            continue
        if of and of not in names:
            out.append(Field(slot.name, Type("text" if kind == "id" else "texts")))
        elif slot.parts:
            out.append(Field(slot.name, Type(kind, parts=tuple(fields_of(slot.parts, set(), len(slot.parts))))))
        elif kind == "int" and any(w in slot.name for w in ("price", "cost", "amount", "fee", "charge", "budget")):
            out.append(Field(slot.name, Type("money"), 500, 90_000))
        elif kind == "int":
            out.append(Field(slot.name, Type("int"), 1, 200))
        elif kind in ("id", "ids"):
            out.append(Field(slot.name, Type(kind, of)))
        else:
            out.append(Field(slot.name, Type(kind, values=slot.values)))
        if len(out) == most:
            break
    return out


def compile_operation(draft: Draft, operation: Operation) -> bool:
    """Add the tool of a real operation on an entity of the draft; False where its verb has no meaning here."""
    verb, entity = operation.verb, operation.noun
    if verb.startswith("batch_"):
        return _bulk(draft, operation, verb.removeprefix("batch_"))
    state = draft.state(entity)
    if verb in TO_STATE and (state or verb not in CREATE):
        return _transition(draft, operation)
    if verb in LIST or (verb in GET and (operation.plural or _looks_up(operation))):
        return _list(draft, operation)
    if verb in GET:
        return _get(draft, operation)
    if verb in UPDATE and f"create_{entity}" in draft.tools:
        return _update(draft, operation)
    if verb in CREATE:
        return _create(draft, operation)
    if verb in UPDATE:
        return _update(draft, operation)
    if verb in DELETE:
        return _delete(draft, operation)
    if verb in COPY:
        return _copy(draft, operation)
    return False


def _looks_up(operation: Operation) -> bool:
    """Whether it finds records by what they are, not one by its id: `get_forecast(city, days)` of an MCP server."""
    return bool(operation.inputs) and not operation.outputs and all(s.of != operation.noun for s in operation.inputs)


def _shown(draft: Draft, operation: Operation, most: int = 6) -> tuple[str, ...]:
    """The fields of the entity that the real operation gives back, or else the first ones."""
    fields = draft.fields[operation.noun]
    named = tuple(dict.fromkeys(name for name in operation.outputs if name in fields))
    return named[:_MOST_SHOWN] if len(named) >= 2 else tuple(fields)[:most]


def _path(draft: Draft, operation: Operation, target: str) -> tuple[list[Param], list[c.Claim]]:
    """Ids of records in which the target lies, where the real operation requires them (as in a path of a REST API)."""
    fields = draft.fields[operation.noun]
    above = [
        s for s in operation.inputs if s.required and s.kind == "id" and s.of != operation.noun and s.name in fields
    ]
    above = [s for s in dict.fromkeys(above) if fields[s.name].type == Type("id", s.of)][:2]
    error = _not_found(operation, operation.noun)
    return [id_param(s.of, s.name, s.doc) for s in above], [
        c.Matches(operation.noun, target, s.name, s.name, error) for s in above
    ]


def _param(draft: Draft, entity: str, slot: Slot | Field, required: bool, doc: str = "") -> Param:
    f = draft.fields[entity][slot.name]
    low, high = (1, None) if f.type.kind in ("int", "money") else (None, None)
    return Param(f.name, f.type, doc or (slot.doc if isinstance(slot, Slot) else ""), required, low, high)


def _matching(draft: Draft, operation: Operation) -> list[Slot]:
    """Inputs that are fields of the entity, the required ones first."""
    fields = draft.fields[operation.noun]
    slots = [s for s in operation.inputs if s.name in fields and fields[s.name].type.of != operation.noun]
    return sorted(dict.fromkeys(slots), key=lambda s: not s.required)[:_MOST_PARAMS]


def _says(operation: Operation, *words: str) -> bool:
    return any(word in error.lower() for error in operation.errors for word in words)


def _error(operation: Operation, default: str, *words: str) -> str:
    """The service's own name for an error, where it declares one."""
    named = [e for e in operation.errors if any(word in e.lower() for word in words)]
    return min(named, key=len) if named else default


def _not_found(operation: Operation, entity: str = "") -> str:
    """The error for a record that is not there: the one that names the entity, if the service has one."""
    named = [e for e in operation.errors if entity.replace("_", "") + "notfound" in e.lower()] if entity else []
    words = ("resourcenotfound", "notfound", "nosuch", "nonexist", "doesnotexist")
    return named[0] if named else _error(operation, "ResourceNotFoundException", *words)


def _create(draft: Draft, operation: Operation) -> bool:
    entity = operation.noun
    slots = _matching(draft, operation)
    if not slots:
        return False
    claims: list[c.Claim] = []
    params = [_param(draft, entity, s, s.required or i == 0) for i, s in enumerate(slots)]
    for p in params:
        if p.type.kind == "id":
            need = c.Needs if p.required else c.Refers
            claims.append(need(p.type.of, p.name, _not_found(operation, p.type.of)))
        if p.type.kind == "time" and p.required:
            claims.append(c.Ahead(p.name, _error(operation, "ValidationException", "valid")))
    text = next((p for p in params if p.type.kind == "text" and p.required), None)
    if text and (text.name.endswith("name") or _says(operation, "conflict", "exists", "duplicate")):
        claims.append(
            c.Unique(entity, text.name, text.name, "", _error(operation, "ConflictException", "exist", "conflict"))
        )
    if _says(operation, "limit", "quota", "toomany"):
        owner = draft.field(entity, Field("owner_id", Type("id", "user"))) if draft.chance(0.5) else ""
        n = draft.rng.randint(9, 14) if not owner else draft.rng.randint(4, 7)
        claims.append(c.AtMost(entity, n, owner, _error(operation, "LimitExceededException", "limit", "quota")))
    state = draft.state(entity)
    values: tuple[tuple[str, str], ...] = ()
    given = {s.name for s in slots}
    if state and state.name not in given:
        values = ((state.name, next((v for v in _FIRST if v in state.type.values), state.type.values[0])),)
    mine = "owner_id" if "owner_id" in draft.fields[entity] and "owner_id" not in given else ""
    stamp = next((f.name for f in draft.of_kind(entity, "time") if "creat" in f.name and f.name not in given), "")
    claims.append(c.Creates(entity, tuple((s.name, s.name) for s in slots), values, mine, stamp))
    claims.append(c.Shows(entity, "", _shown(draft, operation)))
    draft.tool(operation.name, operation.doc, params, claims, "create", operation.source)
    return True


def _delete(draft: Draft, operation: Operation) -> bool:
    entity = operation.noun
    target = id_param(entity)
    path, lies = _path(draft, operation, target.name)
    claims: list[c.Claim] = [c.Needs(entity, target.name, _not_found(operation, entity)), *lies]
    state = draft.state(entity)
    if state and len(state.type.values) > 2 and draft.chance(0.6):
        busy = draft.rng.choice(state.type.values)
        allowed = tuple(v for v in state.type.values if v != busy)
        claims.append(c.InState(entity, target.name, state.name, allowed, _error(operation, "InvalidState", "state")))
    users = [(e, f.name) for e, fs in draft.fields.items() for f in fs.values() if f.type == Type("id", entity)]
    users = [u for u in users if u[0] != entity and u[0] not in draft.hidden]
    if users:
        by, by_field = draft.rng.choice(users)
        claims.append(c.Unused(entity, target.name, by, by_field, _error(operation, "ResourceInUseException", "inuse")))
    claims += [c.Removes(entity, target.name), c.Shows(entity, target.name, _some(draft, operation))]
    draft.tool(operation.name, operation.doc, [target, *path], claims, "delete", operation.source)
    return True


def _some(draft: Draft, operation: Operation) -> tuple[str, ...]:
    """What a receipt shows: what the real operation does, or a few fields, the first (as a rule a label) with them."""
    fields = list(draft.fields[operation.noun])
    if sum(name in fields for name in operation.outputs) >= 2:
        return _shown(draft, operation)
    some = draft.rng.sample(fields[1:], min(len(fields) - 1, draft.rng.randint(1, 7)))
    return (fields[0], *sorted(some, key=fields.index))


def _get(draft: Draft, operation: Operation) -> bool:
    entity = operation.noun
    target = id_param(entity)
    path, lies = _path(draft, operation, target.name)
    shown = _shown(draft, operation, draft.rng.randint(6, _MOST_SHOWN))
    claims = [c.Needs(entity, target.name, _not_found(operation, entity)), *lies, c.Shows(entity, target.name, shown)]
    draft.tool(operation.name, operation.doc, [target, *path], claims, "get", operation.source)
    return True


def _list(draft: Draft, operation: Operation) -> bool:
    entity = operation.noun
    looks_up = operation.verb in GET and _looks_up(operation)
    params, filters = asked(draft, operation, looks_up)
    if len(params) < 2:
        few = draft.rng.randint(0, 1) if looks_up else draft.rng.randint(1, 3)
        more, besides = narrow(draft, entity, few, tuple(f[1] for f in filters))
        params, filters = params + more, filters + besides
    paged = draft.chance(0.5)
    if paged:
        params += page_params()
    numbers = draft.of_kind(entity, "int", "time", "money")
    sort = draft.rng.choice(numbers).name if numbers and draft.chance(0.5) else "id"
    state = draft.state(entity)
    first = tuple(draft.fields[entity])[: draft.rng.randint(3, 7)]
    shown = first if state is None or state.name in first else (*first, state.name)
    real = {slot.name for slot in operation.inputs}
    more, by, way = order(
        draft, entity, bool(real & {"sort_by", "order_by", "sort"}) or draft.chance(0.15),
        bool(real & {"sort_order", "order", "sort", "sort_direction", "ascending_order"}) or draft.chance(0.15),
    )  # fmt: skip
    params += [p for p in more if p.name not in {q.name for q in params}]
    down = draft.chance(0.5)
    claims = [c.Lists(entity, shown, tuple(filters), sort, down, paged, sort_arg=by, order_arg=way)]
    draft.tool(operation.name, operation.doc, params, claims, "list", operation.source)
    return True


def _update(draft: Draft, operation: Operation) -> bool:
    entity = operation.noun
    slots = [s for s in _matching(draft, operation) if s.kind != "ids"]
    state = draft.state(entity)
    target = id_param(entity)
    path, lies = _path(draft, operation, target.name)
    fixed = {p.name for p in path} | ({state.name} if state else set())
    slots = [s for s in slots if s.name not in fixed]
    if not slots:
        return False
    claims: list[c.Claim] = [c.Needs(entity, target.name, _not_found(operation, entity)), *lies]
    if state and draft.chance(0.4):
        allowed = tuple(sorted(draft.rng.sample(state.type.values, max(1, len(state.type.values) - 1))))
        claims.append(c.InState(entity, target.name, state.name, allowed, _error(operation, "InvalidState", "state")))
    changed = [_param(draft, entity, s, len(slots) == 1) for s in slots]
    refers = [c.Refers(p.type.of, p.name, _not_found(operation, p.type.of)) for p in changed if p.type.kind == "id"]
    claims[1:1] = refers
    stamp = next((f.name for f in draft.of_kind(entity, "time") if "updat" in f.name or "modif" in f.name), "")
    stamp = "" if stamp in {s.name for s in slots} else stamp
    claims += [
        c.Sets(entity, target.name, tuple((s.name, s.name) for s in slots), (), "", stamp),
        c.Shows(entity, target.name, _shown(draft, operation)),
    ]
    draft.tool(operation.name, operation.doc, [target, *path, *changed], claims, "update", operation.source)
    return True


def _transition(draft: Draft, operation: Operation) -> bool:
    entity, verb = operation.noun, operation.verb
    state = draft.state(entity)
    if state is None:
        done = TO_STATE[verb][0]
        values = tuple(dict.fromkeys(("idle", done, "active", "failed")))
        draft.field(entity, Field("status", Type("choice", values=values)))
        state = draft.state(entity)
        assert state is not None
    to = next((v for v in TO_STATE[verb] if v in state.type.values), None)
    if to is None:
        to = TO_STATE[verb][0]
        grown = Field(state.name, Type("choice", values=(*state.type.values, to)))
        draft.fields[entity][state.name] = grown
        state = grown
    others = [v for v in state.type.values if v != to]
    allowed = tuple(sorted(draft.rng.sample(others, draft.rng.randint(1, min(3, len(others))))))
    target = id_param(entity)
    error = _error(operation, "InvalidStateException", "state", "conflict")
    path, lies = _path(draft, operation, target.name)
    claims: list[c.Claim] = [
        c.Needs(entity, target.name, _not_found(operation, entity)),
        *lies,
        c.InState(entity, target.name, state.name, allowed, error),
    ]
    times = [f for f in draft.of_kind(entity, "time") if verb[:4] in f.name or "updat" in f.name]
    stamp = times[0].name if times else ""
    fixed = {state.name, stamp, *(p.name for p in path)}
    notes = [s for s in _matching(draft, operation) if s.kind not in ("id", "ids") and s.name not in fixed][:4]
    args = tuple((s.name, s.name) for s in notes)
    params = [target, *path, *(_param(draft, entity, s, s.required) for s in notes)]
    claims += [
        c.Sets(entity, target.name, args, ((state.name, to),), "", stamp),
        c.Shows(entity, target.name, tuple(dict.fromkeys((state.name, *_some(draft, operation))))),
    ]
    draft.tool(operation.name, operation.doc, params, claims, "transition", operation.source)
    return True


def _copy(draft: Draft, operation: Operation) -> bool:
    entity = operation.noun
    target = id_param(entity, f"source_{entity}_id")
    text = next((f for f in draft.of_kind(entity, "text")), None)
    params = [target]
    claims: list[c.Claim] = [c.Needs(entity, target.name, _not_found(operation, entity))]
    args: tuple[tuple[str, str], ...] = ()
    if text:
        params.append(Param(text.name, text.type, "Of the copy."))
        claims.append(c.Unique(entity, text.name, text.name, "", _error(operation, "AlreadyExists", "exist")))
        args = ((text.name, text.name),)
    kept = tuple(name for name in draft.fields[entity] if not text or name != text.name)
    claims += [c.Copies(entity, target.name, kept, args), c.Shows(entity, "", _shown(draft, operation))]
    draft.tool(operation.name, operation.doc, params, claims, "copy", operation.source)
    return True


def _bulk(draft: Draft, operation: Operation, verb: str) -> bool:
    """`batch_update_job`, `batch_get_job`, `batch_delete_job`: many records at once."""
    entity = operation.noun
    ids = Param(f"{entity}_ids", Type("ids", entity), f"Ids of {said(entity)} records.")
    if verb in GET:
        claims: list[c.Claim] = [c.Lists(entity, _shown(draft, operation, 8), ((ids.name, "id", "in"),))]
        draft.tool(operation.name, operation.doc, [ids], claims, "list", operation.source)
        return True
    state = draft.state(entity)
    if verb in DELETE:
        claims = [c.RemovesEach(entity, ids.name), c.Computes("count", entity, "id")]
    elif verb in UPDATE and state:
        to = draft.rng.choice(state.type.values)
        only = tuple(sorted(draft.rng.sample(state.type.values, max(1, len(state.type.values) - 2))))
        claims = [
            c.SetsEach(entity, ((state.name, to),), ids_arg=ids.name, only_field=state.name, only=only),
            c.Computes("count", entity, state.name, (), ((state.name, to),)),
        ]
    else:
        return False
    draft.tool(operation.name, operation.doc, [ids], claims, "bulk", operation.source)
    return True


def compile_link(draft: Draft, operation: Operation, names: set[str]) -> bool:
    """`attach_policy` with two ids: a link between two entities; and its undoing."""
    ids = [s for s in operation.inputs if s.kind == "id" and s.of in names]
    kinds = list(dict.fromkeys(s.of for s in ids))
    if operation.noun in names and operation.noun not in kinds:
        kinds.append(operation.noun)
    if len(kinds) < 2 or operation.verb not in {**LINK, **UNLINK}:
        return False
    left, right = sorted(kinds[:2])
    link = f"{left}_{right}_link"[:40]
    fields = [
        Field(f"{left}_id", Type("id", left)),
        Field(f"{right}_id", Type("id", right)),
        Field("linked_at", Type("time")),
    ]
    draft.entity(link, fields)
    a, b = id_param(left), id_param(right)
    missing = _not_found(operation)
    claims: list[c.Claim] = [c.Needs(left, a.name, missing), c.Needs(right, b.name, missing)]
    if operation.verb in LINK:
        claims += [
            c.Linked(
                link, a.name, a.name, b.name, b.name, False, _error(operation, "AlreadyAssociated", "exist", "already")
            ),
            c.Creates(link, ((a.name, a.name), (b.name, b.name)), stamp="linked_at"),
            c.Shows(link, "", (a.name, b.name)),
        ]
        motif = "link"
    else:
        claims += [
            c.Linked(link, a.name, a.name, b.name, b.name, True, _error(operation, "NotAssociated", "notassoc")),
            c.Unlinks(link, a.name, a.name, b.name, b.name),
            c.Lists(link, (b.name, "linked_at")),
        ]
        motif = "unlink"
    draft.tool(operation.name, operation.doc, [a, b], claims, motif, operation.source)
    return True
