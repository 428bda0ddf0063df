"""Lifting word problems to programs, and drawing their numbers anew."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from openk2.errors import UserError
from openk2.synth import word_problems
from openk2.synth.gsm8k import gsm8k_problem, lift, load_gsm8k, solve
from openk2.synth.mawps import Mawps, detokenize, infix, load_mawps, mawps_problem
from openk2.synth.rows import read_rows
from openk2.tools.base import ToolError

JARS = ("Lena packs 6 crates with 14 jars each. She sells 30 jars. How many jars are left?",
        "Lena has 6*14=<<6*14=84>>84 jars.\nThen 84-30=<<84-30=54>>54 are left.\n#### 54")  # fmt: skip


def test_prefix_to_infix() -> None:
    assert infix(iter("* number0 + number1 number2".split())) == "number0 * (number1 + number2)"
    assert infix(iter("- / number0 2.0 number1".split())) == "(number0 / 2.0) - number1"


def test_detokenize() -> None:
    assert detokenize("Sam 's dog , $ 3 .  Why ?") == "Sam's dog, $3. Why?"


def test_numbers_are_shown_for_people_and_for_code() -> None:
    assert [word_problems.show(x, ",") for x in (12000.0, 999.0, 0.25, 1.0)] == ["12,000", "999", "0.25", "1"]
    assert word_problems.show(12000.0, "_") == "12_000"


def test_drawn_numbers_are_of_the_same_kind() -> None:
    rng = random.Random(0)
    for value in (2.0, 17.0, 300.0, 40_000.0, 0.75, 12.5):
        for _ in range(50):
            drawn = word_problems.draw(rng, value)
            assert drawn > 0 and (drawn == int(drawn) or value != int(value))


def test_sensible() -> None:
    assert word_problems.sensible(5.0, 8.0) and word_problems.sensible(2.5, 3.75)
    assert not word_problems.sensible(5.0, 2.5)  # a third of a child
    assert not word_problems.sensible(5.0, -1.0)
    assert not word_problems.sensible(5.0, 2e7)


def test_people_get_other_names_and_stay_one_person() -> None:
    text = "Mary met Tom in Paris. After that Mary told Tom about the Monday market."
    renamed = word_problems.rename(random.Random(2), text)
    assert "Mary" not in renamed and "Paris" in renamed and "After that" in renamed and "Monday" in renamed
    assert renamed.split()[0] == renamed.split("After that ")[1].split()[0]


def test_a_problem_as_it_is() -> None:
    problem = Mawps("Mary had number0 nuts and ate number1.", (9.0, 4.0), "number0 - number1", ("-",), 0)
    record = mawps_problem(random.Random(0), problem, fresh=False)
    assert record and record["messages"][1]["content"] == "Mary had 9 nuts and ate 4."
    assert record["proof"] == {"gold": "5", "expression": "9 - 4", "fold": 0}


def test_a_problem_that_no_numbers_fit() -> None:
    impossible = Mawps("number0 by nothing", (5.0,), "number0 / 0.0", ("/",), 1)
    assert mawps_problem(random.Random(0), impossible) is None


def test_lift() -> None:
    program = lift(*JARS)
    assert program and program.steps == ("p0*p1", "r0-p2") and program.numbers == (6.0, 14.0, 30.0)
    assert program.text.startswith("Lena packs {0} crates with {1} jars each. She sells {2} jars.")
    assert solve(program.steps, [2, 50, 25]) == [100, 75]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("sells 30", "sells 14"),  # a number twice: which one is meant?
        ("<<6*14=84>>", "<<6*13=84>>"),  # an operand from nowhere
        ("<<6*14=84>>", "<<6*14=85>>"),  # the annotation is wrong
        ("<<6*14=84>>", "<<6*14=8 4/2>>"),  # no number
        ("#### 54", "#### 55"),  # the answer is another
        ("<<84-30=54>>", "<<abs(84)-30=54>>"),  # more than arithmetic
    ],
)
def test_what_cannot_be_lifted(old: str, new: str) -> None:
    question, answer = JARS
    assert lift(question.replace(old, new), answer.replace(old, new)) is None


def test_a_lifted_problem_with_new_numbers() -> None:
    program = lift(*JARS)
    assert program
    record = gsm8k_problem(random.Random(1), program)
    assert record and "{" not in record["messages"][1]["content"]
    gold = float(record["proof"]["gold"].replace(",", ""))
    crates, jars, sold = (float(n.replace(",", "")) for n in re.findall(r"\d[\d,]*", record["messages"][1]["content"]))
    assert gold == crates * jars - sold > 0


def test_no_step_is_evaluated_as_code() -> None:
    with pytest.raises(ToolError):
        solve(["__import__('os').getpid()"], [1.0])


def test_source_files(data: Path, tmp_path: Path) -> None:
    assert len(load_mawps(data / "mawps.jsonl.gz")) == 25 and len(load_gsm8k(data / "gsm8k_train.jsonl")) == 3
    with pytest.raises(UserError, match=r"lacks mawps\.jsonl\.gz; docs/recipe\.md"):
        load_mawps(tmp_path / "mawps.jsonl.gz")
    broken = tmp_path / "films.jsonl.gz"
    broken.write_bytes((data / "movies.jsonl.gz").read_bytes()[:200])
    with pytest.raises(UserError, match="cannot be read"):
        list(read_rows(broken))
    broken.write_bytes(b"no gzip")
    with pytest.raises(UserError, match="cannot be read"):
        list(read_rows(broken))
