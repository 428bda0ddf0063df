"""Suites draw from what training never saw, the same for the same seed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from openk2 import library
from openk2.errors import UserError
from openk2.evals.judge import judge
from openk2.evals.suites import SUITES, Material, tasks
from openk2.synth.attributes import ATTRIBUTES
from openk2.synth.heldout import held_out
from openk2.tools.calculator import evaluate

LIBRARY = ("lookup", "lookup-wordings", "two-hop", "two-hop-wordings", "compare3", "compare3-wordings")


@pytest.mark.parametrize("name", SUITES)
def test_the_seed_decides(name: str, material: Material) -> None:
    made = list(tasks(name, material, 8, 0))
    assert made == list(tasks(name, material, 8, 0))
    fixed = name == "mawps-fold0" or name.startswith("first-")  # what is asked as it is
    assert (made == list(tasks(name, material, 8, 1))) == fixed
    assert len({task.text for task in made}) == len(made) >= 5


@pytest.mark.parametrize("name", LIBRARY)
def test_library_suites(name: str, material: Material) -> None:
    index = library.index()
    for task in tasks(name, material, 12, 0):
        assert task.cites
        for mark in task.cites:
            id, _, line = mark.rpartition(":")
            document = index.document(id)
            assert document and held_out("country", id) and len(document.lines) >= int(line)
            if task.kind == "text":
                assert task.gold in document.lines[int(line) - 1]
        if task.kind == "name":
            assert len(task.others) >= 2 and task.gold not in task.others
        marks = " ".join(f"[{mark}]" for mark in task.cites)
        assert judge(task, f"It is {task.gold} {marks}").verdict == "right"
        assert judge(task, f"It is {task.gold} {marks}").cited
        assert judge(task, "It is Atlantis, with 0.12345").verdict == "wrong"


def test_missing_is_missing(material: Material) -> None:
    """Either no such country is in the library, or its page has no line for what is asked."""
    pages = {document.title: document for document in library.documents()}
    asked = {words: a for a in ATTRIBUTES for words in (*a.phrases, *(frame.split("{c}")[0] for frame in a.frames))}
    real = 0
    for task in tasks("missing", material, 30, 0):
        assert task.kind == "abstain" and not task.gold
        whole = r"(?<!New )(?<!Upper )(?<!Lower )\b{}(?!\w| City| Province)"
        titles = [title for title in pages if re.search(whole.format(re.escape(title)), task.text)]
        phrases = [words for words in asked if words and words.casefold() in task.text.casefold()]
        if titles and phrases:
            heading = re.compile(asked[max(phrases, key=len)].heading + ": ")
            assert not any(map(heading.match, pages[max(titles, key=len)].lines)), task.text
            real += 1
    assert 0 < real < 30  # both kinds are asked


def test_the_held_out_fold_is_asked_as_it_is(material: Material) -> None:
    made = list(tasks("mawps-fold0", material, 99, 0))
    assert len(made) == 5  # the fold has no more
    assert "Mary had 9 apples. She gave 4 to Tom. How many are left?" in {task.text for task in made}


def test_chains_can_be_computed_from_their_text(material: Material) -> None:
    words = {"add": "+", "subtract": "-", "multiply by": "*", "divide by": "/"}
    for task in tasks("chain30", material, 3, 0):
        value = float(re.search(r"\d+", task.text)[0])  # type: ignore[index]
        steps = re.findall(r"Step \d+: (add|subtract|multiply by|divide by) ([\d,]+)\.", task.text)
        assert len(steps) == 30
        for word, figure in steps:
            value = evaluate(f"{value} {words[word]} {figure.replace(',', '')}")
        assert task.gold == f"{value:,.0f}"


def test_what_a_newcomer_types(material: Material) -> None:
    """Gold that is computed and looked up; what counts as right is neither too little nor too much."""
    made = {task.text: task for name in SUITES if name.startswith("first-") for task in tasks(name, material, 99, 0)}
    assert len(made) >= 100
    assert judge(made["12 + 30"], "The answer is 42.").verdict == "right"
    assert judge(made["12 + 30"], "The answer is 42.1.").verdict == "wrong"
    assert judge(made["How much is 123456 * 789?"], "97,406,784").verdict == "right"
    assert judge(made["How much is 123456 * 789?"], "97,406,884").verdict == "wrong"
    said = ("14.29", "14.2857142857", "14.5")
    assert [judge(made["100 / 7"], text).verdict for text in said] == ["right", "right", "wrong"]
    assert judge(made["capital of the USA?"], "It is: Washington, D.C. [united-states:1]").verdict == "right"
    assert judge(made["Is Canada bigger than Brazil?"], "It is Canada: 9,984,670 sq km").verdict == "right"
    for task in made.values():
        if task.kind == "text":
            id, _, line = task.cites[0].rpartition(":")
            document = library.index().document(id)
            assert document and task.gold in document.lines[int(line) - 1] and len(task.gold) > 2


def test_what_a_suite_needs(material: Material, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"needs mawps\.jsonl\.gz: name the folder that holds it with --data"):
        list(tasks("mawps-seen", replace(material, data=None), 1, 0))
    with pytest.raises(UserError, match=r"lacks table_questions_train\.jsonl\.gz"):
        list(tasks("reach", replace(material, data=tmp_path), 1, 0))
    with pytest.raises(UserError, match="no suite 'lookups'; there are lookup"):
        list(tasks("lookups", material, 1, 0))
    assert list(tasks("chain30", Material(None, tmp_path), 1, 0))  # needs nothing
