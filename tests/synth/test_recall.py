"""Real text, and codes hidden in it: where they lie, what of them is learned, what is held out."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from openk2.chat.tokenizer import Tokenizer
from openk2.cli.main import run
from openk2.errors import UserError
from openk2.library import documents
from openk2.synth.heldout import held_out
from openk2.synth.recall import ANSWER, Recall
from openk2.synth.text import SHARE

TEXTS = ["\n".join(document.lines) for _, document in zip(range(12), documents(), strict=False)]


@pytest.fixture(scope="module")
def recall(tokenizer: Tokenizer) -> Recall:
    return Recall(tokenizer, TEXTS, 3)


def found(ids: list[int], wanted: list[int]) -> list[int]:
    return [at for at in range(len(ids)) if ids[at : at + len(wanted)] == wanted]


@pytest.mark.parametrize("length", [128, 512, 3000])
@pytest.mark.parametrize("depth", [0.0, 0.5, 1.0])
def test_the_asked_code_lies_where_it_was_put(recall: Recall, tokenizer: Tokenizer, length: int, depth: float) -> None:
    ids, mask = recall.probe(length, depth)
    assert len(ids) == len(mask) == length and mask[-ANSWER:] == [1] * ANSWER
    head = tokenizer.encode("\nCode")
    question = ids[found(ids, head)[-1] :]
    first, last = found(ids, question)
    assert last == length - len(question)
    assert abs(first - depth * length) <= 20 + 12 * (length // 256)  # other codes and the question take some room
    assert len(found(ids, head)) >= 2 + length // 256


def test_what_is_drawn_is_not_learned_and_what_is_asked_was_told(recall: Recall, tokenizer: Tokenizer) -> None:
    head = tokenizer.encode("\nCode")
    lengths = set()
    for _ in range(100):
        ids, mask = recall.learning(400)
        told: dict[tuple[int, ...], list[int]] = {}
        asked = 0
        for at in found(ids, head):
            start = at + len(head)
            end = next(i for i in range(start, len(ids)) if ids[i] in recall.digits)
            name, digits = tuple(ids[start:end]), ids[end : end + ANSWER]
            assert mask[start:end] == [0] * len(name) and mask[at:start] == [int(name not in told)] * len(head)
            if name in told:
                assert digits == told[name] and mask[end : end + ANSWER] == [1] * ANSWER
                asked += 1
            else:
                told[name] = digits
                assert mask[end : end + ANSWER] == [0] * ANSWER
        assert 1 <= asked <= len(told)
        lengths.add(len(ids))
    assert min(lengths) < 130 and max(lengths) > 350


def test_the_same_seed_gives_the_same_documents(tokenizer: Tokenizer) -> None:
    first, second, other = (Recall(tokenizer, TEXTS, seed) for seed in (1, 1, 2))
    assert first.probe(300, 0.3) == second.probe(300, 0.3) != other.probe(300, 0.3)


def test_text_too_short_to_hide_anything_in(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="no text of 96 tokens"):
        Recall(tokenizer, ["short"], 0)


def test_command_line(data: Path, tokenizer_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in data.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    out = tmp_path / "out"
    assert run(["synth", "text", "--data", str(tmp_path), "--out", str(out)]) == 2
    assert "pepys.jsonl.gz" in capsys.readouterr().err
    for name in ("pepys", "wikipedia_passages"):
        rows = ({"title": f"{name} {i}", "text": f"{name} {i} went to bed. " * 20} for i in range(200))
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    assert run(["synth", "text", "--data", str(tmp_path), "--out", str(out)]) == 0
    names = ("web", "diary", "passages", "python", "heldout")
    rows = {name: [json.loads(line) for line in (out / f"{name}.jsonl").open(encoding="utf-8")] for name in names}
    assert all(held_out("text", row["title"], SHARE) == (name == "heldout") for name in names for row in rows[name])
    assert len(rows["diary"]) > 180 and {row["title"] for row in rows["python"]} >= {"argparse.py", "json/decoder.py"}

    shards = tmp_path / "shards"
    args = ["synth", "recall", str(out / "diary.jsonl"), "--tokenizer", str(tokenizer_folder), "--out", str(shards)]
    assert run([*args, "--tokens", "5000", "--longest", "256"]) == 0
    lengths = np.fromfile(shards / "recall256-0.idx", np.int32)
    assert lengths.sum() == len(np.fromfile(shards / "recall256-0.bin", np.uint16)) >= 5000
    (out / "diary.jsonl").write_text('{"title": "x"}\n')
    assert run(args) == 2 and "no `text`" in capsys.readouterr().err
