"""A small data folder and a tokenizer for the suites."""

from __future__ import annotations

from pathlib import Path

import pytest
from source_files import train_tokenizer, write_source_files  # type: ignore[import-not-found]

from openk2.evals.suites import Material


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source_files(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def material(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Material:
    return Material(data, train_tokenizer(tmp_path_factory.mktemp("tokenizer")))
