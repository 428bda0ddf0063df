"""Reading the source files of the recipe (docs/recipe.md lists them)."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openk2.errors import UserError


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file, plain or `.gz`. Raises UserError for a file that is missing or damaged."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)
    except FileNotFoundError:
        raise UserError(
            f"The data folder {path.parent} lacks {path.name}; docs/recipe.md says what it is and where it comes from."
        ) from None
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); fetch it again.") from None


def packed_lines(path: Path) -> io.TextIOWrapper:
    """A gzip text file to write, whose bytes depend on its text alone."""
    raw = gzip.GzipFile(filename="", fileobj=path.open("wb"), mode="wb", compresslevel=3, mtime=0)
    return io.TextIOWrapper(raw, encoding="utf-8")
