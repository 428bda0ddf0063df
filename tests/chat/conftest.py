"""A small tokenizer trained on the spot, and Kimi's own where the data folder is given."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest

from openk2.chat.tokenizer import Tokenizer
from openk2.chat.train_tokenizer import MIN_VOCAB, train

TEXTS = [
    "The population of \"Kenya\" is 57,532,493 (2025). [kenya:3] Kenya's density isn't known.\n",
    "Compute x = 12_345 * 678 in Python: print(x / 2)\n\nfunctions.search:0 functions.python:1",
    '{"query": "Kenya population", "k": 3} C:\\path\\name user_name the_population Ärzte naïve 漢字 かな',
] * 5


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("tokenizers", reason="training a tokenizer needs the train extra")
    folder = tmp_path_factory.mktemp("tokenizer")
    train(TEXTS, MIN_VOCAB + 60, folder)
    return folder


@pytest.fixture(scope="session")
def small(small_folder: Path) -> Tokenizer:
    return Tokenizer.load(small_folder)


@pytest.fixture(scope="session")
def kimi_folder() -> Path:
    data = os.environ.get("OPENK2_DATA")
    if not data or not (Path(data) / "kimi" / "tiktoken.model").exists():
        pytest.skip("OPENK2_DATA does not hold kimi/tiktoken.model")
    return Path(data) / "kimi"


@pytest.fixture(scope="session")
def kimi(kimi_folder: Path) -> Tokenizer:
    return Tokenizer.load(kimi_folder)


@pytest.fixture(params=["small", "kimi"])
def tok(request: pytest.FixtureRequest) -> Tokenizer:
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["thinking", "instruct"])
def either(request: pytest.FixtureRequest, tok: Tokenizer) -> Tokenizer:
    """Each tokenizer with each template."""
    tok = copy.copy(tok)
    tok.template = request.param
    return tok
