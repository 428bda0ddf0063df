"""What is held out never occurs in a training record."""

from __future__ import annotations

import random
import re
from itertools import islice

import pytest
from source_files import Example  # type: ignore[import-not-found]

from openk2.synth import attributes, reach, wordings
from openk2.synth.heldout import MAWPS_FOLD, held_out
from openk2.synth.make import Maker
from openk2.synth.names import Pieces
from openk2.synth.sources import Sources
from openk2.synth.wordings import Choice
from openk2.synth.worlds import held_out_documents, training_documents


def test_a_fifth_of_everything() -> None:
    held, trained = held_out_documents(), training_documents()
    assert 0.15 < len(held) / (len(held) + len(trained)) < 0.25
    assert not {d.id for d in held} & {d.id for d in trained}
    frames = [f for f in reach.OUTSIDE_FRAMES if held_out("reach", f)]
    assert 0.1 < len(frames) / len(reach.OUTSIDE_FRAMES) < 0.3


def test_membership_hangs_on_the_thing_alone() -> None:
    """Fixed for good: another split would mix what models were trained on into what they are measured on."""
    assert [d.id for d in held_out_documents()][:4] == ["american-samoa", "andorra", "antarctica", "argentina"]
    assert held_out("country", "x", share=1)


@pytest.mark.parametrize("held", [False, True])
def test_wordings_come_from_their_side(held: bool) -> None:
    rng, choice = random.Random(1), Choice(held)
    for _ in range(300):
        attribute = rng.choice(attributes.ATTRIBUTES)
        frame, phrase = choice.pick(rng, wordings.LOOKUP, attribute.phrases, attribute.frames)
        if phrase:
            out = held_out("frame", frame) or held_out("wording", f"{frame}|{phrase}")
        else:
            out = held_out("wording", frame)
        assert out == held


def test_sources_leave_out(sources: Sources) -> None:
    assert {p.fold for p in sources.mawps} == {0, 1, 2, 3, 4} - {MAWPS_FOLD}
    assert not any(held_out("film", f["title"]) for f in sources.films)
    assert not any(held_out("page", d.title) for d in sources.web)
    assert not any(held_out("table question", q) for q in sources.questions)


def test_records_hold_none_of_it(examples: list[Example], sources: Sources) -> None:
    titles = {d.title for d in held_out_documents()} - set(wordings.ALIASES)  # whose names alone stand over other pages
    frames = {f: held_out("reach", f) for f in reach.OUTSIDE_FRAMES}
    for example in examples:
        if example.index and example.record["kind"] in ("lookup", "difference", "ratio", "derived", "compare3"):
            assert not titles & {title for _, title in example.index.documents()}
        question = example.record["messages"][1]["content"]
        if example.record["kind"] == "outside":
            assert not all(held for frame, held in frames.items() if pattern(frame).search(question)), question
        if example.record["kind"] == "mawps":
            assert example.record["proof"]["fold"] != MAWPS_FOLD


def test_many_look_ups_use_no_held_out_frame(sources: Sources, pieces: Pieces) -> None:
    """The frames that are held out whole, told apart from all others by their words."""
    marks = [f for f in wordings.LOOKUP if held_out("frame", f)]
    assert marks
    starts = [re.split(r"\{[pc]\}", f)[0] for f in marks]
    known = tuple(s for s in starts if s and not any(o.startswith(s) for o in wordings.LOOKUP if o not in marks))
    assert known
    for record in islice(Maker(sources, pieces, 5, {"lookup": 1.0}), 150):
        question = record["messages"][1]["content"]
        own = any(question.startswith(f.split("{c}")[0]) for a in attributes.ATTRIBUTES for f in a.frames)
        assert own or not question.startswith(known), question


def pattern(frame: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{\w+\\\}", ".+", re.escape(frame.rstrip("?."))), re.IGNORECASE)
