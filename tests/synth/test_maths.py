"""Word problems lifted to programs, and the new ones made of them."""

from __future__ import annotations

import os
import random
import re
from pathlib import Path

import pytest

from openk2.errors import UserError
from openk2.sandbox.worker import execute
from openk2.synth.heldout import MAWPS_FOLD
from openk2.synth.maths.draw import drawn, sensible
from openk2.synth.maths.lift import lift, load
from openk2.synth.maths.make import Order
from openk2.synth.maths.problems import (
    Problem,
    gsm8k_programs,
    joined,
    mawps_programs,
    new_problem,
    problem,
    record,
)
from openk2.synth.maths.program import Program, solve, trained_on
from openk2.synth.maths.sense import rules_of
from openk2.synth.maths.words import other_things, renamed
from openk2.synth.shards import make
from openk2.tools.base import ToolError

DATA = os.environ.get("OPENK2_DATA", "")
needs_data = pytest.mark.skipif(
    not (DATA and (Path(DATA) / "gsm8k_train.jsonl").exists()), reason="OPENK2_DATA has no gsm8k_train.jsonl"
)

CLIPS = (
    "Emily sold clips to 48 of her friends in April, and then she sold half as many clips in May. "
    "How many clips did Emily sell altogether?",
    "Emily sold 48/2 = <<48/2=24>>24 clips in May.\nEmily sold 48+24 = <<48+24=72>>72 clips altogether.\n#### 72",
)


def lifted(question: str, solution: str) -> Program:
    program = lift(question, solution)
    assert isinstance(program, Program), program
    return program


def test_a_problem_becomes_a_program_in_its_numbers() -> None:
    program = lifted(*CLIPS)
    assert program.numbers == (48,) and program.steps == ("p0/2", "p0+r0") and program.answer == 1
    assert "{0} of her friends" in program.text and solve(program.steps, [30]) == [15, 45]
    assert program.notes[0] == ("Emily sold {p0}/2 = {r0} clips in May.", (0,))


def test_steps_that_only_the_text_writes_are_read_and_percentages_understood() -> None:
    question = "A coat costs $80. It is 25% off. Two friends buy one each. How much do they pay?"
    solution = (
        "The discount is $80 * 25% = $20.\nSo a coat costs 80 - 20 = $<<80-20=60>>60.\nThey pay 60 * 2 = $120\n#### 120"
    )
    program = lifted(question, solution)
    assert program.steps == ("p0*(p1/100)", "p0-r0", "r1*2") and program.percents == (False, True)


def test_what_could_mean_two_things_stays_as_it_is() -> None:
    question = "Ann has 2 hats and 9 caps. Bo has twice as many caps. How many caps has Bo?"
    assert lifted(question, "9*2 = <<9*2=18>>18\n#### 18").pinned == {0}  # may be the hats or the word: they stay 2
    question = "A man walks 4 miles on each of 2 days, and 8 more, then 8 back. How far is he?"
    program = lifted(question, "2*4 = <<2*4=8>>8\n4+2 = <<4+2=6>>6\n6+8 = <<6+8=14>>14\n#### 14")
    assert program.pinned >= {0, 1, 2}  # the 8 may be told or worked out: so all behind it stays
    half = lifted("He walks 18 miles, twice as far as she. How far do both walk?", "9+18 = <<9+18=27>>27\n#### 27")
    assert half.pinned == {0}  # 9 was worked out unseen


@pytest.mark.parametrize(
    ("solution", "why"),
    [
        ("He buys 40, 5+40 = <<5+40=45>>45\n#### 45", "from nowhere: 40"),
        ("5*3 = <<5*3=16>>16\n#### 16", "other results"),
        ("5*3 = <<5*3=15>>15\n15+3 = <<15+3=18>>18\n#### 15", "not the last"),
        ("abs(5)+5*2 = <<abs(5)+5*2=15>>15\n#### 15", "no arithmetic"),
        ("Fifteen.\n#### 15", "no step"),
    ],
)
def test_what_cannot_be_lifted(solution: str, why: str) -> None:
    found = lift("He has 5 pens and 3 pencils, each with 3 tips.", solution)
    assert isinstance(found, str) and why in found


