"""Word problems in the forms that the embedded model is trained on, and MAWPS read into programs."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from openk2.errors import UserError
from openk2.evals.suites import Material, tasks
from openk2.synth.maths.lift import lift
from openk2.synth.maths.mawps import detokenize, infix, load_mawps, tidied
from openk2.synth.maths.problems import filled, gsm8k_programs, mawps_programs
from openk2.synth.maths.program import Program, show, trained_on
from openk2.synth.maths.short import gsm8k_problem, is_short, mawps_problem
from openk2.synth.rows import read_rows

NUTS = Program("Mary had {0} nuts and ate {1}.", (9.0, 4.0), (False, False), ("p0 - p1",), (5.0,), 0, 0, fold=0)
JARS = ("Lena packs 6 crates with 14 jars each. She sells 30 jars. How many jars are left?",
        "Lena has 6*14=<<6*14=84>>84 jars.\nThen 84-30=<<84-30=54>>54 are left.\n#### 54")  # fmt: skip


def test_prefix_to_infix() -> None:
    assert infix(iter("* number0 + number1 number2".split())) == "number0 * (number1 + number2)"
    assert infix(iter("- / number0 2.0 number1".split())) == "(number0 / 2.0) - number1"


def test_detokenize() -> None:
    assert detokenize("Sam 's dog , $ 3 .  Why ?") == "Sam's dog, $3. Why?"


def test_numbers_are_shown_for_people_and_for_code() -> None:
    assert [show(x, ",") for x in (12000.0, 999.0, 0.25, 1.0)] == ["12,000", "999", "0.25", "1"]
    assert show(12000.0, "_") == "12_000"


def test_a_mawps_problem_as_it_is() -> None:
    record = mawps_problem(random.Random(0), NUTS, fresh=False)
    assert record and record["messages"][1]["content"] == "Mary had 9 nuts and ate 4."
    assert record["proof"] == {"gold": "5", "expression": "9 - 4", "fold": 0}


def test_a_mawps_problem_with_new_numbers() -> None:
    records = [mawps_problem(random.Random(n), NUTS) for n in range(20)]
    for record in records:
        assert record and record["messages"][2]["reasoning_content"] == "One amount is taken from the other."
        had, ate = map(int, re.findall(r"\d+", record["messages"][1]["content"]))
        assert record["proof"]["gold"] == str(had - ate) and had > ate > 1
    assert len({record["messages"][1]["content"] for record in records if record}) > 10


def test_what_has_no_sound_draw_has_none() -> None:
    impossible = Program("Share {0} among none", (5.0,), (False,), ("p0 / 0",), (1.0,), 0, 0, fold=1)
    assert mawps_problem(random.Random(0), impossible) is None


def test_a_gsm8k_problem_is_one_line_of_python() -> None:
    program = lift(*JARS)
    assert isinstance(program, Program) and is_short(program)
    record = gsm8k_problem(random.Random(1), program)
    assert record and "{" not in record["messages"][1]["content"]
    assert record["messages"][2]["reasoning_content"] == "2 steps, one after the other."
    assert re.search(r"a = \d+\*\d+; b = a-\d+; print", record["messages"][2]["tool_calls"][0]["function"]["arguments"])
    crates, jars, sold = (int(n) for n in re.findall(r"\d+", record["messages"][1]["content"]))
    assert float(record["proof"]["gold"].replace(",", "")) == crates * jars - sold > 0


def test_source_files(data: Path, tmp_path: Path) -> None:
    found = load_mawps(data / "mawps.jsonl.gz")
    assert len(found) == 25 and {p.fold for p in found} == {0, 1, 2, 3, 4}
    assert len(mawps_programs(data)) == 25 and len(gsm8k_programs(data)) == 3
    assert not any(trained_on(p) for p in found if p.fold == 0)  # whatever its skeleton
    with pytest.raises(UserError, match=r"lacks mawps\.jsonl\.gz; docs/recipe\.md"):
        load_mawps(tmp_path / "mawps.jsonl.gz")
    broken = tmp_path / "films.jsonl.gz"
    broken.write_bytes((data / "movies.jsonl.gz").read_bytes()[:200])
    with pytest.raises(UserError, match="cannot be read"):
        list(read_rows(broken))
    broken.write_bytes(b"no gzip")
    with pytest.raises(UserError, match="cannot be read"):
        list(read_rows(broken))


def test_what_is_drawn_anew_is_tidied() -> None:
    def text(words: str, numbers: tuple[float, ...] = (8.0, 3.0)) -> str | None:
        program = tidied(
            Program(words, numbers, (False, False), ("p0 / p1",), (numbers[0] / numbers[1],), 0, 0, fold=1)
        )
        return program and program.text

    assert text("Sue ’ s {0} T - shirts could n't fit {1} bags.") == "Sue's {0} T-shirts couldn't fit {1} bags."
    assert text("He has doughnuts: {0}, with {1} doughnut in each box.") == (
        "He has doughnuts: {0}, with {1} doughnuts in each box."
    )
    assert text("{0} and {1}", (1 / 3, 2.0)) is None  # no number that a person writes
    assert tidied(Program("{0} of {1}", (8.0, 3.0), (False, False), ("p0",), (8.0,), 0, 0, fold=1)) is None  # unused


def test_the_questions_of_the_held_out_fold_never_change(data: Path) -> None:
    made = list(tasks("mawps-fold0", Material(data, data), 9, 0))
    assert ("Ann buys 3 bags of 40 nuts and eats 7. How many are left?", "113") in {(t.text, t.gold) for t in made}


def test_articles_follow_the_numbers() -> None:
    program = Program("An {0}-month plan, a {1} pack", (18.0, 50.0), (False, False), ("p0+p1",), (68.0,), 0, 0)
    assert filled(program, program.text, (20.0, 80.0)) == "A 20-month plan, an 80 pack"
