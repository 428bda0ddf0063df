"""Tasks, users, trajectories: reached by execution, refused when anything is untrue, the same bytes again."""

from __future__ import annotations

import dataclasses
import gzip
import json
import random
from collections import Counter
from pathlib import Path

import pytest

from openk2.chat.messages import Message, ToolCall
from openk2.errors import UserError
from openk2.synth.shards import make, read_records
from openk2.synth.task.audit import floors
from openk2.synth.task.dialogue import Dialogue, Trajectory
from openk2.synth.task.dials import Dials
from openk2.synth.task.episode import Episode
from openk2.synth.task.make import Library, Order, write_worlds
from openk2.synth.task.needed import given, idle_goals
from openk2.synth.task.office import Office
from openk2.synth.task.plan import Call, Goal, Plan, execute, refresh
from openk2.synth.task.rubric import Evidence, from_json, reached, sentence_of, state_checks, to_json
from openk2.synth.task.spoil import ALTERNATIVES, SPOILS, alternative
from openk2.synth.task.task import Task, draw_task
from openk2.synth.task.users import PATIENCE, User, Wish
from openk2.synth.task.verify import problems, score
from openk2.synth.world.populate import draw_arguments
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
    return [(world, Episode(world, task).run()) for world, task in drawn(Dials(private=0.4), 12)]


def test_draws_become_true_trajectories(records: list[tuple[World, Trajectory]]) -> None:
    assert len(records) >= 0.7 * WORLDS * 12
    for world, record in records:
        assert problems(record, world) == []
        assert record["messages"][0]["role"] == "system" and record["messages"][-1]["role"] == "assistant"
    assert {record["kind"] for _, record in records} >= {"solve", "refuse"}


def test_a_rubric_is_atomic_readable_and_travels_with_the_record(records: list[tuple[World, Trajectory]]) -> None:
    for world, record in records:
        rubric = from_json(json.loads(json.dumps(record["proof"]["rubric"])))
        assert to_json(rubric) == record["proof"]["rubric"]
        assert all(sentence_of(check).endswith(".") for check in rubric)
        assert score(record, world).share == 1.0


def test_one_thing_wrong_fails_one_check_and_the_score_says_how_much(records: list[tuple[World, Trajectory]]) -> None:
    seen = 0
    for world, record in records:
        places = [i for i, check in enumerate(record["proof"]["rubric"]) if check["check"] == "Becomes"]
        if not places:
            continue
        seen += 1
        other = json.loads(json.dumps(record))
        other["proof"]["rubric"][places[0]]["value"] = "something else"
        found = score(other, world)
        assert len(found.failed) == 1 and "something else" in found.failed[0][0]
        assert found.share == 1 - 1 / len(record["proof"]["rubric"])
    assert seen > 5


def needless(world: World, plan: Plan) -> list[int]:
    """Goals with a call without which all the rest leads to the same end: by running it."""
    goal = state_checks(world.spec, plan.start, plan.end, given(plan))
    out: list[int] = []
    at = 0
    for number, group in enumerate(plan.goals):
        for i in range(at, at + len(group.changing)):
            world.restore(plan.start)
            for call in plan.calls[:i] + plan.calls[i + 1 :]:
                other = Call(call.tool, dict(call.args))
                refresh(world, other)
                world.call(other.tool, other.args)
            if number not in out and reached(goal, Evidence(world.spec, plan.start, world.state, [])):
                out.append(number)
        at += len(group.changing)
    return out


def test_every_call_of_a_plan_is_needed() -> None:
    for world, task in drawn(Dials(goals=(1, 8), impossible=0)):
        assert needless(world, task.plan) == []


def test_calls_that_are_not_needed_are_found_without_running_all_the_rest() -> None:
    found = 0
    for world, task in drawn(Dials(goals=(2, 4), impossible=0, ask=0)):
        for goal in task.plan.goals:
            if goal.kind != "act":
                continue
            last = goal.calls[-1]
            numbers = [name for name, v in last.args.items() if type(v) is int and name != "expected_version"]
            if not numbers:
                continue
            before = Goal("act", [Call(last.tool, last.args | {numbers[0]: last.args[numbers[0]] + 1})])
            plan = execute(world, task.plan.start, [before, Goal("act", goal.calls)])  # the second may undo the first
            if plan is not None:
                idle = idle_goals(world, plan)
                assert idle == needless(world, plan)
                found += bool(idle)
    assert found


