"""Worlds: what is read off an API, what runs, and that the laws of tools notice what is wrong with them."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from openk2.synth.world import claims as c
from openk2.synth.world import tree as t
from openk2.synth.world.build import noun_groups, worlds_of
from openk2.synth.world.code import source
from openk2.synth.world.laws import failures
from openk2.synth.world.lower import lower
from openk2.synth.world.mutants import survivors
from openk2.synth.world.populate import draw_arguments
from openk2.synth.world.schemas import Api, Operation, Slot, first_sentence, mcp_apis, read_mcp, singular, snake
from openk2.synth.world.signature import effects, fingerprint
from openk2.synth.world.spec import Tool, WorldSpec, from_json, to_json
from openk2.synth.world.state import State
from openk2.synth.world.world import World, schema
from tests.synth.world_apis import depot, depot_world

SEEDS = range(6)


def test_an_api_is_read_into_nouns_and_operations() -> None:
    api = depot()
    assert set(api.nouns) == {"crate", "dock"}
    crate = {slot.name: slot for slot in api.nouns["crate"]}
    assert crate["dock_id"].kind == "id" and crate["dock_id"].of == "dock"
    assert crate["status"].values == ("pending", "running", "stopped") and crate["created_at"].kind == "time"
    listed = next(o for o in api.operations if o.name == "list_crates")
    assert (listed.verb, listed.noun, listed.plural) == ("list", "crate", True)
    assert first_sentence("<p>Makes a <i>crate</i> . And more.</p>") == "Makes a crate."
    assert snake("DBClusterSnapshot") == "db_cluster_snapshot" and singular("policies") == ("policy", True)
    assert singular("status") == ("status", False)


def test_structures_lists_paths_and_filters_are_read() -> None:
    crate = {slot.name: slot for slot in depot().nouns["crate"]}
    assert [part.name for part in crate["size"].parts] == ["width", "unit", "exact"]  # what lies deeper is left out
    assert (crate["size"].kind, crate["stops"].kind, crate["labels"].kind) == ("object", "objects", "texts")
    spec = depot_world(0)
    listed = spec.tool("list_crates").claims[-1]
    assert isinstance(listed, c.Lists) and listed.order_arg == "sort_order"
    assert {("dock_id", "dock_id", "=="), ("crate_ids", "id", "in"), ("statuses", "status", "in"),
            ("name_contains", "name", "has"), ("created_after", "created_at", ">=")} <= set(listed.filters)  # fmt: skip
    assert c.Matches("crate", "crate_id", "dock_id", "dock_id", "CrateNotFoundException") in (
        spec.tool("describe_crate").claims
    )
    assert any(isinstance(claim, c.RemovesEach) for claim in spec.tool("batch_delete_crate").claims)


def test_structures_are_checked_kept_and_shown() -> None:
    size = t.Type("object", parts=(t.Field("width", t.Type("int")), t.Field("exact", t.Type("flag"))))
    stops = t.Type("objects", parts=(t.Field("place", t.Type("text")),))
    params = (
        t.Param("name", t.Type("text")), t.Param("size", size), t.Param("stops", stops, required=False),
        t.Param("kinds", t.Type("texts", values=("wood", "steel")), required=False),
    )  # fmt: skip
    fields = tuple(t.Field(p.name, p.type) for p in params)
    pairs = tuple((p.name, p.name) for p in params)
    make_box = Tool(
        "make_box", "Make a box.", params, (c.Creates("box", pairs), c.Shows("box", "", tuple(dict(pairs)))), "create"
    )
    users = t.Entity("user", (t.Field("name", t.Type("text")), t.Field("role", t.Type("choice", values=("clerk",)))))
    world = World(WorldSpec("boxes", "Boxes", 0, (users, t.Entity("box", fields)), (make_box,)))
    good = {"name": "a", "size": {"width": 3}, "stops": [{"place": "north"}], "kinds": ["steel"]}
    made = world.call("make_box", good)
    assert made == {"id": made["id"]} | good and world.state.tables["box"][made["id"]]["size"] == {"width": 3}
    for bad, told in (
        ({"size": 3}, "must be an object"), ({"size": {}}, "must be an object"),
        ({"size": {"depth": 1}}, "has no 'depth'"), ({"size": {"width": "3"}}, "'width' must be an integer"),
        ({"stops": [{"place": 3}]}, "'place' must be a string"),
        ({"kinds": ["glass"]}, "may hold only wood, steel"), ({"kinds": [1]}, "must be a list of strings"),
    ):  # fmt: skip
        refused = world.call("make_box", good | bad)
        assert refused["error"]["code"] == "InvalidArguments" and told in refused["error"]["message"], refused
    shown = schema(make_box)["properties"]
    assert shown["size"]["properties"] == {"width": {"type": "integer"}, "exact": {"type": "boolean"}}
    assert shown["kinds"]["items"] == {"type": "string", "enum": ["wood", "steel"]}
    assert shown["stops"]["items"]["properties"] == {"place": {"type": "string"}}
    assert failures(world, make_box) == []


def test_lists_filter_and_order_as_they_are_asked() -> None:
    claim = c.Lists(
        "shelf", ("name", "stock"), (("most", "stock", "<="), ("part", "name", "has"), ("ids", "id", "in")), "stock",
        sort_arg="by", order_arg="way",
    )  # fmt: skip
    params = (
        t.Param("most", t.Type("int"), required=False), t.Param("part", t.Type("text"), required=False),
        t.Param("ids", t.Type("ids", "shelf"), required=False),
        t.Param("by", t.Type("choice", values=("name", "stock")), required=False),
        t.Param("way", t.Type("choice", values=("ascending", "descending")), required=False),
    )  # fmt: skip
    tool = Tool("list_shelves", "", params, (claim,), "list")
    world = shop(tool, MOVE)
    rows = list(world.state.tables["shelf"].values())
    stocks = sorted(r["stock"] for r in rows)

    def listed(**arguments: Any) -> list[dict[str, Any]]:
        return world.call("list_shelves", arguments)["items"]

    assert [r["stock"] for r in listed()] == stocks and [r["stock"] for r in listed(way="descending")] == stocks[::-1]
    assert [r["name"] for r in listed(by="name")] == sorted(r["name"] for r in rows)
    assert all(r["stock"] <= stocks[1] for r in listed(most=stocks[1])) and len(listed(most=stocks[1])) >= 2
    part = rows[0]["name"][:4]
    assert {r["id"] for r in listed(part=part.upper())} == {r["id"] for r in rows if part in r["name"]}
    assert [r["id"] for r in listed(ids=[rows[0]["id"]])] == [rows[0]["id"]]
    assert failures(world, tool) == []
    left, count = survivors(world, tool)
    assert count > 5 and len(left) <= 0.2 * count, left


def test_groups_of_nouns_are_small_or_large_and_none_is_lost() -> None:
    api = Api("fair", "Fair", "test")
    for i in range(60):
        name = f"{'stall' if i % 2 else 'tent'}_{i}"
        api.nouns[name] = (Slot("name", "text"),)
        api.operations.append(Operation(f"create_{name}", "create", name, False, (), (), (), "", ""))
    api.nouns["weather"] = (Slot("name", "text"),)
    api.operations.append(Operation("get_weather", "get", "weather", False, (), (), (), "", ""))
    groups = list(noun_groups(api))
    assert sorted(noun for group in groups for noun in group) == sorted(api.nouns) and len(groups) > 2
    assert groups == list(noun_groups(api)) and len({len(group) for group in groups}) > 1


def test_small_mcp_servers_live_together(tmp_path: Path) -> None:
    def server(name: str, *tools: str) -> str:
        shape = {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        }
        listed = [{"name": called, "description": "", "input_schema": shape} for called in tools]
        return json.dumps({"spec": {"metadata": {"server_name": name, "remote_server_response": {"tools": listed}}}})

    file = tmp_path / "servers.jsonl.gz"
    lines = [
        server("Void"),
        server("Sky", "get_forecast", "get_alert", "search_storms", "list_stations", "log_sighting"),
        server("Sea", "search_tides", "add_buoy", "get_wave", "find_harbor", "list_ships", "book_berth"),
    ]
    file.write_bytes(gzip.compress("\n".join(lines).encode()))
    (api,) = mcp_apis(file)
    assert api.title == "Sky and Sea" and {"forecast", "alert", "tide", "buoy"} <= set(api.nouns)
    (spec,) = worlds_of(api, 0)
    found = spec.tool("get_forecast").claims[-1]
    assert isinstance(found, c.Lists) and ("city", "city", "has") in found.filters
    assert spec.tool("get_forecast").param("city").required
    world = World(spec)
    assert {tool.name: wrong for tool in spec.tools if (wrong := failures(world, tool))} == {}


def test_an_mcp_server_is_read_too() -> None:
    def tool(called: str, **properties: str) -> dict[str, object]:
        shape = {"properties": {n: {"type": k} for n, k in properties.items()}, "required": list(properties)[:1]}
        return {"name": called, "description": f"{called}.", "input_schema": shape}

    tools = [
        tool("crm_create_contact", name="string", age="integer"),
        tool("crm_list_contacts"),
        tool("crm_delete_contact", contactId="string"),
    ]
    api = read_mcp({"server_name": "CRM", "remote_server_response": {"tools": tools}})
    assert set(api.nouns) == {"contact"} and len(api.operations) == 3


def test_whose_an_id_is_does_not_depend_on_how_texts_are_hashed() -> None:
    def tool(name: str, argument: str) -> dict[str, Any]:
        return {"name": name, "input_schema": {"properties": {argument: {"type": "string"}}}}

    letters = "qwertyuiopasdfghjklzxcvbnm"
    tools = [tool(f"create_{letter}_host", "name") for letter in letters] + [tool("update_room", "host_id")]
    api = read_mcp({"server_name": "Hosts", "remote_server_response": {"tools": tools}})
    assert [slot.of for slot in api.nouns["room"]] == ["a_host"]  # of those as near as one another the first


def test_a_world_follows_from_the_api_and_the_seed() -> None:
    assert depot_world(3) == depot_world(3) and depot_world(3) != depot_world(4)
    spec = depot_world(3)
    assert from_json(json.loads(json.dumps(to_json(spec)))) == spec
    names = [tool.name for tool in spec.tools]
    assert len(names) == len(set(names)) and {"create_crate", "list_crates", "start_crate", "attach_crate"} <= set(
        names
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_every_tool_keeps_its_laws(seed: int) -> None:
    world = World(depot_world(seed))
    assert {tool.name: found for tool in world.spec.tools if (found := failures(world, tool))} == {}


def test_the_laws_notice_planted_faults() -> None:
    rng = random.Random(0)
    alive = mutants = 0
    for seed in SEEDS:
        world = World(depot_world(seed))
        for tool in rng.sample(world.spec.tools, 4):
            left, count = survivors(world, tool)
            alive, mutants = alive + len(left), mutants + count
    assert mutants > 100 and alive <= 0.1 * mutants


def shop(*tools: Tool) -> World:
    """Shelves with stock, owned by users; the tools given."""
    T, F = t.Type, t.Field
    user = t.Entity("user", (F("name", T("text")), F("role", T("choice", values=("clerk", "manager")))))
    shelf = t.Entity("shelf", (F("name", T("text")), F("stock", T("int"), 10, 90), F("owner_id", T("id", "user"))))
    return World(WorldSpec("shop", "Shop", 0, (user, shelf), tools))


def mine(world: World) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two shelves, the first of which is the caller's."""
    a, b, *_ = world.state.tables["shelf"].values()
    return world.state.put("shelf", a, {"owner_id": world.state.me["id"]}), b


