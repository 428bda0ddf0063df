"""A small API, written out, from which tests build worlds and tasks: no package, no data folder needed."""

from __future__ import annotations

from typing import Any

from openk2.synth.world.build import worlds_of
from openk2.synth.world.schemas import Api, read_botocore
from openk2.synth.world.spec import WorldSpec


def _structure(required: list[str], **members: str) -> dict[str, Any]:
    return {"type": "structure", "required": required, "members": {n: {"shape": s} for n, s in members.items()}}


_OPERATIONS = (
    "CreateCrate DeleteCrate DescribeCrate ListCrates UpdateCrate StartCrate StopCrate CreateDock ListDocks GetDock "
    "DeleteDock AttachCrate DetachCrate BatchUpdateCrate BatchDeleteCrate BatchGetCrate"
).split()
_ERRORS = ("CrateNotFoundException", "ConflictException", "LimitExceededException")
_BOTH = _structure(["CrateId", "DockId"], CrateId="String", DockId="String")
MODEL: dict[str, Any] = {
    "metadata": {"serviceId": "Depot"},
    "operations": {
        name: {
            "input": {"shape": f"{name}Request"}, "output": {"shape": f"{name}Response"},
            "errors": [{"shape": error} for error in _ERRORS], "documentation": f"<p>{name} it. And more.</p>",
        }
        for name in _OPERATIONS
    },
    "shapes": {
        "String": {"type": "string"}, "Count": {"type": "integer"}, "When": {"type": "timestamp"},
        "CrateStatus": {"type": "string", "enum": ["PENDING", "RUNNING", "STOPPED"]},
        "Crate": _structure([], Name="String", Weight="Count", Status="CrateStatus", DockId="String", CreatedAt="When"),
        "Dock": _structure([], Name="String", Capacity="Count", Region="String"),
        "Flag": {"type": "boolean"}, "Strings": {"type": "list", "member": {"shape": "String"}},
        "Statuses": {"type": "list", "member": {"shape": "CrateStatus"}},
        "Order": {"type": "string", "enum": ["ASC", "DESC"]},
        "Size": _structure([], Width="Count", Unit="String", Exact="Flag", Inner="Crate"),
        "Stop": _structure([], Place="String", Minutes="Count"), "Stops": {"type": "list", "member": {"shape": "Stop"}},
        "CrateList": {"type": "list", "member": {"shape": "Crate"}},
        "CreateCrateRequest": _structure(
            ["Name", "Weight"], Name="String", Weight="Count", DockId="String", Size="Size", Labels="Strings",
            Stops="Stops",
        ),
        "ListCratesRequest": _structure(
            [], DockId="String", CrateIds="Strings", Statuses="Statuses", NameContains="String", CreatedAfter="When",
            SortOrder="Order",
        ),
        "ListCratesResponse": _structure([], Crates="CrateList"),
        "CreateCrateResponse": _structure([], Crate="Crate"),
        "UpdateCrateRequest": _structure(["CrateId"], CrateId="String", Weight="Count", Name="String"),
        "DescribeCrateRequest": _structure(["DockId", "CrateId"], DockId="String", CrateId="String"),
        "DescribeCrateResponse": _structure([], Crate="Crate"),
        "CreateDockRequest": _structure(["Name"], Name="String", Capacity="Count"),
        "GetDockResponse": _structure([], Dock="Dock"),
        "AttachCrateRequest": _BOTH, "DetachCrateRequest": _BOTH,
    },
}  # fmt: skip


def depot() -> Api:
    return read_botocore("depot", MODEL)


def depot_world(seed: int) -> WorldSpec:
    """The world of this seed: other motifs and policies for each."""
    return next(worlds_of(depot(), seed))