def test_bad_trajectories_are_refused_and_other_ways_are_not(records: list[tuple[World, Trajectory]]) -> None:
    rng = random.Random(0)
    planted, others = dict.fromkeys(SPOILS, 0), dict.fromkeys(ALTERNATIVES, 0)
    for world, record in records:
        for name, spoil in SPOILS.items():
            bad = spoil(record, world, rng)
            if bad is not None:
                planted[name] += 1
                assert problems(bad, world), name
        for name in ALTERNATIVES:
            other = alternative(record, world, rng, name)
            if other is not None:
                others[name] += 1
                assert problems(other, world) == [], name
    assert all(planted[name] for name in SPOILS if name != "wrong order"), planted
    assert all(others[name] for name in ALTERNATIVES if name in ("a look more", "other words")), others


def test_an_impossible_wish_is_declined_with_its_reason_and_changes_nothing() -> None:
    seen = 0
    for world, task in drawn(Dials(impossible=1.0)):
        seen += 1
        record = Episode(world, task).run()
        assert problems(record, world) == [] and record["kind"] == "refuse"
        record["messages"][-1]["content"] = "Done, as you asked."
        assert "an impossible wish is said to be done" in problems(record, world)
        record["messages"][-1]["content"] = "I cannot do that."
        assert problems(record, world) == ["the answer gives no reason"]
    assert seen > 3


def test_a_dialogue_answers_any_agent_as_it_answers_the_record_of_it() -> None:
    """An agent that calls what is not there, sends no JSON, and guesses ids: in view, and refused."""
    world, task = drawn(Dials(goals=(1, 1), impossible=0, ask=0), 1)[0]
    talk = Dialogue.of_task(world, task)
    for name, arguments in (
        ("no_such_tool", "{}"),
        (task.tools[0], "[1"),
        (task.tools[0], '{"crate_id": "cra-abcdef"}'),
    ):
        (result,) = talk.assistant(Message("assistant", "", "?", (ToolCall(f"c{talk.calls}", name, arguments),)))
        assert "error" in json.loads(result.content) or name == task.tools[0]
    while not talk.over:
        talk.assistant(Message("assistant", "The balance is 4711.", ""))
    found = score(talk.record(agent={"model": "none"}), world)
    assert found.untrue == () and found.share < 1
    told = " ".join(reason for _, reason in found.failed)
    assert "no_such_tool is none of the agent's tools" in told and "4711" in told


def test_busy_and_silent_services_are_recovered_from() -> None:
    codes: set[str] = set()
    for world, task in drawn(each=8):
        record = Episode(world, task, faults=0.5).run()
        assert problems(record, world) == []
        results = [json.loads(m["content"]) for m in record["messages"] if m["role"] == "tool"]
        codes |= {result["error"]["code"] for result in results if "error" in result}
    assert codes >= {"ServiceUnavailable", "TooManyRequests", "Timeout"}


def test_calls_that_make_others_possible_are_found_by_what_a_refusal_says() -> None:
    seen = 0
    for world, task in drawn(Dials(impossible=0, ask=0, each=0, faults=0), 10):
        for goal in task.plan.goals:
            if len(goal.calls) > 1:
                seen += 1
                record = Episode(world, task, faults=0).run()
                assert any('"error"' in m["content"] for m in record["messages"] if m["role"] == "tool")
                assert problems(record, world) == []
    assert seen


def test_dials_turn() -> None:
    def calls(dials: Dials) -> float:
        tasks = drawn(dials, 4)
        return sum(len(task.plan.calls) for _, task in tasks) / len(tasks)

    assert calls(Dials(goals=(1, 1), impossible=0)) < calls(Dials(goals=(6, 6), impossible=0))
    private = [task for _, task in drawn(Dials(private=1.0, impossible=0))]
    assert any(wish.private for task in private for wish in task.wishes)
    asked = drawn(Dials(ask=1.0, impossible=0))
    assert asked and all(goal.kind == "ask" for _, task in asked for goal in task.plan.goals)


def test_dials_are_turned_by_settings_and_what_is_none_is_told() -> None:
    dials = Dials().turned(["goals=2,9", "depth=0", "ask=0.5", "beside=2"])
    assert dials == Dials(goals=(2, 9), depth=0, ask=0.5, beside=(2, 2))
    assert Dials().turned(dials.told().split()) == dials
    for wrong in ("goals=3,1", "goals=0", "ask=2", "speed=1", "ask", "crowd=x"):
        with pytest.raises(UserError, match="goals=1,3"):
            Dials().turned([wrong])


def test_tools_of_other_services_work_and_must_be_left_alone() -> None:
    main, beside = World(depot_world(0)), World(depot_world(1))
    beside.spec = dataclasses.replace(beside.spec, name="another")
    office = Office(main, [beside])
    others = [tool for name, tool in office.tools.items() if name not in main.tools and not tool.reads]
    made = changed = 0
    for seed in range(8):
        task = draw_task(office, seed)
        if task is None:
            continue
        made += 1
        record = Episode(office, task).run()
        assert problems(record, office) == [] and len(record["tools"]) > len(main.tools)
        talk = Dialogue.of_task(office, task)
        for tool in others:
            arguments = json.dumps(draw_arguments(tool, beside.state, random.Random(seed)))
            talk.assistant(Message("assistant", "", "", (ToolCall("c", tool.name, arguments),)))
        changed += "something was changed in Depot" in str(talk.failures())
    assert made and changed