MOVE = Tool(
    "move", "Move stock.",
    (t.Param("a", t.Type("id", "shelf")), t.Param("b", t.Type("id", "shelf")), t.Param("n", t.Type("int"), low=1)),
    (c.Needs("shelf", "a"), c.Needs("shelf", "b"), c.Different("a", "b"), c.Owner("shelf", "a", "owner_id", "manager"),
     c.Enough("shelf", "a", "stock", "n"), c.Adds("shelf", "a", "stock", "n", -1), c.Adds("shelf", "b", "stock", "n"),
     c.Shows("shelf", "b", ("stock",))), "transfer",
)  # fmt: skip


def test_a_tool_runs_as_python_that_can_be_read() -> None:
    text = source("move", lower(MOVE))
    assert "r_a = s.find('shelf', a.get('a'), 'NotFound')" in text and "sub(r_a['stock'], a.get('n'))" in text
    world = shop(MOVE)
    a, b = mine(world)
    shelves = world.state.tables["shelf"]
    total = sum(r["stock"] for r in shelves.values())
    told = world.call("move", {"a": a["id"], "b": b["id"], "n": a["stock"]})
    assert told == {"id": b["id"], "stock": shelves[b["id"]]["stock"]} and told["stock"] == b["stock"] + a["stock"]
    assert shelves[a["id"]]["stock"] == 0 and sum(r["stock"] for r in shelves.values()) == total
    digest = world.state.digest()
    assert world.call("move", {"a": a["id"], "b": b["id"], "n": 1})["error"]["code"] == "Insufficient"
    assert world.call("move", {"a": a["id"], "b": a["id"], "n": 1})["error"]["code"] == "SameRecord"
    assert world.call("move", {"a": "she-000000", "b": b["id"], "n": 1})["error"]["code"] == "NotFound"
    assert world.state.digest() == digest


