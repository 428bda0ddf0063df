"""docs/recipe.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from source_files import write_source_files  # type: ignore[import-not-found]

from openk2.synth.make import MIXTURE

TEXT = (Path(__file__).parents[2] / "docs" / "recipe.md").read_text(encoding="utf-8")


def test_the_mixture_is_those_of_the_table() -> None:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("|")]
    assert {row[0]: float(row[3]) for row in rows if len(row) == 4 and row[0] in MIXTURE} == MIXTURE


def test_every_source_file_is_listed_and_every_kind_has_a_sample(tmp_path: Path) -> None:
    for path in write_source_files(tmp_path).iterdir():
        assert f"| `{path.name}` |" in TEXT
    assert set(re.findall(r"\*\*(\w+)\*\*", TEXT.partition("## Samples")[2])) == {*MIXTURE, "missing"}
