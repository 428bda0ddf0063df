"""Shards: what the model learns, resuming, and the command line that writes them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from openk2.chat.messages import Message
from openk2.chat.template import generation_prompt, render, render_message
from openk2.chat.tokenizer import Tokenizer
from openk2.cli.main import run
from openk2.synth import make as making
from openk2.synth.make import make

SHARD, COUNT = 12, 30


@pytest.fixture(scope="module")
def shards(data: Path, tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards")
    make(data, tokenizer_folder, out, COUNT, 7, shard=SHARD, say=lambda _: None)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_layout(shards: Path) -> None:
    names = {path.name for path in shards.iterdir()}
    assert names == {f"s7-000{n}{suffix}" for n in range(3) for suffix in (".bin", ".mask", ".idx", ".jsonl.gz")}
    lengths = [np.fromfile(shards / f"s7-000{n}.idx", np.int32) for n in range(3)]
    assert [len(each) for each in lengths] == [12, 12, 6]
    for number, each in enumerate(lengths):
        assert (shards / f"s7-000{number}.bin").stat().st_size == 2 * each.sum()
        assert (shards / f"s7-000{number}.mask").stat().st_size == each.sum()


def test_only_the_models_own_tokens_are_learned(shards: Path, tokenizer: Tokenizer) -> None:
    lines = gzip.decompress((shards / "s7-0000.jsonl.gz").read_bytes()).decode().splitlines()
    ids, mask = np.fromfile(shards / "s7-0000.bin", np.uint16), np.fromfile(shards / "s7-0000.mask", np.uint8)
    start = 0
    for line, length in zip(lines, np.fromfile(shards / "s7-0000.idx", np.int32), strict=True):
        messages = [Message.from_json(m) for m in json.loads(line)["messages"]]
        own = ids[start : start + length].tolist(), mask[start : start + length].tolist()
        prompt = render(tokenizer, messages[:2])
        assert own[0][: len(prompt)] == prompt and not any(own[1][: len(prompt)])
        place = len(prompt)
        for message in messages[2:]:
            part = render_message(tokenizer, message)
            given = len(generation_prompt(tokenizer)) if message.role == "assistant" else len(part)
            assert own[0][place : place + len(part)] == part
            assert own[1][place : place + len(part)] == [0] * given + [1] * (len(part) - given)
            place += len(part)
        assert place == length
        start += length


def test_a_killed_run_goes_on_with_the_same_bytes(
    shards: Path, data: Path, tokenizer_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = making.write_shard

    def dies(path: Path, *args: object) -> int:
        if path.name.endswith("1"):
            path.with_suffix(".bin").write_bytes(b"half of it")
            raise KeyboardInterrupt
        return write(path, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(making, "write_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        make(data, tokenizer_folder, tmp_path, COUNT, 7, shard=SHARD, say=lambda _: None)
    monkeypatch.undo()
    assert not (tmp_path / "s7-0001.idx").exists()
    first = (tmp_path / "s7-0000.idx").stat().st_mtime_ns
    make(data, tokenizer_folder, tmp_path, COUNT, 7, shard=SHARD, say=lambda _: None)
    assert (tmp_path / "s7-0000.idx").stat().st_mtime_ns == first
    assert contents(tmp_path) == contents(shards)
    said: list[str] = []
    make(data, tokenizer_folder, tmp_path, COUNT, 7, shard=SHARD, say=said.append)
    assert said == [f"all {COUNT} examples are in {tmp_path} already"]


def test_command_line(
    data: Path,
    tokenizer_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("openk2.synth.corpus.EXAMPLES", 20)
    common = ["synth", "trajectories", "--data", str(data), "--out", str(tmp_path / "out"), "--count", "6"]
    assert run([*common, "--tokenizer", str(tokenizer_folder)]) == 0
    out = capsys.readouterr().out
    assert "6/6 examples" in out and "kinds: " in out
    assert run([*common, "--tokenizer", str(tmp_path)]) == 2
    assert "tiktoken.model is missing" in capsys.readouterr().err
    assert run(["synth", "corpus", "--data", str(data), "--out", str(tmp_path / "corpus.txt")]) == 0
    text = (tmp_path / "corpus.txt").read_text()
    assert "lantern" in text and "functions" in text and "calculator" in text


def test_command_line_without_the_data(
    data: Path, tokenizer_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in data.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "movies.jsonl.gz").unlink()
    out = tmp_path / "out"
    args = ["synth", "trajectories", "--data", str(tmp_path), "--out", str(out), "--tokenizer", str(tokenizer_folder)]
    assert run(args) == 2
    err = capsys.readouterr().err
    assert "movies.jsonl.gz" in err and "docs/recipe.md" in err and err.count("\n") == 1
    assert not out.exists()
    assert run(["synth", "corpus", "--data", str(tmp_path), "--out", str(tmp_path / "c.txt")]) == 2
    assert "movies.jsonl.gz" in capsys.readouterr().err
    assert run(["synth", "corpus", "--data", str(tmp_path / "nowhere"), "--out", "x"]) == 2
