"""Text and conversations into shards."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openk2.chat.tokenizer import Tokenizer
from openk2.cli.main import run as k2
from openk2.errors import UserError
from openk2.paths import NANO
from openk2.train.data import Folder
from openk2.train.prepare import Counts, prepare


@pytest.fixture(scope="module")
def tok() -> Tokenizer:
    return Tokenizer.load(NANO)


def quiet(line: str) -> None:
    """Nobody reads along."""


def documents(folder: Path) -> list[tuple[list[int], list[int]]]:
    stored = Folder(folder, 1 << 30)
    found = [stored.document(i) for i in range(stored.size)]
    return [(document.ids.tolist(), document.mask.tolist()) for document in found]


CALL: dict[str, Any] = {"id": "functions.calculator:0", "type": "function",
                        "function": {"name": "calculator", "arguments": '{"expression":"6*7"}'}}  # fmt: skip
TALK: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "You compute."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi.", "reasoning_content": "An old thought."},
        {"role": "user", "content": "6 times 7?"},
        {"role": "assistant", "content": "", "reasoning_content": "I multiply.", "tool_calls": [CALL]},
        {"role": "tool", "content": "forty-two", "tool_call_id": "functions.calculator:0"},
        {"role": "assistant", "content": "It is 42.", "reasoning_content": "Done."},
    ],
    "tools": [{"type": "function", "function": {"name": "calculator", "description": "c", "parameters": {}}}],
}


def test_text_is_kept_whole(tmp_path: Path, tok: Tokenizer) -> None:
    long = "The quick brown fox jumps over the lazy dog. " * 40
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "Short.", "title": "x"}) + "\n" + json.dumps({"text": long}))
    (tmp_path / "b.txt").write_text("Plain text,\nof two lines.")
    made = prepare([tmp_path / "a.jsonl", tmp_path / "b.txt"], NANO, tmp_path / "out", say=quiet)
    found = documents(tmp_path / "out")
    texts = [tok.decode(ids) for ids, _ in found]
    assert texts == ["[BOS]Short.[EOS]", f"[BOS]{long}[EOS]", "[BOS]Plain text,\nof two lines.[EOS]"]
    assert all(set(mask) == {1} for _, mask in found)
    assert (made.records, made.shards, made.tokens) == (3, 1, sum(len(ids) for ids, _ in found))


def test_only_what_the_model_said_is_learned(tmp_path: Path, tok: Tokenizer) -> None:
    with gzip.open(tmp_path / "c.jsonl.gz", "wt") as file:
        file.write(json.dumps(TALK) + "\n\n")
    prepare([tmp_path], NANO, tmp_path / "out", say=quiet)
    ((ids, mask),) = documents(tmp_path / "out")
    learned = tok.decode([i for i, m in zip(ids, mask, strict=True) if m])
    assert "I multiply." in learned and "6*7" in learned and "It is 42." in learned and learned.endswith("<|im_end|>")
    assert not any(word in learned for word in ("Hello", "Hi.", "An old thought", "forty-two", "compute", "6 times 7"))
    assert "forty-two" in tok.decode(ids) and "An old thought" not in tok.decode(ids)


def test_going_on_gives_the_same_shards(tmp_path: Path, tok: Tokenizer) -> None:
    rng = np.random.default_rng(0)
    lines = [json.dumps({"text": " ".join(map(str, rng.integers(0, 99, 60)))}) for _ in range(60)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    prepare([tmp_path / "a.jsonl"], NANO, tmp_path / "whole", shard_tokens=2000, say=quiet)

    class Killed(Exception):
        pass

    def kill_at_third(line: str) -> None:
        if line.startswith("part-00002"):
            raise Killed

    with pytest.raises(Killed):
        prepare([tmp_path / "a.jsonl"], NANO, tmp_path / "parts", shard_tokens=2000, say=kill_at_third)
    (tmp_path / "parts/part-00003.bin").write_bytes(b"half of the next")
    said: list[str] = []
    made = prepare([tmp_path / "a.jsonl"], NANO, tmp_path / "parts", shard_tokens=2000, say=said.append)
    assert said[0].startswith("going on after") and made.records == 60
    names = sorted(file.name for file in (tmp_path / "whole").iterdir())
    assert len(names) > 12 and names == sorted(file.name for file in (tmp_path / "parts").iterdir())
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    assert prepare([tmp_path / "a.jsonl"], NANO, tmp_path / "parts", shard_tokens=2000, say=quiet) == made
    with pytest.raises(UserError, match="was made of other files or with other options"):
        prepare([tmp_path / "a.jsonl", tmp_path / "a.jsonl"], NANO, tmp_path / "parts", say=quiet)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", r"a\.jsonl:2 is no JSON"),
        ('{"question": "?"}', r"a\.jsonl:2 has neither `text` nor `messages`"),
        ('{"messages": [{"role": "clown", "content": "x"}]}', r"a\.jsonl:2 is no record to learn from"),
        ('{"messages": [{"role": "user", "content": "x"}]}', "the model says nothing"),
        ('{"messages": [], "tools": [3]}', r"a\.jsonl:2 is no record to learn from"),
    ],
)
def test_bad_records_are_named(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' + line)
    with pytest.raises(UserError, match=says):
        prepare([tmp_path / "a.jsonl"], NANO, tmp_path / "out", say=quiet)


def test_bad_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(b"not packed")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    for name in ("a.jsonl.gz", "latin.txt", "none.txt"):
        with pytest.raises(UserError, match=f"{name} cannot be read"):
            prepare([tmp_path / name], NANO, tmp_path / "out", say=quiet)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no text"):
        prepare([tmp_path / "empty"], NANO, tmp_path / "out", say=quiet)
    (tmp_path / "b.txt").write_text("A text to be learned.")
    out = ["--out", str(tmp_path / "x")]
    assert k2(["train", "prepare", str(tmp_path / "b.txt"), "--tokenizer", str(NANO), *out]) == 0
    assert "1 records, 0.00M tokens" in capsys.readouterr().out
    assert k2(["train", "prepare", str(tmp_path / "b.txt"), "--tokenizer", "/none", *out]) == 2
    assert Counts() == Counts(0, 0, 0)


def test_kimis_own_tokenizer_makes_wide_ids(tmp_path: Path) -> None:
    import os

    if not (data := os.environ.get("OPENK2_DATA")):
        pytest.skip("OPENK2_DATA names no folder with Kimi's tokenizer")
    (tmp_path / "a.txt").write_text("Kimi's vocabulary has 163,840 entries.")
    prepare([tmp_path / "a.txt"], Path(data) / "kimi", tmp_path / "out", say=quiet)
    ((ids, _),) = documents(tmp_path / "out")
    kimi = Tokenizer.load(Path(data) / "kimi")
    assert max(ids) == kimi.special["[EOS]"] > 1 << 16 and kimi.decode(ids[1:-1]).startswith("Kimi's")