def test_a_line_that_contradicts_its_annotation_is_believed() -> None:
    """Row 5701 of GSM8K: `15-5 = <<5+5=10>>10`."""
    program = lifted("Al is 15. Bo is 5 years younger. How old is Bo?", "Bo is 15-5 = <<5+5=10>>10 years old\n#### 10")
    assert program.steps == ("p0-p1",)


def test_no_step_is_evaluated_as_code() -> None:
    with pytest.raises(ToolError):
        solve(["__import__('os').getpid()"], [1.0])


def test_new_numbers_keep_sense() -> None:
    assert sensible(10, 12) and not sensible(10, 12.5) and not sensible(10, -2) and not sensible(100, 900)
    program = lifted(*CLIPS)
    rng = random.Random(0)
    for _ in range(50):
        found = drawn(rng, program)
        assert found is not None
        (number,), results = found
        assert number % 2 == 0 and list(results) == [number / 2, number * 1.5]


def _draws(question: str, solution: str) -> list[list[float]]:
    program = lifted(question, solution)
    made = [drawn(random.Random(n), program) for n in range(30)]
    return [list(found[0]) for found in made if found]


def test_what_the_world_fixes_stays() -> None:
    draws = _draws("A shop works 8 hours a day, 5 days a week. It sells 40 pies an hour. How many pies a week?",
                   "8*5 = <<8*5=40>>40 hours.\n40*40 = <<40*40=1600>>1600\n#### 1600")  # fmt: skip
    assert not draws or all(day <= 12 and week <= 7 for day, week, _ in draws)
    assert not _draws("Cars have 4 wheels each. How many wheels have 4 cars?", "4*4 = <<4*4=16>>16\n#### 16")
    tied = lifted("A deck has 52 cards. 4 men share 48 of them. How many each?", "48/4 = <<48/4=12>>12\n#### 12")
    assert "tied" in str(rules_of(tied))


def test_what_holds_between_the_numbers_holds_again() -> None:
    draws = _draws(
        "There are 40 boys and girls. 24 are girls and 16 are boys. Each girl has 7 pens, each boy 9. How many pens?",
        "24*7 = <<24*7=168>>168\n16*9 = <<16*9=144>>144\n168+144 = <<168+144=312>>312\n#### 312",
    )
    assert draws and all(total == girls + boys for total, girls, boys, *_ in draws)
    draws = _draws("An inn has 18 guests: six in huts, seven in tents, five in cars. Each pays $20. How much in all?",
                   "18*20 = <<18*20=360>>360\n#### 360")  # fmt: skip
    assert draws and {guests for guests, _ in draws} == {18}  # what the words make up
    draws = _draws(
        "One runner takes 42 minutes for 7 miles, the other 30 for 10 miles. How much longer does the slower one take "
        "for a mile?",
        "42/7 = <<42/7=6>>6\n30/10 = <<30/10=3>>3\n6-3 = <<6-3=3>>3\n#### 3",
    )
    assert draws and all(a / b > c / d for a, b, c, d in draws)  # the slower one stays the slower one


def test_people_and_things_are_replaced_together() -> None:
    rng = random.Random(1)
    text = renamed(rng, "Emily gave Tom an apple. Emily has 3 apples.")
    assert "Emily" not in text and "Tom" not in text and text.count(text.split()[0]) == 2
    assert renamed(rng, "James' car is red. James sold it.").split()[0].endswith(("'s", "s'"))
    assert other_things(rng, "He sold 3 apple pies and 2 apples.") == "He sold 3 apple pies and 2 apples."
    swapped = {other_things(random.Random(n), "A cookie costs $2 and he buys 3 cookies.") for n in range(20)}
    assert len(swapped) > 3 and all(s.split()[1] + "s." == s.split()[-1] for s in swapped)


