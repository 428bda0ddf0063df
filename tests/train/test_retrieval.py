"""Retrieval by position: one forward pass a document says what greedy decoding would write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
import torch
from source_files import train_tokenizer  # type: ignore[import-not-found]

from openk2.chat.tokenizer import Tokenizer
from openk2.cli.main import run
from openk2.library import documents
from openk2.model.attention import Packing
from openk2.model.config import ModelConfig
from openk2.model.transformer import Transformer
from openk2.train import retrieval
from openk2.train.data import Source
from openk2.train.loop import build, train
from openk2.train.recipe import Stage
from openk2.train.retrieval import answered


@pytest.fixture(scope="module")
def model() -> Transformer:
    model = Transformer(ModelConfig.from_depth(2, vocab_size=64), torch.float32)
    model.initialise(0)
    return model


def greedy(model: Transformer, prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            ids.append(int(model(torch.tensor(ids), Packing([len(ids)]))[-1].argmax()))
    return ids


@pytest.mark.parametrize("answer", [1, 3])
def test_it_agrees_with_greedy_decoding(model: Transformer, answer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "_BATCH", 100)  # several batches, some of several documents
    right, wrong = [], []
    for seed in range(8):
        prompt = torch.randint(64, (5 + 9 * seed,), generator=torch.Generator().manual_seed(seed)).tolist()
        right.append(greedy(model, prompt, answer))
        wrong.append(list(right[-1]))
        wrong[-1][-1 - seed % answer] = (wrong[-1][-1 - seed % answer] + 1) % 64
    assert answered(model, right, answer) == [True] * 8
    assert answered(model, wrong, answer) == [False] * 8
    assert answered(model, [right[7], wrong[0], right[3]], answer) == [True, False, True]


def test_it_leaves_the_mode_and_refuses_a_document_without_a_question(model: Transformer) -> None:
    for mode in (True, False):
        model.train(mode)
        answered(model, [[1, 2, 3]], 2)
        assert model.training is mode
    with pytest.raises(ValueError, match="no question"):
        answered(model, [[1, 2]], 2)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = train_tokenizer(tmp_path / "tokenizer")
    text = tmp_path / "text.jsonl"
    rows = ({"text": "\n".join(document.lines)} for _, document in zip(range(5), documents(), strict=False))
    text.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    args = ["--tokenizer", str(tokenizer)]
    shards = tmp_path / "shards"
    assert run(["synth", "recall", str(text), *args, "--out", str(shards), "--tokens", "3000", "--longest", "128"]) == 0
    config = ModelConfig.from_depth(2, vocab_size=Tokenizer.load(tokenizer).n_vocab, max_position_embeddings=128)
    train(build(config, 0), [Source(shards)], [Stage(tokens=1000, batch=512, context=256)], tmp_path / "run",
          say=lambda _: None)  # fmt: skip
    args = ["train", "retrieval", str(tmp_path / "run"), str(text), *args, "--depths", "3", "--probes", "2"]
    capsys.readouterr()
    assert run([*args, "--lengths", "128,256", "--yarn", "2", "--out", str(tmp_path / "table.json")]) == 0
    table = json.loads((tmp_path / "table.json").read_text())
    assert table["yarn"] == 2 and table["places"] == [0, 0.5, 1] and list(table["found"]) == ["128", "256"]
    assert all(len(shares) == 3 and max(shares) < 1 for shares in table["found"].values())  # nothing learned yet
    assert "   0%  50% 100%  all" in capsys.readouterr().out
    assert run([*args, "--lengths", "long"]) == 2 and "not a list of numbers" in capsys.readouterr().err
