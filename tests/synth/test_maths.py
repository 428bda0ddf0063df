"""Word problems lifted to programs, and the new ones made of them."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from openk2.errors import UserError
from openk2.synth.maths.draw import drawn, sensible
from openk2.synth.maths.lift import Program, lift, load, solve
from openk2.synth.maths.make import Order
from openk2.synth.maths.problems import joined, new_problem, problem, record, trained_on
from openk2.synth.maths.words import other_things, renamed
from openk2.synth.shards import make

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


def test_steps_that_only_the_text_writes_are_read_and_percentages_understood() -> None:
    question = "A coat costs $80. It is 25% off. Two friends buy one each. How much do they pay?"
    solution = (
        "The discount is $80 * 25% = $20.\nSo a coat costs 80 - 20 = $<<80-20=60>>60.\nThey pay 60 * 2 = $120\n#### 120"
    )
    program = lifted(question, solution)
    assert program.steps == ("p0*(p1/100)", "p0-r0", "r1*2") and program.percents == (False, True)


def test_what_could_mean_two_things_is_pinned_or_refused() -> None:
    question = "Ann has 2 hats and 9 caps. Bo has twice as many caps. How many caps has Bo?"
    assert lifted(question, "9*2 = <<9*2=18>>18\n#### 18").pinned == {0}  # may be the hats or the word: they stay 2
    question = "A man walks 4 miles on each of 2 days, and 8 more, then 8 back. How far is he?"
    why = lift(question, "2*4 = <<2*4=8>>8\n4+2 = <<4+2=6>>6\n6+8 = <<6+8=14>>14\n#### 14")
    assert isinstance(why, str) and "result and a number" in why
    assert isinstance(lift("He has 5 pens.", "He buys 40, 5+40 = <<5+40=45>>45\n#### 45"), str)  # 40 comes from nowhere


def test_new_numbers_keep_sense() -> None:
    assert sensible(10, 12) and not sensible(10, 12.5) and not sensible(10, -2) and not sensible(100, 900)
    program = lifted(*CLIPS)
    rng = random.Random(0)
    for _ in range(50):
        found = drawn(rng, program)
        assert found is not None
        (number,), results = found
        assert number % 2 == 0 and list(results) == [number / 2, number * 1.5]


def test_people_and_things_are_replaced_together() -> None:
    rng = random.Random(1)
    text = renamed(rng, "Emily gave Tom an apple. Emily has 3 apples.")
    assert "Emily" not in text and "Tom" not in text and text.count(text.split()[0]) == 2
    assert other_things(rng, "He sold 3 apple pies and 2 apples.") == "He sold 3 apple pies and 2 apples."
    swapped = {other_things(random.Random(n), "A cookie costs $2 and he buys 3 cookies.") for n in range(20)}
    assert len(swapped) > 3 and all(s.split()[1] + "s." == s.split()[-1] for s in swapped)


def test_a_new_problem_is_solved_by_running_its_program() -> None:
    rng = random.Random(2)
    program = lifted(*CLIPS)
    problem = new_problem(rng, program, distractor=1.0)
    assert problem is not None and "Emily" not in problem.question and "48" not in problem.question
    made = record(problem)
    assert made["messages"][3]["content"] == made["proof"]["gold"] == str(round(problem.answer))
    both = next(p for _ in range(40) if (p := joined(rng, program, program)) is not None)
    assert "Call the answer N." in both.question and any("r1" in line for line in both.lines if line.startswith("q"))


@needs_data
def test_most_of_the_training_split_is_lifted_and_held_out_by_skeleton() -> None:
    found = list(load(Path(DATA) / "gsm8k_train.jsonl"))
    programs = [p for _, p in found if isinstance(p, Program)]
    assert len(programs) >= 0.8 * len(found)
    training = [p for p in programs if trained_on(p)]
    held = {p.skeleton() for p in programs} - {p.skeleton() for p in training}
    assert held and not held & {p.skeleton() for p in training}
    assert [problem(training[:300], 5, n) for n in range(30)] == [problem(training[:300], 5, n) for n in range(30)]


@needs_data
def test_the_shards_are_the_same_bytes_again(tmp_path: Path) -> None:
    order = Order(DATA, 40, 3, size=20)
    one, two = (make(order, tmp_path / name, say=lambda line: None) for name in ("a", "b"))
    assert one == two and one["records"] == 40
    for name in ("part-00000.jsonl.gz", "part-00001.jsonl.gz"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with pytest.raises(UserError, match="gsm8k_train"):
        make(Order(str(tmp_path), 1, 0), tmp_path / "c")
