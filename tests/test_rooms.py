"""Which room may know which: an import that goes back up the house is a fault."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[1] / "openk2"
GROUND = {"errors", "paths", "net", "__version__"}  # every room may stand on these
KNOWS: dict[str, set[str]] = {
    "chat": set(),
    "model": {"quant"},
    "sandbox": set(),
    "quant": set(),
    "optim": {"model"},
    "export": {"model", "quant", "chat"},
    "engine": {"model", "quant", "chat"},
    "tools": {"chat", "sandbox"},
    "library": {"tools"},
    "providers": {"engine", "model", "chat"},
    "agent": {"providers", "model", "tools", "library", "chat"},
    "synth": {"tools", "library", "chat", "sandbox", "providers"},
    "train": {"model", "optim", "quant", "chat"},
    "bench": {"agent", "engine", "export", "library", "train", "optim", "model", "quant", "chat"},
    "evals": {"agent", "providers", "tools", "library", "synth", "chat"},
}
# What runs on the way of a question; none of it may load torch, wherever the import stands.
OF_A_QUESTION = ("chat", "sandbox", "engine", "tools", "library", "providers", "agent")
HEAVY = {"torch", "transformers", "tokenizers", "matplotlib", "safetensors"}


def imports(room: str) -> dict[str, set[str]]:
    """Dotted names that the files of a room import, also inside functions."""
    found: dict[str, set[str]] = {}
    for path in (HOUSE / room).rglob("*.py"):
        names = found.setdefault(str(path.relative_to(HOUSE)), set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def test_every_room_is_in_the_table() -> None:
    rooms = {path.name for path in HOUSE.iterdir() if (path / "__init__.py").exists()}
    assert rooms == {*KNOWS, "cli"}  # the command line may know all


@pytest.mark.parametrize("room", KNOWS)
def test_arrows(room: str) -> None:
    allowed = {room} | KNOWS[room] | GROUND
    for path, names in imports(room).items():
        known = {name.split(".")[1] for name in names if name.startswith("openk2.")}
        assert known <= allowed, path


@pytest.mark.parametrize("room", OF_A_QUESTION)
def test_a_question_needs_nothing_heavy(room: str) -> None:
    for path, names in imports(room).items():
        if path not in ("chat/train_tokenizer.py", "sandbox/figures.py"):  # part of training; loaded in the box only
            assert not {name.split(".")[0] for name in names} & HEAVY, path
