"""Tasks, users, trajectories: reached by execution, refused when anything is untrue, the same bytes again."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest

from openk2.errors import UserError
from openk2.synth.shards import make, read_records
from openk2.synth.task.audit import floors
from openk2.synth.task.episode import Episode, Trajectory
from openk2.synth.task.make import Library, Order, write_worlds
from openk2.synth.task.plan import necessary
from openk2.synth.task.spoil import SPOILS, alternative
from openk2.synth.task.task import Dials, Task, draw_task
from openk2.synth.task.users import Request, User
from openk2.synth.task.verify import problems
from openk2.synth.world.world import World
from tests.synth.world_apis import depot_world

WORLDS = 5


def drawn(dials: Dials | None = None, each: int = 6) -> list[tuple[World, Task]]:
    out = []
    for seed in range(WORLDS):
        world = World(depot_world(seed))
        out += [(world, task) for n in range(each) if (task := draw_task(world, n, dials)) is not None]
    return out


@pytest.fixture(scope="module")
def records() -> list[tuple[World, Trajectory]]:
    out = []
    for world, task in drawn():
        world.restore(task.plan.start)
        try:
            out.append((world, Episode(world, task).run()))
        except RuntimeError:
            continue  # a draw that is dropped; how many may be, the next test says
    return out


def test_most_draws_become_true_trajectories(records: list[tuple[World, Trajectory]]) -> None:
    assert len(records) >= 0.8 * WORLDS * 6
    for world, record in records:
        assert problems(record, world) == []
        assert record["messages"][0]["role"] == "system" and record["messages"][-1]["role"] == "assistant"


def test_every_step_of_a_plan_is_needed_and_reasons_speak_of_what_was_seen() -> None:
    for world, task in drawn():
        world.restore(task.plan.start)
        assert task.refused or necessary(world, task.plan)


def test_bad_trajectories_are_refused_and_other_ways_are_not(records: list[tuple[World, Trajectory]]) -> None:
    rng = random.Random(0)
    planted = dict.fromkeys(SPOILS, 0)
    others = 0
    for world, record in records:
        for name, spoil in SPOILS.items():
            bad = spoil(record, world, rng)
            if bad is not None:
                planted[name] += 1
                assert problems(bad, world), name
        other = alternative(record, world, rng)
        if other is not None:
            others += 1
            assert problems(other, world) == []
    assert all(planted[name] for name in SPOILS if name != "wrong order") and others > 5


def test_an_impossible_wish_is_declined_and_changes_nothing() -> None:
    seen = 0
    for world, task in drawn(Dials(impossible=1.0)):
        if not task.refused:
            continue
        seen += 1
        world.restore(task.plan.start)
        record = Episode(world, task).run()
        assert problems(record, world) == [] and record["kind"] == "refuse"
        record["messages"][-1]["content"] = "Done, as you asked."
        assert "an impossible wish is said to be done" in problems(record, world)
    assert seen > 3


def test_dials_turn() -> None:
    def calls(dials: Dials) -> float:
        tasks = drawn(dials, 4)
        return sum(len(task.plan.calls) for _, task in tasks) / len(tasks)

    assert calls(Dials(goals=(1, 1), impossible=0)) < calls(Dials(goals=(6, 6), impossible=0))
    private = [task for _, task in drawn(Dials(private=1.0, impossible=0))]
    assert any(request.private for task in private for request in task.requests)


def test_a_user_says_what_is_asked_and_goes_on() -> None:
    user = User((Request("open the gate", (("code", "7"),)), Request("close it")), "plain", 1)
    assert "open the gate" in user.opening().lower()
    assert "the code is 7" in str(user.reply("What is the code?")).lower()
    assert "close it" in str(user.reply("It is open."))
    assert user.reply("It is closed.") is None


def test_thoughtless_policies_stay_near_the_floor() -> None:
    tasks = [(world, task) for world, task in drawn(each=8) if not task.refused]
    for row in floors(tasks)[1:]:
        assert float(row.figure.split("%")[0]) <= 10, row


def test_shards_are_the_same_bytes_by_one_or_two_processes_and_after_a_kill(tmp_path: Path) -> None:
    assert write_worlds(tmp_path / "w", (depot_world(seed) for seed in range(3)))[0] == 3
    order = Order(str(tmp_path / "w"), 40, 5, size=8)
    quiet = lambda line: None  # noqa: E731
    make(order, tmp_path / "one", say=quiet)
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "part-00001.part").write_bytes(b"half a shard")  # killed in the middle of one
    make(order, tmp_path / "two", workers=2, say=quiet)
    for file in sorted((tmp_path / "one").glob("*.gz")):
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
    library = Library(tmp_path / "w")
    for record in read_records(tmp_path / "one"):
        assert problems(record, library.named(record["proof"]["world"])) == []
    manifest = json.loads((tmp_path / "one" / "manifest.json").read_text())
    assert manifest["records"] == sum(s["records"] for s in manifest["shards"]) >= 32
    with pytest.raises(UserError, match="another order"):
        make(Order(str(tmp_path / "w"), 40, 6, size=8), tmp_path / "one", say=quiet)


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="synth tools"):
        Library(tmp_path)
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}\n{"b'))
    with pytest.raises(UserError, match="make it again"):
        list(read_records(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no"):
        list(read_records(tmp_path / "empty"))


def test_malformed_records_are_problems_and_no_crash(records: list[tuple[World, Trajectory]]) -> None:
    world, record = records[0]
    for broken in ({}, {"proof": record["proof"]}, {**record, "messages": [{"role": "tool", "content": "x"}]}):
        assert problems(broken, world)
