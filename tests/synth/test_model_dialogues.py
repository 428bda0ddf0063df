"""A model behind a server is the agent: what it does rightly is kept, what is wrong is refused with the reason."""

from __future__ import annotations

import copy
import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stub_server import StubServer  # type: ignore[import-not-found]

from openk2.cli.main import run
from openk2.errors import UserError
from openk2.providers import connect
from openk2.synth.shards import read_records
from openk2.synth.task.make import Library, library, solved, write_worlds
from openk2.synth.task.make import Order as Planned
from openk2.synth.task.model import Asking, Order, make
from openk2.synth.task.verify import problems
from tests.synth.world_apis import depot_world

COUNT = 24
Answer = Callable[[list[dict[str, Any]]], dict[str, Any]]  # the conversation of a request -> the assistant message


class Policies:
    """Small models that know the planner's trajectory of each task, as others know a recipe, and do it in their own
    words and with their own ids: they read the results, find in them what the recipe calls otherwise, and call again
    where a service was busy.
    """

    def __init__(self, worlds: str) -> None:
        order = Planned(worlds, COUNT, 3)
        found = [solved(library(worlds), order, n)[0] for n in range(COUNT)]
        self.recipes = {_key(each[2]["messages"]): each[2]["messages"] for each in found if each}

    def good(self, said: list[dict[str, Any]]) -> dict[str, Any]:
        steps = _steps(self.recipes[_key(said)])
        if len(said) > 2 and _busy(said[-1]):
            return _again(next(m for m in reversed(said) if m["role"] == "assistant"), len(said))
        own = _steps(said)
        names = {a: b for (_, old), (_, new) in zip(steps, own, strict=False) for a, b in _renamed(old, new)}
        text = json.dumps(steps[len(own)][0])
        for old, new in names.items():
            text = text.replace(old, new)
        return _again(json.loads(text), len(said))

    def guesses(self, said: list[dict[str, Any]]) -> dict[str, Any]:
        made = self.good(said)
        for call in made.get("tool_calls", ()):
            call["function"]["arguments"] = re.sub(
                r"\b([a-z]{1,4})-[0-9a-f]{6}\b", r"\1-c0ffee", call["function"]["arguments"]
            )
        return made

    def claims(self, said: list[dict[str, Any]]) -> dict[str, Any]:
        return {"content": "Done, as you asked."}

    def scribbles(self, said: list[dict[str, Any]]) -> dict[str, Any]:
        made = self.good(said)
        for call in made.get("tool_calls", ()):
            call["function"]["arguments"] = call["function"]["arguments"][:-1] + ","
        return made

    def circles(self, said: list[dict[str, Any]]) -> dict[str, Any]:
        made = next(m for m in self.recipes[_key(said)] if m.get("tool_calls"))
        return _again(made, len(said))

    def is_silent(self, said: list[dict[str, Any]]) -> dict[str, Any]:
        return {"content": "", "reasoning_content": "Well."}


def _key(messages: list[dict[str, Any]]) -> str:
    return messages[0]["content"] + messages[1]["content"]


def _busy(message: dict[str, Any]) -> bool:
    return message["role"] == "tool" and any(w in message["content"] for w in ("ServiceUnavailable", "TooManyRequests"))


def _steps(messages: list[dict[str, Any]]) -> list[tuple[dict[str, Any], str]]:
    """(assistant message, its result) of each step that was not in vain."""
    pairs = zip(messages, [*messages[1:], {"role": "user", "content": ""}], strict=True)
    return [(m, after["content"]) for m, after in pairs if m["role"] == "assistant" and not _busy(after)]


def _renamed(old: str, new: str) -> list[tuple[str, str]]:
    ids = r"\b[a-z]{1,4}-[0-9a-f]{6}\b"
    return [(a, b) for a, b in zip(re.findall(ids, old), re.findall(ids, new), strict=False) if a != b]


def _again(message: dict[str, Any], place: int) -> dict[str, Any]:
    made = copy.deepcopy({k: v for k, v in message.items() if k != "role"})
    for i, call in enumerate(made.get("tool_calls", ())):
        call["id"] = f"call_{place}_{i}"
    return made


def served(answer: Answer) -> Callable[[StubServer, dict[str, Any]], Any]:
    def reply(server: StubServer, request: dict[str, Any]) -> Any:
        assert {"name", "description", "parameters"} <= request["tools"][0]["function"].keys()
        message = {"role": "assistant", "content": ""} | answer(request["messages"])
        usage = {"prompt_tokens": 100, "completion_tokens": 10}
        return 200, json.dumps({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage})

    return reply


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("worlds")
    write_worlds(folder, (depot_world(seed) for seed in range(4)))
    return str(folder)


