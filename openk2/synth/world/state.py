"""The typed store behind a world: tables of records, a clock, who calls, and a journal for undo."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from openk2.synth.world.spec import WorldSpec
from openk2.synth.world.tree import said

Record = dict[str, Any]
_JOURNAL = 20  # changes that can be undone
_SHOWN_PAGE = 100  # records of a list at most


class Refused(Exception):
    """A call that a real API would refuse: `code` as in its documentation, and a sentence."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message = code, message


class State:
    """What the functions of `code.py` read and change.

    A record is never changed, but replaced by another (`put`, `update`), and a table is copied before its first change
    after `copy`: so a copy costs a few references, however many records there are.
    """

    def __init__(self, spec: WorldSpec, seed: int) -> None:
        self.tables: dict[str, dict[str, Record]] = {entity.name: {} for entity in spec.entities}
        self._shared: set[str] = set()  # tables that another state has too
        self._blank = {
            entity.name: {f.name: f.start if f.fixed else None for f in entity.fields} for entity in spec.entities
        }
        self._salt = f"{spec.name}/{seed}"
        self._made: dict[str, int] = {}
        self.now = 0
        self.me: Record = {"id": "", "role": ""}
        self.replies: dict[str, Record] = {}
        self._journal: list[tuple[str, list[tuple[str, str, Record | None]]]] = []
        self._changes: list[tuple[str, str, Record | None]] = []

    # ---- what tools call

    def rows(self, entity: str) -> list[Record]:
        return list(self.tables[entity].values())

    def find(self, entity: str, key: Any, error: str) -> Record:
        record = self.tables[entity].get(key) if isinstance(key, str) else None
        if record is None:
            raise Refused(error, f"There is no {said(entity)} {key!r}.")
        return record

    def refuse(self, code: str, message: str, arguments: dict[str, Any]) -> None:
        for name, value in arguments.items():
            message = message.replace("{" + name + "}", str(value))
        raise Refused(code, message)

    def insert(self, entity: str, values: Record) -> Record:
        number = self._made[entity] = self._made.get(entity, 0) + 1
        while True:  # ids that cannot be guessed from one another
            digest = hashlib.blake2b(f"{self._salt}/{entity}/{number}".encode(), digest_size=4).hexdigest()
            key = f"{_prefix(entity)}-{digest[:6]}"
            if key not in self.tables[entity]:
                break
            number += 1_000_003
        record = {"id": key} | self._blank[entity] | values
        self.own(entity)[key] = record
        self._changes.append((entity, key, None))
        return record

    def update(self, entity: str, record: Record, values: Record) -> Record:
        """The record as it is from now on."""
        before = self.tables[entity][record["id"]]
        self._changes.append((entity, record["id"], before))
        return self.put(entity, before, values)

    def remove(self, entity: str, record: Record) -> None:
        self._changes.append((entity, record["id"], record))
        self.own(entity).pop(record["id"], None)

    def answered(self, tool: str, key: Any) -> Record | None:
        return None if key is None else self.replies.get(f"{tool}/{self.me['id']}/{key}")

    def remember(self, tool: str, key: Any, result: Record) -> None:
        if key is not None:
            self.replies[f"{tool}/{self.me['id']}/{key}"] = result

    def undo(self, error: str) -> None:
        at = next((i for i in range(len(self._journal) - 1, -1, -1) if self._journal[i][0] == self.me["id"]), None)
        if at is None:
            raise Refused(error, "You have changed nothing that can be undone.")
        for entity, key, before in reversed(self._journal.pop(at)[1]):
            self._restore(entity, key, before)

    def page(
        self, rows: list[Record], fields: tuple[str, ...], sort: str, descending: bool, offset: Any, limit: Any
    ) -> Record:
        """Records without a value to sort by come last; equal ones are in order of ids."""
        rows = sorted(rows, key=lambda row: row["id"])
        known = [row for row in rows if row[sort] is not None]
        known.sort(key=lambda row: row[sort], reverse=descending)
        rows = known + [row for row in rows if row[sort] is None]
        start = max(offset or 0, 0)
        chosen = rows[start : start + min(max(limit or 0, 0), _SHOWN_PAGE)]
        return {"items": [{f: row[f] for f in fields} for row in chosen], "total": len(rows)}

    # ---- what worlds call

    def own(self, entity: str) -> dict[str, Record]:
        """The table, of which no other state knows: to be changed."""
        if entity in self._shared:
            self._shared.discard(entity)
            self.tables[entity] = dict(self.tables[entity])
        return self.tables[entity]

    def put(self, entity: str, record: Record, values: Record) -> Record:
        """The record with these values in the place of the old one; no tool did it, so there is nothing to undo."""
        new = self.own(entity)[record["id"]] = {**record, **values}
        return new

    def commit(self, undoable: bool = True) -> None:
        """A call ended well: its changes become one entry of the caller's journal."""
        if self._changes and undoable:
            self._journal.append((self.me["id"], self._changes))
            del self._journal[:-_JOURNAL]
        self._changes = []

    def forget(self) -> None:
        """What was done so far cannot be undone, nor is it repeated by an old key."""
        self._journal, self.replies = [], {}

    def roll_back(self) -> None:
        """Take back what the call in work changed."""
        for entity, key, before in reversed(self._changes):
            self._restore(entity, key, before)
        self._changes = []

    def _restore(self, entity: str, key: str, before: Record | None) -> None:
        table = self.own(entity)
        if before is None:
            table.pop(key, None)
        else:
            table[key] = before

    def copy(self) -> State:
        """A state of its own, for trying things."""
        twin = State.__new__(State)
        twin.__dict__.update(self.__dict__)
        twin.tables = dict(self.tables)
        self._shared, twin._shared = set(self.tables), set(self.tables)
        twin.replies, twin._made = dict(self.replies), dict(self._made)
        twin._journal, twin._changes = list(self._journal), []
        return twin

    def to_json(self) -> Record:
        """All that decides what calls do from here on; there is nothing to undo and no key to repeat."""
        return {"tables": self.tables, "now": self.now, "me": self.me, "made": self._made, "salt": self._salt}

    @classmethod
    def from_json(cls, spec: WorldSpec, data: Record) -> State:
        """Raises KeyError or TypeError for what is no state of this world."""
        state = cls(spec, 0)
        state.tables = {e: {k: dict(r) for k, r in data["tables"][e].items()} for e in state.tables}
        state.now, state.me, state._made, state._salt = data["now"], data["me"], dict(data["made"]), data["salt"]
        return state

    def changes_from(self, first: State) -> Record:
        """As `to_json`, but only what is different from another state of this world; a record that is gone is None."""
        tables: dict[str, dict[str, Record | None]] = {}
        for entity, table in self.tables.items():
            old = first.tables[entity]
            if table is not old and table != old:
                gone = [k for k in old if k not in table]  # in order: the bytes of a record depend on nothing else
                tables[entity] = {k: r for k, r in table.items() if old.get(k) != r} | dict.fromkeys(gone)
        return {"tables": tables, "now": self.now, "me": self.me, "made": self._made}

    def changed(self, data: Record) -> State:
        """The state of which `changes_from` this one gave `data`. Raises KeyError or TypeError for what is none."""
        state = self.copy()
        for entity, records in data["tables"].items():
            table = state.own(entity)
            for key, record in records.items():
                if record is None:
                    del table[key]
                else:
                    table[key] = record
        state.now, state.me, state._made = data["now"], data["me"], dict(data["made"])
        return state

    def digest(self) -> str:
        """A hash of all records (not of the clock, nor of the order in which they were made)."""
        text = json.dumps(self.tables, sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _prefix(entity: str) -> str:
    """`cache_subnet_group` -> `csg`, `backup` -> `bac`."""
    words = entity.split("_")
    return "".join(word[0] for word in words if word)[:4] if len(words) > 1 else entity[:3]