def test_bad_arguments_are_told_by_name() -> None:
    world = shop(MOVE)
    a, b, *_ = world.state.tables["shelf"]
    assert "'n' is missing" in world.call("move", {"a": a, "b": b})["error"]["message"]
    assert "must be an integer" in world.call("move", {"a": a, "b": b, "n": "3"})["error"]["message"]
    assert "at least 1" in world.call("move", {"a": a, "b": b, "n": 0})["error"]["message"]
    assert "no argument 'm'" in world.call("move", {"a": a, "b": b, "n": 1, "m": 2})["error"]["message"]
    assert world.call("fly", {})["error"]["code"] == "UnknownTool"
    assert schema(MOVE)["required"] == ["a", "b", "n"] and schema(MOVE)["properties"]["n"]["minimum"] == 1


def test_a_broken_tool_is_noticed_in_each_of_its_parts() -> None:
    world = shop(MOVE)
    program = lower(MOVE)
    assert failures(world, MOVE) == []
    for at in range(2, len(program.steps)):  # all but the two that find the records
        broken = t.Program(program.steps[:at] + program.steps[at + 1 :], program.output)
        assert failures(world.with_programs({"move": broken}), MOVE), program.steps[at]


def test_guards_stand_before_effects() -> None:
    claims = (c.Needs("shelf", "a"), c.Removes("shelf", "a"), c.Different("a", "b"), c.Shows("shelf", "a", ()))
    with pytest.raises(ValueError, match="after an effect"):
        lower(Tool("bad", "", MOVE.params, claims, "delete"))


