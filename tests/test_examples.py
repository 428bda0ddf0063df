"""Every example runs, offline, in an empty home, and says what it is to say."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SAYS = {
    "ask_documents": ["twelve apple trees", "[garden:1]", "k2 runs show"],
    "own_tool": ["asked: order asks", "ordered 9 more", "'apples': 12"],
    "structured_answer": ["Peru: Lima, 2,414 km"],
    "stream_events": ["→ search", "steps"],
    "heavy_mode": ["paths/3 begins", "path 1 ended", "gave this answer", "It is Ghana: 148.1"],
    "replay_and_fork": ["6 of 6 events are the same", "differs in its content", "56,095"],
}
LONGEST = 60  # lines


def test_each_is_checked() -> None:
    assert {path.stem for path in EXAMPLES} == set(SAYS)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path: Path, home: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= LONGEST
    assert f"python examples/{path.name}" in (ast.get_docstring(ast.parse(text)) or "")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    for words in SAYS[path.stem]:
        assert words in done.stdout
    assert "Traceback" not in done.stderr
