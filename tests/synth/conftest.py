"""Records of every kind, with the documents that each was made from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from source_files import Example, train_tokenizer, write_source_files  # type: ignore[import-not-found]

from openk2.chat.tokenizer import Tokenizer
from openk2.synth.make import MIXTURE, Maker
from openk2.synth.names import Pieces, pieces_of
from openk2.synth.sources import Sources
from openk2.synth.trajectory import Record, Trajectory


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source_files(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    return Tokenizer.load(tokenizer_folder)


@pytest.fixture(scope="session")
def pieces(tokenizer: Tokenizer) -> Pieces:
    return pieces_of(tokenizer)


@pytest.fixture(scope="session", params=["invented", "real"])
def sources(request: pytest.FixtureRequest, data: Path) -> Sources:
    if request.param == "invented":
        return Sources.load(data)
    folder = os.environ.get("OPENK2_DATA")
    if not folder or not (Path(folder) / "movies.jsonl.gz").exists():
        pytest.skip("OPENK2_DATA does not hold the source files")
    return Sources.load(Path(folder))


@pytest.fixture(scope="session")
def examples(sources: Sources, pieces: Pieces) -> list[Example]:
    """200 records of the training mixture, and more of the rare kinds."""
    made: list[Example] = []
    record = Trajectory.record

    def keep(t: Trajectory, kind: str, **proof: object) -> Record:
        made.append(Example(record(t, kind, **proof), t.index))
        return made[-1].record

    def draw(mixture: dict[str, float], count: int) -> Iterator[Example]:
        for wanted in islice(Maker(sources, pieces, 11, mixture), count):
            yield next(e for e in reversed(made) if e.record is wanted)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trajectory, "record", keep)
        kept = list(draw(MIXTURE, 200))
        for kind, count in {"gsm8k": 3, "film": 3, "notes": 3, "unanswerable": 3, "talk": 3, "two": 20}.items():
            kept += draw({kind: 1.0}, count)
    return kept
