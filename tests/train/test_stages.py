"""The recipe: K2's own values from the dial, and what a stage refuses."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner

from openk2.errors import UserError
from openk2.model.config import ModelConfig
from openk2.train.data import Source
from openk2.train.options import amount, read_recipe, source
from openk2.train.pretrain import pretrain
from openk2.train.recipe import Stage, recipe, stage
from openk2.train.sft import sft


def test_the_dial_gives_k2s_values_at_k2s_size_and_nanos_at_nanos() -> None:
    k2 = ModelConfig.preset("kimi-k2")
    base = ModelConfig(**{**vars(k2), "rope_scaling": None, "max_position_embeddings": 4096})
    first, anneal, long = recipe(base, 15_500_000_000_000, parts=16384)
    assert first.batch == 1 << 26 and first.lr == pytest.approx(2e-4) and first.context == 4096  # 67M tokens a step
    assert first.lr * first.floor == anneal.lr == pytest.approx(2e-5)
    assert long.lr * long.floor == pytest.approx(7e-6, rel=0.05) and long.context == 32768
    assert first.balance == 1e-3 and first.aux_loss == 1e-3
    nano = ModelConfig.from_depth(8, max_position_embeddings=1024)
    stages = recipe(nano, 20_000_000, parts=2)
    assert stages[0].batch == 8192 and stages[0].lr == 0.0056 and stages[0].balance == pytest.approx(1e-2, rel=0.05)
    assert sum(one.tokens for one in stages) == 20_000_000
    assert stages[2].context == 8192 and stages[2].parts == 1 and stages[2].yarn == 8


def test_yarn_stretches_the_context_as_k2s_does() -> None:
    k2 = ModelConfig.preset("kimi-k2")
    short = ModelConfig(**{**vars(k2), "rope_scaling": None, "max_position_embeddings": 4096})
    assert Stage(yarn=32.0).config(short) == k2
    assert Stage(yarn=32.0).config(k2) == k2  # from a stretched network again: over its first context
    assert Stage().config(short) is short


def test_what_is_given_holds_for_all_stages() -> None:
    config = ModelConfig.from_depth(4, max_position_embeddings=512)
    given = recipe(config, 1_000_000, parts=2, batch=2048, lr=1e-2, yarn=4.0, qat=0.2, seed=7, seconds=100.0)
    assert {(one.seed, one.qat) for one in given} == {(7, 0.2)}
    assert [one.batch for one in given] == [2048] * 3 and given[0].parts == 2 and given[2].context == 2048
    assert given[0].lr == 1e-2 and given[1].lr == pytest.approx(1e-3)
    assert sum(one.seconds or 0 for one in given) == pytest.approx(100)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"optimizer": "sgd"}, "no optimizer 'sgd'"),
        ({"batch": 8192, "parts": 3}, "does not divide into 3 parts"),
        ({"warmup": 1.5}, "warmup = 1.5 must be a fraction"),
        ({"warmup": 0.6, "decay": 0.6}, "do not fit into one stage"),
        ({"lr": 0.0}, "lr = 0.0 must be above 0"),
        ({"rate": 1.0}, "A stage has no rate; its fields are name, tokens"),
        ({"lr": "fast"}, "lr = 'fast' is no number"),
        ({"tokens": 1.5}, "tokens = 1.5 is no whole number"),
    ],
)
def test_what_fits_no_stage_is_told_in_a_sentence(values: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        stage(values)


def test_a_recipe_file(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text('[[stage]]\nname = "a"\ntokens = "2M"\n\n[[stage]]\nname = "b"\nlr = 0.5\nqat = 1\n')
    stages = read_recipe(file, {"seed": 3, "tokens": 7})
    assert [(one.name, one.tokens, one.lr, one.seed, one.qat) for one in stages] == [
        ("a", 2_000_000, 1e-2, 3, 0.0), ("b", 7, 0.5, 3, 1.0),
    ]  # fmt: skip
    for text in ("stage = 3", "[[stage]\n", "", '[[stage]]\nlr = "high"'):
        file.write_text(text)
        with pytest.raises(UserError):
            read_recipe(file, {})


def test_both_commands_have_an_option_for_each_field() -> None:
    for command in (pretrain, sft):
        shown = CliRunner().invoke(command, ["--help"]).output
        for field in fields(Stage):
            assert field.name == "name" or f"--{field.name.replace('_', '-')}" in shown


def test_sources(tmp_path: Path) -> None:
    assert source("a:2.5") == Source(Path("a"), 2.5) and source("a") == Source(Path("a"))
    assert source("long=a/b:0.3") == Source(Path("a/b"), 0.3, "long")
    (tmp_path / "x=y:1").mkdir()
    assert source(str(tmp_path / "x=y:1")) == Source(tmp_path / "x=y:1")
    assert amount("15.5T") == 15_500_000_000_000