@pytest.fixture(scope="module")
def policies(worlds: str) -> Policies:
    return Policies(worlds)


def order(worlds: str, out: Path, server: StubServer) -> Order:
    asking = Asking(connect("stub", server.url), at_once=5, say=lambda line: None)
    out.mkdir(exist_ok=True)
    return Order(worlds, COUNT, 3, size=10, folder=str(out), keep_refused=True, asking=asking)


def test_what_is_done_rightly_is_kept_and_true(worlds: str, policies: Policies, tmp_path: Path) -> None:
    with StubServer(served(policies.good)) as server:
        manifest = make(order(worlds, tmp_path / "out", server))
    assert manifest["model"] == {"name": "stub"} and manifest["records"] >= 0.9 * COUNT
    opened = Library(Path(worlds))
    records = list(read_records(tmp_path / "out"))
    assert len(records) == manifest["records"]
    for record in records:
        assert problems(record, opened.named(record["proof"]["world"])) == []
        ids = [call["id"] for m in record["messages"] for call in m.get("tool_calls", ())]
        assert ids == [f"functions.{i.split('.')[1].split(':')[0]}:{n}" for n, i in enumerate(ids)]
        assert any(m.get("reasoning_content") for m in record["messages"])
        assert record["model"]["usage"]["completion"] == 10 * sum(m["role"] == "assistant" for m in record["messages"])
    assert not list((tmp_path / "out").glob("dialogues-*"))


@pytest.mark.parametrize(
    ("policy", "why"),
    [("guesses", "nobody had shown"), ("claims", ""), ("scribbles", "no JSON object"), ("circles", "too many calls"),
     ("is_silent", "neither an answer nor a call")],
)  # fmt: skip
def test_what_is_done_wrongly_is_refused_with_its_reason(
    worlds: str, policies: Policies, tmp_path: Path, policy: str, why: str
) -> None:
    with StubServer(served(getattr(policies, policy))) as server:
        manifest = make(order(worlds, tmp_path / "out", server))
    refused = list(read_records(tmp_path / "out" / "refused"))
    assert manifest["records"] == 0 and len(refused) == COUNT
    assert sum(n for shard in manifest["shards"] for n in shard["dropped"].values()) == COUNT
    assert sum(why in " ".join(record["failed"]) for record in refused) >= 0.8 * COUNT
    assert all(record["messages"][0]["role"] == "system" for record in refused)


def test_a_run_that_breaks_goes_on_where_it_was(worlds: str, policies: Policies, tmp_path: Path) -> None:
    good = served(policies.good)
    with StubServer(good) as server:
        make(order(worlds, tmp_path / "whole", server))
        in_all = len(server.requests)

    def breaks(server: StubServer, request: dict[str, Any]) -> Any:
        n = len(server.requests)
        if n == 3:
            return 429, '{"error": {"message": "slow down"}}', {"Retry-After": "0"}
        return (401, '{"error": {"message": "the key ended"}}') if n > 40 else good(server, request)

    with StubServer(breaks) as server, pytest.raises(UserError, match="key"):
        make(order(worlds, tmp_path / "broken", server))
    journal = next((tmp_path / "broken").glob("dialogues-*"))
    finished = len(journal.read_bytes().splitlines()) + 10 * len(list((tmp_path / "broken").glob("part-*.json")))
    assert finished >= 4
    with journal.open("ab") as file:
        file.write(b'{"n": 7, "messa')  # killed while writing

    def stops(server: StubServer, request: dict[str, Any]) -> Any:
        if len(server.requests) == 30:
            os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C
        return good(server, request)

    with StubServer(stops) as server, pytest.raises(KeyboardInterrupt):
        make(order(worlds, tmp_path / "broken", server))
    with StubServer(good) as server:
        make(order(worlds, tmp_path / "broken", server))
        assert len(server.requests) < in_all - 40
    for name in ("part-00000.jsonl.gz", "part-00001.jsonl.gz", "part-00002.jsonl.gz"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_command_line_asks_a_model(
    worlds: str, policies: Policies, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["synth", "dialogues", "--worlds", worlds, "--out", str(tmp_path / "out"), "--count", "6", "--seed", "3"]
    with StubServer(served(policies.good)) as server:
        assert run([*command, "--model", "stub", "--base-url", server.url, "--temperature", "0.5"]) == 0
        assert server.requests[0]["temperature"] == 0.5
    assert "of 6 dialogues kept" in capsys.readouterr().out
    assert run(["synth", "verify", str(tmp_path / "out"), "--worlds", worlds]) == 0
    assert run([*command, "--model", "nowhere"]) != 0 and "--base-url" in capsys.readouterr().err
