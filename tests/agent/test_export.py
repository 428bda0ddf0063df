"""A run for others: messages, training records, the events, and the page; and the memory of earlier runs."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import html.parser
import json
import re
from pathlib import Path
from typing import Any

import pytest

from openk2.agent.ask_agent import loop_for
from openk2.agent.events import ContextCut, RunStarted, UserSaid
from openk2.agent.export import KINDS, export
from openk2.agent.log import Log, read
from openk2.agent.loop import Loop
from openk2.agent.memory import memory_tool, search
from openk2.agent.setup import Setup
from openk2.chat.messages import Message
from openk2.cli.main import run
from openk2.errors import UserError
from openk2.providers.scripted import ScriptedProvider, Step, call, say
from openk2.tools.base import ToolResult, tool
from openk2.tools.calculator import calculator

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
ASKED = "How many people live in Kenya?"
EVIL = "</pre><script>alert(1)</script><img src=https://x.example/a.png onerror=alert(2)>\x1b[2J\u202e&amp;"


@tool(name="search", idempotent=True)
def find(query: str) -> str:
    """Search."""
    return f"In Kenya:\n[kenya:51] Population - total: 55,751,717\n{EVIL}"


@tool
def draw(name: str) -> ToolResult:
    """Draw."""
    return ToolResult("drawn", files=(name,))


def record(folder: Path, *steps: Step, question: str = ASKED, more: str = "", **started: Any) -> Path:
    with Log.create(folder) as log:
        log.append(RunStarted(run=folder.name, question=question, system="Be right.", tools=("search",), **started))
        (log.workspace / "plot.png").write_bytes(PIXEL)
        tools = {"search": find, "draw": draw}
        asyncio.run(Loop(log, ScriptedProvider(list(steps)), tools).run())
        if more:
            log.append(UserSaid(text=more))
            asyncio.run(Loop(log, ScriptedProvider([*steps, say("More.")]), tools).run())
    return folder


STEPS = (
    call(("search", '{"query": "Kenya"}'), ("draw", '{"name": "plot.png"}'), reasoning=f"I look. {EVIL}"),
    say(f"55,751,717 [kenya:51] {EVIL}", "Found."),
)


def test_openai_and_jsonl(tmp_path: Path) -> None:
    folder = record(tmp_path / "run", *STEPS)
    whole = json.loads(export(folder, "openai", [find.spec()]))
    assert [m["role"] for m in whole["messages"]] == ["system", "user", "assistant", "tool", "tool", "assistant"]
    assert whole["messages"][2]["reasoning_content"].startswith("I look.")
    assert whole["messages"][3]["tool_call_id"] == whole["messages"][2]["tool_calls"][0]["id"]
    assert whole["tools"][0]["function"]["name"] == "search"
    assert export(folder, "jsonl").encode() == (folder / "log.jsonl").read_bytes()


def test_what_was_put_away_is_exported_too(tmp_path: Path) -> None:
    folder = record(tmp_path / "r", *STEPS)
    with Log.open(folder) as log:
        log.append(ContextCut(kind="fresh", upto=len(log.events)))
        log.append(UserSaid(text="And then?"))
    roles = [message["role"] for message in json.loads(export(folder, "openai"))["messages"]]
    assert roles == ["system", "user", "assistant", "tool", "tool", "assistant", "user"]


def test_a_training_record_is_read_by_training(tmp_path: Path) -> None:
    from openk2.chat.template import render_for_training
    from openk2.chat.tokenizer import Tokenizer
    from openk2.paths import NANO

    record_ = json.loads(export(record(tmp_path / "run", *STEPS), "training"))
    assert record_["kind"] == "run" and record_["proof"]["reason"] == "stop"
    messages = [Message.from_json(m) for m in record_["messages"]]
    ids, mask = render_for_training(Tokenizer.load(NANO), messages)[:2]  # type: ignore[misc]
    assert len(ids) == len(mask) and any(mask)


def test_sharegpt(tmp_path: Path) -> None:
    whole = json.loads(export(record(tmp_path / "run", *STEPS), "sharegpt"))
    turns = whole["conversations"]
    assert [turn["from"] for turn in turns] == ["human", "function_call", "observation", "observation", "gpt"]
    thought, _, calls = turns[1]["value"].partition("</think>\n\n")
    assert thought.startswith("<think>\nI look.") and [c["name"] for c in json.loads(calls)] == ["search", "draw"]
    assert whole["system"] == "Be right."


class Page(html.parser.HTMLParser):
    """Checks that tags nest, and collects what could load or run something."""

    VOID = ("meta", "img", "!doctype")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole_and_loads_nothing(tmp_path: Path) -> None:
    text = export(record(tmp_path / "run", *STEPS, more="And now?"), "html")
    page = Page(text)
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "iframe", "link", "object", "embed", "form", "base", "svg"}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    places = [a[name] for _, a in page.tags for name in ("src", "href") if name in a]
    assert places and all(place and place.startswith(("#", "data:image/png;base64,")) for place in places)
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    style = re.search(r"<style>(.*?)</style>", text, re.S)
    assert policy and style and "default-src 'none'" in policy and "unsafe" not in policy
    assert f"'sha256-{base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()}'" in policy


def test_the_page_says_it_all(tmp_path: Path) -> None:
    page = Page(export(record(tmp_path / "run", *STEPS, more="And now?"), "html"))
    for part in ("How many people live in Kenya?", "And now?", "I look.", "search", "Population - total", "<script>"):
        assert part in page.text
    assert "\x1b" not in page.text and "\u202e" not in page.text and "&amp;" in page.text
    targets = {a["id"] for _, a in page.tags if "id" in a}
    links = [a["href"] for tag, a in page.tags if tag == "a"]
    assert links and all(link and link[1:] in targets for link in links)


def test_files_outside_the_workspace_are_not_shown(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(PIXEL)
    step = call(("draw", '{"name": "../../secret.png"}'))
    assert "data:image" not in export(record(tmp_path / "run", step, say("Done.")), "html")


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_never_began(tmp_path: Path, kind: str) -> None:
    Log.create(tmp_path / "run").close()
    with pytest.raises(UserError, match="nothing to export"):
        export(tmp_path / "run", kind)


def test_the_commands(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = home / "runs"
    folder = record(runs / "20260101-000000-aa", *STEPS, setup={"mode": "agent"})
    where = ["--run-dir", str(runs)]
    assert run(["runs", "export", "last", "--out", str(home / "a.html"), *where]) == 0
    assert (home / "a.html").read_text() == export(folder, "html")
    capsys.readouterr()
    assert run(["runs", "export", "last", "--format", "openai", *where]) == 0
    assert json.loads(capsys.readouterr().out)["tools"][0]["function"]["name"] == "search"
    assert run(["runs", "export", "last", "--out", "/proc/none/a", *where]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert run(["runs", "fork", "last", "3", "--say", "Else.", *where]) == 0
    assert "has 4 events" in capsys.readouterr().out
    assert run(["runs", "show", "last/paths/9", *where]) == 2
    assert "has no run 'paths/9'" in capsys.readouterr().err


def test_replay_by_command(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--run-dir", str(home / "runs")]
    assert run(["ask", "What is the capital of Peru?", *where]) == 0
    assert run(["runs", "replay", "last", "--tools", *where]) == 0
    assert re.search(r"(\d+) of \1 events came out the same\.", capsys.readouterr().out)
    log = next((home / "runs").glob("*/log.jsonl"))
    log.write_text(log.read_text().replace("capital of Peru", "capital of Chad", 1))
    assert run(["runs", "replay", "last", *where]) == 1
    out = capsys.readouterr().out
    assert "Event 2 differs in its request" in out and "system prompt" in out


def test_replay_of_a_run_with_helpers_and_of_one_that_never_began(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--run-dir", str(home / "runs")]
    folder = home / "runs" / "20260101-000000-aa"
    with Log.create(folder) as log:
        log.append(RunStarted(run=folder.name, question=ASKED, tools=("calculator", "ask_agent")))
        task = call(("ask_agent", '{"task": "Six times seven?"}'))
        ways = ScriptedProvider([lambda m: say("42") if m[0].content != ASKED else task, say("It is 42.")])
        asyncio.run(loop_for(log, ways, lambda _: {"calculator": calculator}).run())
    assert run(["runs", "replay", "last", *where]) == 0
    (empty := home / "runs" / "20260102-000000-aa").mkdir()
    (empty / "log.jsonl").touch()
    assert run(["runs", "replay", "last", *where]) == 2
    assert "stopped before it began" in capsys.readouterr().err


def test_more_budget_opens_a_run_that_its_budget_ended(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--run-dir", str(home / "runs")]
    assert run(["ask", "Which of Kenya and Ghana has more people?", "--steps", "1", *where]) == 0
    assert "budget" in capsys.readouterr().err
    assert run(["runs", "resume", "last", *where]) == 0  # gives what there is
    capsys.readouterr()
    assert run(["runs", "resume", "last", "--steps", "20", *where]) == 0
    assert "Kenya" in capsys.readouterr().out  # the embedded model is told its question again: it reads no other word
    events = [event.type for event in read(next((home / "runs").iterdir()))]
    assert events.count("budget.raised") == 1 and events[-1] == "run.finished"


# Memory.


def test_memory_finds_earlier_answers_and_nothing_private(tmp_path: Path, home: Path) -> None:
    runs = tmp_path / "runs"
    record(runs / "a", say("It has twelve apple trees."), question="What is in the garden?")
    record(runs / "b", say("The garden gate code is 4711."), question="Garden secrets?", setup={"private": True})
    record(runs / "c", say("Kenya."), question="Which country?", more="And the garden of it?")
    remember = memory_tool(runs / "now")
    result = asyncio.run(remember.run('{"query": "garden trees"}')).content
    assert "twelve apple trees" in result and "4711" not in result and "Which country" not in result.split("(c")[0]
    assert "And the garden of it?" in result
    assert search(runs, "submarine") == "No earlier run fits."
    record(runs / "d", say("A yellow one."), question="Which submarine?")
    assert "A yellow one." in search(runs, "submarine")
    assert search(runs, "submarine", without="d") == "No earlier run fits."
    assert asyncio.run(remember.run('{"query": "???"}')).is_error


def test_memory_of_a_run_within_a_run_is_that_of_the_whole(tmp_path: Path, home: Path) -> None:
    record(tmp_path / "a", say("It has twelve apple trees."), question="What is in the garden?")
    record(tmp_path / "now", say("Two pear trees."), question="Garden now?")
    record(tmp_path / "now/paths/1", say("Three plum trees."), question="Garden now?")
    for name in ("now/paths/2", "now/paths/1/children/1", "now/merge"):
        place, first = tmp_path / name / "workspace", RunStarted(run=name, question="?")
        made = Setup(memory=True).tools(["memory"], None, place, [first])["memory"]
        shown = asyncio.run(made.run('{"query": "garden"}')).content
        assert "apple" in shown and "plum" not in shown and "pear" not in shown


def test_memory_forgets_what_is_gone_or_damaged(tmp_path: Path, home: Path) -> None:
    import shutil

    record(tmp_path / "a", say("Twelve apple trees."), question="What is in the garden?")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "log.jsonl").write_text("{}\n{}\n")
    assert "Twelve" in search(tmp_path, "garden")
    shutil.rmtree(tmp_path / "a")
    assert search(tmp_path, "garden") == "No earlier run fits."