@pytest.mark.parametrize("dials", [
    Dials(goals=(120, 120)), Dials(goals=(1, 1), each=1.0, crowd=(110, 130), impossible=0, ask=0),
])  # fmt: skip
def test_hundreds_of_calls_come_from_many_wishes_or_from_many_records(dials: Dials) -> None:
    for n in range(40):
        world = World(depot_world(n))
        task = draw_task(world, 0, dials)
        if task is not None and len(task.plan.calls) >= 90:
            record = Episode(world, task).run()
            assert record["proof"]["calls"] >= 100 and problems(record, world) == []
            return
    raise AssertionError("no world has so much to do")


# ---- users


def user(*wishes: Wish, policy: str = "all") -> User:
    made = User(wishes, "plain", 1, policy)  # pyright: ignore[reportArgumentType]
    made.opening()
    return made


GATE = Wish("open the gate", (("code", "7"), ("speed", "slow")))
CLOSE = Wish("close it")


def test_a_user_says_what_is_asked_and_goes_on() -> None:
    talker = user(GATE, CLOSE)
    assert "the code is 7 and the speed is slow" in str(talker.reply("What is the code?", 0)).lower()
    assert "close it" in str(talker.reply("It is open.", 1))
    assert talker.reply("It is closed.", 1) is None


def test_reveal_policies_tell_what_was_asked_or_piece_by_piece_and_never_hide_anything() -> None:
    asked = user(GATE, policy="asked")
    first = str(asked.reply("What is the speed?", 0))
    assert "slow" in first and "7" not in first
    assert "7" in str(asked.reply("Anything missing?", 0))
    pieces = user(GATE, policy="pieces")
    both = [str(pieces.reply("Please give me the code and the speed.", 0)) for _ in range(2)]
    assert "7" in both[0] and "slow" not in both[0] and "slow" in both[1]


@pytest.mark.parametrize("text", [
    "Shall I go ahead?", "Could you repeat that?", "Which colour was the earlier one? And who are you?",
    "Let me have a look.", "I will do it now.",
])  # fmt: skip
def test_idle_questions_and_promises_get_an_answer_and_do_not_cost_the_wish(text: str) -> None:
    talker = user(CLOSE, Wish("lock it"))
    for _ in range(PATIENCE):
        assert "lock it" not in str(talker.reply(text, 0))
    assert "lock it" in str(talker.reply(text, 0))  # but not for ever


def test_a_closing_courtesy_is_no_question_and_a_done_wish_is_not_asked_for_again() -> None:
    talker = user(CLOSE, Wish("lock it"), Wish("paint it"))
    assert "lock it" in str(talker.reply("It is closed. Is there anything else I can help you with?", 1))
    said = str(talker.reply("It is locked. Should I also oil it?", 1))
    assert said.startswith("No, thanks.") and "paint it" in said
    assert talker.reply("I cannot paint it: there is no paint. Do you want me to buy some?", 0) is None


def test_half_of_many_is_told_to_go_on() -> None:
    talker = user(Wish("close every gate", calls=4), CLOSE)
    assert "close it" not in str(talker.reply("I closed 2 of 4. Shall I continue?", 2)).lower()
    assert "close it" in str(talker.reply("All 4 are closed.", 4))


def test_thoughtless_policies_stay_near_the_floor() -> None:
    tasks = [(world, task) for world, task in drawn(each=8) if not task.refused]
    for row in floors(tasks)[1:]:
        assert float(row.figure.split("%")[0]) <= 10, row


def test_a_line_is_the_records_json(records: list[tuple[World, Trajectory]]) -> None:
    for _, record in records:
        assert Order("", 1, 0).line({"n": 7} | record) == json.dumps(
            {"n": 7} | record, ensure_ascii=False, separators=(",", ":")
        )


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


def test_worlds_of_one_name_are_told_apart(tmp_path: Path) -> None:
    alike = [dataclasses.replace(depot_world(seed), name="depot") for seed in range(3)]
    write_worlds(tmp_path, iter(alike))
    library = Library(tmp_path)
    assert len({library.name(number) for number in range(3)}) == 3
    order = Order(str(tmp_path), 40, 5, size=40)
    for record in order.records(range(40), Counter()):
        assert problems(record, Library(tmp_path).of(record)) == []


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
