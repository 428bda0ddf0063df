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

COUNT = 15
_ID = re.compile(r"\b[a-z]{1,4}-[0-9a-f]{6}\b")
Answer = Callable[[list[dict[str, Any]]], dict[str, Any]]  # the conversation of a request -> the assistant message


class Policies:
    """Small models that know the planner's trajectory of each task, as others know a recipe, and do it call by call
    with ids of their own: they read the results, find in them what the recipe calls otherwise, and call again where a
    service was busy.
    """

    def __init__(self, worlds: str) -> None:
        order = Planned(worlds, COUNT, 3)
        found = [solved(library(worlds), order, n)[0] for n in range(COUNT)]
        self.recipes = {_key(each[2]["messages"]): each[2]["messages"] for each in found if each}

    def good(self, said: list[dict[str, Any]]) -> dict[str, Any]:
        recipe, own = _steps(self.recipes[_key(said)]), _steps(said)
        text = json.dumps(recipe[len(own)][0])
        for (_, old), (_, new) in zip(recipe, own, strict=False):
            for a, b in zip(_ID.findall(old), _ID.findall(new), strict=False):
                text = text.replace(a, b)
        return _again(json.loads(text), len(said))

    def guesses(self, said: list[dict[str, Any]]) -> dict[str, Any]:
        made = self.good(said)
        for call in made.get("tool_calls", ()):
            call["function"]["arguments"] = _ID.sub("x-c0ffee", call["function"]["arguments"])
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


def _steps(messages: list[dict[str, Any]]) -> list[tuple[dict[str, Any], str]]:
    """(assistant message with one call or a text, what followed) of each step that was not in vain."""
    results = {m["tool_call_id"]: m["content"] for m in messages if m["role"] == "tool"}
    out = []
    for m, after in zip(messages, [*messages[1:], {"content": ""}], strict=True):
        if m["role"] == "assistant" and not m.get("tool_calls"):
            out.append((m, after["content"]))
        for call in m.get("tool_calls") or ():
            if not any(busy in results[call["id"]] for busy in ("for a moment; try again", "Too many calls; try")):
                out.append((m | {"tool_calls": [call]}, results[call["id"]]))
    return out


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


def order(worlds: str, out: Path, server: StubServer, calls: int | None = None) -> Order:
    asking = Asking(connect("stub", server.url), calls=calls, at_once=5, say=lambda line: None)
    out.mkdir(exist_ok=True)
    return Order(worlds, COUNT, 3, size=6, folder=str(out), keep_refused=True, asking=asking)


def test_what_is_done_rightly_is_kept_and_true(worlds: str, policies: Policies, tmp_path: Path) -> None:
    with StubServer(served(policies.good)) as server:
        manifest = make(order(worlds, tmp_path / "out", server))
    assert manifest["model"] == {"name": "stub"} and manifest["records"] >= 0.9 * COUNT
    opened = Library(Path(worlds))
    records = list(read_records(tmp_path / "out"))
    assert len(records) == manifest["records"]
    for record in records:
        assert problems(record, opened.of(record)) == []
        ids = [call["id"] for m in record["messages"] for call in m.get("tool_calls", ())]
        assert ids == [f"functions.{i.split('.')[1].split(':')[0]}:{n}" for n, i in enumerate(ids)]
        assert any(m.get("reasoning_content") for m in record["messages"])
        replies = sum(m["role"] == "assistant" for m in record["messages"])
        assert record["proof"]["model"]["usage"]["completion"] == 10 * replies
    assert not list((tmp_path / "out").glob("dialogues-*"))


@pytest.mark.parametrize(
    ("policy", "why"),
    [("guesses", "KnownIds"), ("claims", ""), ("scribbles", "OwnTools"), ("circles", "too many calls"),
     ("is_silent", "neither an answer nor a call")],
)  # fmt: skip
def test_what_is_done_wrongly_is_refused_with_its_reason(
    worlds: str, policies: Policies, tmp_path: Path, policy: str, why: str
) -> None:
    with StubServer(served(getattr(policies, policy))) as server:
        manifest = make(order(worlds, tmp_path / "out", server, calls=8))
    refused = list(read_records(tmp_path / "out" / "refused"))
    kept = [r for r in read_records(tmp_path / "out") if policy != "guesses" or "x-c0ffee" in json.dumps(r)]
    assert kept == [] and manifest["records"] + len(refused) == COUNT
    assert sum(n for shard in manifest["shards"] for n in shard["dropped"].values()) == len(refused)
    assert sum(why in " ".join(record["failed"]) for record in refused) >= 0.8 * len(refused)
    assert all(0 <= record["score"] <= 1 and record["proof"]["rubric"] for record in refused)


def test_a_run_that_breaks_goes_on_where_it_was(worlds: str, policies: Policies, tmp_path: Path) -> None:
    good = served(policies.good)
    with StubServer(good) as server:
        make(order(worlds, tmp_path / "whole", server))

    def breaks(server: StubServer, request: dict[str, Any]) -> Any:
        n = len(server.requests)
        if n == 3:
            return 429, '{"error": {"message": "slow down"}}', {"Retry-After": "0"}
        return (401, '{"error": {"message": "the key ended"}}') if n > 30 else good(server, request)

    with StubServer(breaks) as server, pytest.raises(UserError, match="key"):
        make(order(worlds, tmp_path / "broken", server))
    journals = sorted((tmp_path / "broken").glob("dialogues-*"))
    ended = {_key(json.loads(line)["messages"]) for file in journals for line in file.read_bytes().splitlines()}
    assert ended
    with journals[-1].open("ab") as file:
        file.write(b'{"n": 7, "messa')  # killed while writing

    def stops(server: StubServer, request: dict[str, Any]) -> Any:
        if len(server.requests) == 30:
            os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C
        return good(server, request)

    with StubServer(stops) as first, pytest.raises(KeyboardInterrupt):
        make(order(worlds, tmp_path / "broken", first))
    with StubServer(good) as second:
        make(order(worlds, tmp_path / "broken", second))
    assert not ended & {_key(request["messages"]) for request in first.requests + second.requests}
    for name in ("part-00000.jsonl.gz", "part-00001.jsonl.gz", "part-00002.jsonl.gz"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_command_line_asks_a_model(
    worlds: str, policies: Policies, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["synth", "dialogues", "--worlds", worlds, "--out", str(tmp_path / "out"), "--count", "6", "--seed", "3"]
    with StubServer(served(policies.good)) as server:
        asked = ["--model", "stub", "--base-url", server.url, "--temperature", "0.5", "--tries", "2"]
        assert run([*command, *asked]) == 0
        assert server.requests[0]["temperature"] == 0.5
        assert len({request["seed"] for request in server.requests}) == 6
    tasks = {record["n"]: _key(record["messages"]) for record in read_records(tmp_path / "out")}
    assert len(tasks) >= 5 and len(set(tasks.values())) == 3
    assert all(tasks[n] == tasks[n + 1] for n in (0, 2, 4) if n in tasks and n + 1 in tasks)
    assert "of 6 dialogues kept" in capsys.readouterr().out
    assert run(["synth", "verify", str(tmp_path / "out"), "--worlds", worlds]) == 0
    assert run([*command, "--model", "nowhere"]) != 0 and "--base-url" in capsys.readouterr().err