def test_an_undone_change_and_a_state_from_json() -> None:
    undo = Tool("undo", "", (), (c.Undoes(), c.Computes("count", "shelf", "id")), "undo")
    world = shop(MOVE, undo)
    a, b = mine(world)
    digest = world.state.digest()
    assert "error" not in world.call("move", {"a": a["id"], "b": b["id"], "n": 1})
    assert world.state.digest() != digest
    assert "error" not in world.call("undo", {}) and world.state.digest() == digest
    assert world.call("undo", {})["error"]["code"] == "NothingToUndo"
    twin = State.from_json(world.spec, json.loads(json.dumps(world.state.to_json())))
    assert twin.digest() == world.state.digest() and twin.now == world.state.now


def test_a_copy_of_a_state_is_its_own() -> None:
    world = shop(MOVE)
    a, b = mine(world)
    before = world.snapshot()
    told = json.dumps(before.to_json())
    assert "error" not in world.call("move", {"a": a["id"], "b": b["id"], "n": 1})
    assert json.dumps(before.to_json()) == told and world.state.tables != before.tables
    assert world.state.tables["user"] is before.tables["user"]  # what did not change is not copied
    other = before.copy()
    other.remove("shelf", other.tables["shelf"][b["id"]])
    other.roll_back()
    assert other.tables == before.tables
    world.restore(before)
    assert json.dumps(world.state.to_json()) == told


def test_signatures_see_through_names() -> None:
    renamed = json.loads(json.dumps(to_json(MOVE)).replace("shelf", "account").replace("stock", "saldo"))
    other = from_json(renamed)
    world = shop(MOVE)
    spec = json.loads(json.dumps(to_json(world.spec)).replace("shelf", "account").replace("stock", "saldo"))
    twin = World(from_json(spec))
    assert effects(world.spec, MOVE) == effects(twin.spec, other)
    assert fingerprint(world, MOVE) is not None
    looser = Tool(MOVE.name, "", MOVE.params, tuple(x for x in MOVE.claims if not isinstance(x, c.Owner)), "transfer")
    assert effects(world.spec, looser) != effects(world.spec, MOVE)


def test_random_calls_never_break_a_world() -> None:
    rng = random.Random(1)
    for seed in SEEDS:
        world = World(depot_world(seed))
        for _ in range(300):
            tool = rng.choice(world.spec.tools)
            before = world.state.digest()
            result = world.call(tool.name, draw_arguments(tool, world.state, rng, wild=0.1))
            json.dumps(result)
            if "error" in result or tool.reads:
                assert world.state.digest() == before, tool.name


def test_faults_are_told_and_a_lost_answer_took_effect() -> None:
    world = shop(MOVE)
    a, b = mine(world)
    for fault, code, moved in (
        ("unavailable", "ServiceUnavailable", 0),
        ("timeout", "Timeout", 0),
        ("lost_answer", "Timeout", 1),
    ):
        world.fault = lambda tool, arguments, fault=fault: fault
        assert world.call("move", {"a": a["id"], "b": b["id"], "n": 1})["error"]["code"] == code
        assert world.state.tables["shelf"][a["id"]]["stock"] == a["stock"] - moved


def test_an_api_without_sense_makes_no_world() -> None:
    api = depot()
    api.nouns.clear()
    assert list(worlds_of(api, 0)) == []
