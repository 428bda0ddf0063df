"""The file tools: what they do in the workspace, and that nothing gets them out of it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import threading
import time
from pathlib import Path

import pytest

from openk2.tools import beneath
from openk2.tools.base import Tool, ToolError, ToolResult
from openk2.tools.files import MAX_LISTED, Files, file_tools


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    (tmp_path / "secret.txt").write_text("the secret\n")
    return folder


@pytest.fixture
def tools(place: Path) -> dict[str, Tool]:
    return file_tools(Files(place))


def run(tool: Tool, **arguments: object) -> ToolResult:
    return asyncio.run(tool.run(json.dumps(arguments)))


def test_write_read_edit(place: Path, tools: dict[str, Tool]) -> None:
    made = run(tools["write_file"], path="notes/a.txt", content="one\ntwo\nthree\n")
    assert made == ToolResult("Wrote notes/a.txt: 3 lines, 14 bytes.", files=("notes/a.txt",))
    assert run(tools["read_file"], path="notes/a.txt").content == "1\tone\n2\ttwo\n3\tthree"
    edited = run(tools["edit_file"], path=str(place / "notes/a.txt"), old="two\n", new="2\nzwei\n")
    assert edited == ToolResult(
        "Edited notes/a.txt. It now reads:\n1\tone\n2\t2\n3\tzwei\n4\tthree", files=("notes/a.txt",)
    )
    assert (place / "notes/a.txt").read_text() == "one\n2\nzwei\nthree\n"
    assert run(tools["write_file"], path="notes/a.txt", content="").content == "Replaced notes/a.txt: 0 lines, 0 bytes."
    assert run(tools["read_file"], path="notes/a.txt").content == "notes/a.txt is empty."
    assert not [path for path in place.rglob("*") if path.name.endswith(".part")]


def test_long_files_are_paged(place: Path, tools: dict[str, Tool]) -> None:
    (place / "long.txt").write_text("".join(f"line {n} {'x' * 90}\n" for n in range(1, 1001)))
    first = run(tools["read_file"], path="long.txt").content
    last = int(first.rpartition("(lines 1-")[2].partition(" ")[0])
    assert first.endswith(" of 1000)") and 100 < last < 1000
    then = run(tools["read_file"], path="long.txt", line=last + 1).content
    assert then.startswith(f"{last + 1}\tline {last + 1} ")
    assert run(tools["read_file"], path="long.txt", line=5000).content.startswith("1000\tline 1000")


def test_an_edit_must_be_exact_and_unique(place: Path, tools: dict[str, Tool]) -> None:
    (place / "a.py").write_text("def f():\n    return 1\n\ndef g():\n    return 1\n")
    for old, says in (
        ("    return 1\n", "2 times in a.py (lines 2, 5)"),
        ("return  1\n\ndef g", "differs only in blanks is at line 2"),
        ("return 7", "copy it to the letter."),
        ("", "is empty"),
    ):
        result = run(tools["edit_file"], path="a.py", old=old, new="x")
        assert result.is_error and says in result.content
    assert (place / "a.py").read_text().count("return 1") == 2


def test_an_edit_keeps_line_ends_bytes_and_rights(place: Path, tools: dict[str, Tool]) -> None:
    (place / "a.bat").write_bytes(b"caf\xe9\r\none\r\ntwo\r\n")
    (place / "a.bat").chmod(0o755)
    assert not run(tools["edit_file"], path="a.bat", old="one\ntwo", new="1\n2").is_error
    assert (place / "a.bat").read_bytes() == b"caf\xe9\r\n1\r\n2\r\n"
    assert (place / "a.bat").stat().st_mode & 0o777 == 0o755


def test_list_and_grep(place: Path, tools: dict[str, Tool]) -> None:
    (place / "src").mkdir()
    (place / "src" / "a.py").write_text("import os\nprint('Fern')\n")
    (place / "src" / "b.txt").write_text("fern\n" * 3)
    (place / "bin.dat").write_bytes(b"fern\0" * 10)
    assert run(tools["list_files"]).content == (
        "bin.dat (50 bytes)\nsrc/\nsrc/a.py (24 bytes)\nsrc/b.txt (15 bytes)"
    )
    assert run(tools["list_files"], pattern="*.py").content == "src/a.py (24 bytes)"
    assert run(tools["list_files"], path="src", pattern="*.md").content == "No file below src."
    assert run(tools["grep"], pattern="[Ff]ern").content == (
        "src/a.py:2: print('Fern')\nsrc/b.txt:1: fern\nsrc/b.txt:2: fern\nsrc/b.txt:3: fern"
    )
    found = run(tools["grep"], pattern="FERN", files_like="*.py", ignore_case=True)
    assert found.content == "src/a.py:2: print('Fern')"
    assert run(tools["grep"], pattern="o", path="src/a.py").content == "src/a.py:1: import os"
    assert run(tools["grep"], pattern="moss").content == "No line matches."
    assert "not a regular expression" in run(tools["grep"], pattern="(").content
    assert run(tools["grep"], pattern="x", path="nothing.txt").content == "There is no nothing.txt."
    for number in range(MAX_LISTED + 5):
        (place / "src" / f"n{number}").touch()
    assert "more; name a folder or a pattern)" in run(tools["list_files"], path="src").content


def test_a_pattern_that_never_ends_is_ended(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openk2.tools.files.GREP_SECONDS", 1.0)
    (place / "a.txt").write_text("a" * 60 + "!\n")
    begin = time.monotonic()
    result = run(file_tools(Files(place))["grep"], pattern="^(a+)+$")
    assert result.is_error and "more than 1 seconds" in result.content and time.monotonic() - begin < 8


# ------------------------------------------------------------------------------------------------ nothing outside


@pytest.mark.parametrize(
    "path",
    ["../secret.txt", "a/../../secret.txt", "/etc/passwd", "/proc/self/environ", "//etc/passwd", "../work2/x",
     "~/x/../../.."],
)  # fmt: skip
def test_paths_that_lead_outside(path: str, place: Path, tools: dict[str, Tool]) -> None:
    for name, more in (("read_file", {}), ("write_file", {"content": "x"}), ("edit_file", {"old": "a", "new": "b"}),
                       ("list_files", {}), ("grep", {"pattern": "x"})):  # fmt: skip
        result = run(tools[name], path=path, **({"pattern": "x"} if name == "grep" else more))
        assert result.is_error, (name, result.content)
        assert "outside" in result.content or "There is no" in result.content
    assert (place.parent / "secret.txt").read_text() == "the secret\n" and list(place.iterdir()) == []
    assert "not a path" in run(tools["read_file"], path="a\0b").content


def test_links_are_never_followed(place: Path, tools: dict[str, Tool]) -> None:
    (place / "file").symlink_to(place.parent / "secret.txt")
    (place / "folder").symlink_to(place.parent)
    (place / "dangling").symlink_to(place.parent / "new.txt")
    for name, path, more in (
        ("read_file", "file", {}),
        ("read_file", "folder/secret.txt", {}),
        ("write_file", "file", {"content": "x"}),
        ("write_file", "folder/new.txt", {"content": "x"}),
        ("write_file", "dangling", {"content": "x"}),
        ("edit_file", "file", {"old": "secret", "new": "x"}),
        ("list_files", "folder", {}),
        ("grep", "folder", {"pattern": "secret"}),
        ("grep", "file", {"pattern": "secret"}),
    ):
        result = run(tools[name], path=path, **more)
        assert result.is_error and "links are not followed" in result.content, (name, path, result.content)
    assert (place.parent / "secret.txt").read_text() == "the secret\n" and not (place.parent / "new.txt").exists()
    assert run(tools["list_files"]).content == "dangling (a link)\nfile (a link)\nfolder (a link)"
    assert run(tools["grep"], pattern="secret").content == "No line matches."


def test_a_folder_swapped_for_a_link_meanwhile_leads_nowhere(place: Path) -> None:
    """A thread swaps a folder and a link to the outside as fast as it can, while files are read and written."""
    outside = place.parent / "outside"
    outside.mkdir()
    (outside / "a.txt").write_text("OUTSIDE")
    inside = place / "d"
    inside.mkdir()
    (inside / "a.txt").write_text("inside")
    (place / "link").symlink_to(outside)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for one, two in (("d", "kept"), ("link", "d"), ("d", "link"), ("kept", "d")):
                while True:
                    try:
                        (place / one).rename(place / two)
                        break
                    except OSError:  # the writer made a folder in the gap
                        shutil.rmtree(place / two, ignore_errors=True)

    files = Files(place)
    thread = threading.Thread(target=swap)
    thread.start()
    seen: set[str] = set()
    try:
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            try:
                seen.add(files.text(files.to_read("d/a.txt")))
                beneath.write(files.to_write("d/b.txt"), b"x")
            except ToolError as error:
                seen.add(str(error).partition(" ")[0])
    finally:
        stop.set()
        thread.join()
    assert "inside" in seen and "OUTSIDE" not in seen and len(seen) > 1
    assert [path.name for path in outside.iterdir()] == ["a.txt"]


def test_what_is_no_file_does_not_block(place: Path, tools: dict[str, Tool]) -> None:
    os.mkfifo(place / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        here = Path.cwd()
        os.chdir(place)  # the path of a socket is short
        try:
            bound.bind("sock")
        finally:
            os.chdir(here)
        begin = time.monotonic()
        for path, says in (("pipe", "a pipe"), ("sock", "a socket"), (".", "a folder")):
            calls = (("read_file", {}), ("write_file", {"content": "x"}), ("edit_file", {"old": "a", "new": ""}))
            for name, more in calls:
                result = run(tools[name], path=path, **more)
                assert result.is_error and says in result.content, result.content
        assert run(tools["grep"], pattern="x").content == "No line matches." and time.monotonic() - begin < 8


def test_large_and_binary_files_are_told_not_shown(
    place: Path, tools: dict[str, Tool], monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "bin").write_bytes(b"PNG\0" * 100)
    assert run(tools["read_file"], path="bin") == ToolResult("bin is not text (400 bytes).", True)
    assert run(tools["edit_file"], path="bin", old="PNG", new="x").is_error
    with (place / "huge").open("wb") as file:
        file.truncate(1 << 40)
    assert "too many to show" in run(tools["read_file"], path="huge").content
    assert run(tools["grep"], pattern="x").content == "No line matches."


def test_a_hard_link_keeps_what_it_had(place: Path, tools: dict[str, Tool]) -> None:
    os.link(place.parent / "secret.txt", place / "hard.txt")
    assert not run(tools["write_file"], path="hard.txt", content="new").is_error
    assert (place.parent / "secret.txt").read_text() == "the secret\n"


def test_read_only_folders(place: Path) -> None:
    notes = place.parent / "notes"
    notes.mkdir()
    (notes / "a.md").write_text("ferns\n")
    tools = file_tools(Files(place, [notes]))
    assert run(tools["read_file"], path=str(notes / "a.md")).content == "1\tferns" and tools["read_file"].private
    assert run(tools["list_files"]).content == f"{notes}/ (read only)"
    assert run(tools["list_files"], path=str(notes)).content == "a.md (6 bytes)"
    assert run(tools["grep"], pattern="fern", path=str(notes)).content == f"{notes}/a.md:1: ferns"
    for name, more in (("write_file", {"content": "x"}), ("edit_file", {"old": "ferns", "new": "x"})):
        result = run(tools[name], path=str(notes / "a.md"), **more)
        assert result.is_error and "only there" in result.content
    assert "outside what may be read" in run(tools["read_file"], path=str(place.parent / "secret.txt")).content


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for another user")
def test_what_root_writes_belongs_to_the_owner_of_the_folder(place: Path, tools: dict[str, Tool]) -> None:
    os.chown(place, 61000, 61000)
    run(tools["write_file"], path="sub/a.txt", content="x")
    assert {path.stat().st_uid for path in place.rglob("*")} == {61000}