def test_one_person_is_what_the_pronouns_say() -> None:
    names = {renamed(random.Random(n), "Jill has 3 pens. He buys 2. How many has Jill?").split()[0] for n in range(60)}
    women = {renamed(random.Random(n), "Jill has 3 pens. She buys 2. How many has Jill?").split()[0] for n in range(60)}
    assert not names & women


def test_a_new_problem_is_solved_by_running_its_program() -> None:
    rng = random.Random(2)
    program = lifted(*CLIPS)
    problem = new_problem(rng, program, distractor=1.0)
    assert problem is not None and "Emily" not in problem.question and "48" not in problem.question
    made = record(problem)
    assert made["messages"][3]["content"] == made["proof"]["gold"] == str(round(problem.answer))
    name, number = problem.question.split()[0], re.findall(r"\d+", problem.question)[0]
    assert problem.thought.startswith(f"{name} sold {number}/2 = A clips in May. {name} sold {number}+A = B clips")
    firsts = (new_problem(random.Random(n), program) for n in range(99))
    a, both = next((a, p) for a in firsts if a and (p := joined(rng, a, program)) is not None)
    assert "Call the answer N." in both.question and "That is N." in both.thought
    assert both.lines[2:] == ("C = B/2", "D = B+C") and both.answer == a.answer * 1.5


def test_the_useless_sentence_stands_between_sentences() -> None:
    program = lifted(
        "Mrs. Kay has 3 jars. How many nuts has Mrs. Kay if 40 are in each?", "3*40 = <<3*40=120>>120\n#### 120"
    )
    for n in range(20):
        made = new_problem(random.Random(n), program, distractor=1.0)
        assert made is None or re.fullmatch(r"Mrs. Kay has \d+ jars\. .*\d.*\. How many nuts .*", made.question), made


@needs_data
def test_both_sources_are_lifted_and_held_out_by_skeleton_and_fold() -> None:
    found = [p for _, p in load(Path(DATA) / "gsm8k_train.jsonl")]
    programs = [p for p in found if isinstance(p, Program)]
    assert len(programs) >= 0.9 * len(found)
    drawn_from = [*gsm8k_programs(Path(DATA), found), *mawps_programs(Path(DATA))]
    assert len(drawn_from) >= 6000
    training = [p for p in drawn_from if trained_on(p)]
    held = {p.skeleton() for p in drawn_from if p.fold != MAWPS_FOLD} - {p.skeleton() for p in training}
    assert len(held) > 300 and not any(p.skeleton() in held or p.fold == MAWPS_FOLD for p in training)
    a, b, other = ([problem(training, seed, n) for n in range(60)] for seed in (5, 5, 6))
    assert a == b != other
    assert all(map(_thought_is_true, a))


def _thought_is_true(problem: Problem) -> bool:
    """Every equation of the thought, with the values that the lines give their names."""
    values: dict[str, object] = {}
    output, failed = execute("\n".join([*problem.lines, f"print({problem.lines[-1].split()[0]})"]), values)
    assert not failed, output
    for left, name in re.findall(
        r"(?<![\w.,])(?<![-+*/x(])(?<![-+*/x(] )((?:[\d,.]+|[A-Z]) ?[-+*/x] ?(?:[\d,.]+|[A-Z])) = \$?([A-Z])\b",
        problem.thought,
    ):
        told, failed = execute(f"print(abs({left.replace(',', '').replace('x', '*')} - {name}) < 1e-6)", values)
        assert not failed and told == "True", (problem, left, name)
    return True


def test_the_shards_are_the_same_bytes_again(data: Path, tmp_path: Path) -> None:
    order = Order(str(data), 40, 3, size=20)
    one, two = (make(order, tmp_path / name, say=lambda line: None) for name in ("a", "b"))
    assert one == two and one["records"] == 40 and one["problems"]["for_training"] > 0
    for name in ("part-00000.jsonl.gz", "part-00001.jsonl.gz"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with pytest.raises(UserError, match="gsm8k_train"):
        make(Order(str(tmp_path), 1, 0), tmp_path / "c")
