"""What a person may open, figures, and the profile of the tier that cannot run here."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import SMALL

from openk2.errors import UserError
from openk2.sandbox import seatbelt
from openk2.sandbox.box import Box
from openk2.sandbox.policy import Policy


def test_folders_named_by_the_person_are_read_only(make_box: Callable[..., Box], tmp_path: Path):
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "note.txt").write_text("note")
    (tmp_path / "beside.txt").write_text("beside")
    tmp_path.chmod(0o755)
    box = make_box(policy=replace(SMALL, read=(str(docs),)))
    assert box.call(f"open('{docs}/note.txt').read()").text == "'note'"
    for code in (f"open('{docs}/note.txt', 'w')", f"open('{docs}/new', 'w')", f"open('{tmp_path}/beside.txt')"):
        assert re.match(r"(PermissionError|OSError|FileNotFoundError)", box.call(code).text), code
    assert (docs / "note.txt").read_text() == "note"


def test_what_cannot_be_opened_is_said(tmp_path: Path):
    with pytest.raises(UserError, match="does not exist"):
        Box(tmp_path / "w", Policy(read=("/nowhere/at/all",))).call("1")
    with pytest.raises(UserError, match="whole file system"):
        Box(tmp_path / "w", Policy(read=("/",))).call("1")


def test_figures_become_files(make_box: Callable[..., Box]):
    pytest.importorskip("matplotlib")
    box = make_box(policy=replace(SMALL, memory=1 << 30, timeout=60.0))
    box.call("import matplotlib.pyplot as plt")  # may build a cache of fonts
    outcome = box.call("plt.plot([1, 2]); plt.show(); plt.plot([2, 1]); print('drawn')")
    assert outcome.text == "drawn" and outcome.files == ("figure-1.png", "figure-2.png")
    assert (box.workspace / "figure-2.png").read_bytes().startswith(b"\x89PNG")
    assert box.call("plt.get_fignums()").text == "[]"
    box.call("import os; os._exit(1)")
    assert box.call("plt.figure(); 1").files == ("figure-3.png",)  # the replay drew none anew


def test_the_profile_of_seatbelt():
    workspace = '/tmp/a") (allow default) ("'
    text, parameters = seatbelt.profile(["/opt/python"], workspace)
    assert text.startswith("(version 1)\n(deny default)\n") and "allow default" not in text
    assert text.count("(") == text.count(")") and "network-outbound" not in text and "(deny network*)" in text
    assert set(re.findall(r'param "(\w+)"', text)) == set(parameters)  # each path is a parameter, none is in the text
    assert parameters["WORKSPACE"] == workspace and "/opt/python" in parameters.values()
    writing = [rule for rule in re.findall(r"\(allow [^\n]*(?:\n  [^\n]*)*", text) if "file-write*" in rule]
    assert len(writing) == 1 and re.findall(r'param "(\w+)"', writing[0]) == ["WORKSPACE"]
    assert not {"/", "/Users", str(Path.home())} & {v for k, v in parameters.items() if k.startswith("READ")}
    command = seatbelt.arguments(["/usr"], Path("/w"), ["python", "-c", "1"])
    assert command[0] == "/usr/bin/sandbox-exec" and command[-4:] == ["--", "python", "-c", "1"]
