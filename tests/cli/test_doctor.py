"""`k2 doctor`: one line for each thing that this machine offers or lacks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openk2.cli.main import run
from openk2.paths import NANO


def test_doctor(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = 0 if (NANO / "config.json").exists() else 2
    assert run(["doctor"]) == code
    shown = capsys.readouterr().out
    assert "factbook" in shown and "SQLite FTS5" in shown and str(home / "cache" / "openk2") in shown
    assert run(["doctor", "--json"]) == code
    found = json.loads(capsys.readouterr().out)
    assert found["library"]["factbook"]["works"] and found["runs"] == str(home / "data" / "openk2" / "runs")
    assert found["model"]["nano"]["works"] == (code == 0)


def test_a_library_that_cannot_be_read(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openk2.library.FOLDER", home / "nothing")
    assert run(["doctor"]) == 2
    assert "none  factbook: 0 documents" in capsys.readouterr().out
