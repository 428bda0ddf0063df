"""What the host reads and lists of a workspace that a stranger wrote."""

import os
import threading
from pathlib import Path

import pytest

from openk2.errors import UserError
from openk2.sandbox.workspace import changed, look, read


def test_plain_files_are_read(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_text("text")
    assert read(tmp_path, "a/b") == b"text"
    with pytest.raises(UserError, match="has 4 bytes, more than the 3"):
        read(tmp_path, "a/b", limit=3)


OUT = ["../secret", "/etc/passwd", "", ".", "a/../../secret", "x\0y", "link", "folder/secret", "a"]


@pytest.mark.parametrize("name", OUT)
def test_nothing_leads_out(tmp_path: Path, name: str):
    (tmp_path / "secret").write_text("secret")
    workspace = tmp_path / "w"
    (workspace / "a").mkdir(parents=True)
    (workspace / "link").symlink_to(tmp_path / "secret")
    (workspace / "folder").symlink_to(tmp_path)
    with pytest.raises(UserError):
        read(workspace, name)


def test_a_fifo_does_not_block(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    refused: list[str] = []

    def reads() -> None:
        try:
            read(tmp_path, "pipe")
        except UserError as error:
            refused.append(str(error))

    reading = threading.Thread(target=reads, daemon=True)
    reading.start()
    reading.join(2)
    assert refused == ["'pipe' is not a plain file, so it is not read."]


def test_changes_are_named(tmp_path: Path):
    for name in ("kept", "written", "gone", ".hidden"):
        (tmp_path / name).write_text("1")
    before, size = look(tmp_path)
    (tmp_path / "written").write_text("2")
    (tmp_path / ".hidden").write_text("2")
    (tmp_path / "gone").unlink()
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "made\n\x1b[31m").write_text("3" * 10_000)
    (tmp_path / "link").symlink_to("/etc/passwd")
    after, grown = look(tmp_path)
    assert changed(before, after) == (r"d/made\n\x1b[31m", "written") and grown > size
