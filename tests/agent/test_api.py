"""The Python API: `Agent`, its answers, streams, conversations and types."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from stub_server import said  # type: ignore[import-not-found]

from openk2 import Agent, Answer, Tool, UserError, tool
from openk2.agent.calls import REFUSED
from openk2.agent.events import Approval, ReplyReceived, RunFinished, RunStarted, RunStopped, ToolFinished, ToolStarted
from openk2.agent.log import folders, read
from openk2.providers.base import Delta
from openk2.providers.scripted import ScriptedProvider, Step, call, say


def double(n: int) -> int:
    """Twice a number.

    Args:
        n: The number.
    """
    return 2 * n


@tool(needs_approval=True)
def send(text: str) -> str:
    """Send a text to a friend."""
    return f"sent {text}"


def agent(tmp_path: Path, *steps: Step, **settings: Any) -> Agent:
    settings = {"tools": [double], **settings}
    return Agent(provider=ScriptedProvider(list(steps)), run_dir=tmp_path / "runs", **settings)


DOUBLED = (call(("double", '{"n": 21}'), reasoning="Twice 21."), say("It is 42.", "So."))


def test_an_answer_and_its_run(tmp_path: Path) -> None:
    with agent(tmp_path, *DOUBLED) as asked:
        answer = asked.run("What is twice 21?")
    assert isinstance(answer, Answer)
    assert (answer.text, str(answer), answer.reason, answer.steps) == ("It is 42.", "It is 42.", "stop", 2)
    assert answer.folder == tmp_path / "runs" / answer.run and answer.usage.completion > 0
    assert [m.role for m in answer.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert answer.messages[3].content == "42"


def test_a_plain_function_becomes_a_tool_with_its_words() -> None:
    made = Agent(tools=[double, send, "calculator"])
    assert isinstance(made._own["double"], Tool)
    assert made._own["double"].description == "Twice a number."
    assert made._own["double"].parameters["properties"]["n"]["description"] == "The number."


def test_documents_and_the_embedded_model(tmp_path: Path, home: Path) -> None:
    (tmp_path / "notes.txt").write_text("The garden has twelve apple trees.\n")
    with Agent(docs=[tmp_path / "notes.txt"]) as asked:
        answer = asked.run("What do my notes say about the garden?")
    assert "twelve" in answer.text and answer.sources[0].text == "The garden has twelve apple trees."


def test_stream(tmp_path: Path) -> None:
    with agent(tmp_path, *DOUBLED) as asked:
        kinds = [type(item) for item in asked.stream("What is twice 21?")]
    assert kinds[0] is RunStarted and kinds[-1] is RunFinished
    wanted = [Delta, ReplyReceived, ToolStarted, ToolFinished, Delta, ReplyReceived]
    assert [kind for kind in kinds if kind in wanted and kind is not Delta] == [w for w in wanted if w is not Delta]


def test_a_stream_that_is_left_stops_its_run_and_can_be_resumed(tmp_path: Path) -> None:
    @tool(idempotent=True)
    async def double(n: int) -> int:
        """Twice a number, slowly."""
        await asyncio.sleep(0.3)
        return 2 * n

    with agent(tmp_path, *DOUBLED, tools=[double]) as asked:
        for item in asked.stream("What is twice 21?"):
            if isinstance(item, ToolStarted):
                break
        folder = next(folders(asked.root))
        assert isinstance(read(folder)[-1], RunStopped)
        assert asked.resume(folder.name).text == "It is 42."
        assert asked.resume(folder).text == "It is 42."


def test_inside_an_event_loop(tmp_path: Path) -> None:
    """Where a loop runs already, as in a notebook, both ways work; and several questions at once."""

    async def main() -> None:
        async with agent(tmp_path, *DOUBLED) as asked:
            assert asked.run("What is twice 21?").text == "It is 42."
            several = await asyncio.gather(*(asked.arun("What is twice 21?") for _ in range(4)))
            assert {answer.text for answer in several} == {"It is 42."} and len({a.run for a in several}) == 4
            kinds = [type(item) async for item in asked.astream("What is twice 21?")]
            assert kinds[-1] is RunFinished
            await asyncio.to_thread(asked.close)

    asyncio.run(main())


def test_async_tools_run_in_the_callers_loop(tmp_path: Path) -> None:
    async def main() -> None:
        here = asyncio.get_running_loop()

        async def where(n: int) -> str:
            """Where it runs."""
            return str(asyncio.get_running_loop() is here)

        asked = agent(tmp_path, call(("where", '{"n": 1}')), say("ok"), tools=[where])
        answer = await asked.arun("Where?")
        assert answer.messages[3].content == "True"

    asyncio.run(main())


@pytest.mark.parametrize("allowed", [True, False])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_approval_by_a_callback(tmp_path: Path, allowed: bool, kind: str) -> None:
    asked_about: list[str] = []

    def approve(made: Any, why: str) -> bool:
        asked_about.append(f"{made.name}: {why}")
        return allowed

    async def approve_later(made: Any, why: str) -> bool:
        return approve(made, why)

    steps = (call(("send", '{"text": "hi"}')), say("ok"))
    with agent(tmp_path, *steps, tools=[send], approve=approve if kind == "sync" else approve_later) as asked:
        answer = asked.run("Send hi.")
    assert asked_about == ["send: send asks before it runs."]
    assert answer.messages[3].content == ("sent hi" if allowed else REFUSED)
    assert [event.allowed for event in read(answer.folder) if isinstance(event, Approval)] == [allowed]


def test_without_a_callback_nothing_is_approved(tmp_path: Path) -> None:
    with agent(tmp_path, call(("send", '{"text": "hi"}')), say("ok"), tools=[send]) as asked:
        assert "nobody can be asked" in asked.run("Send hi.").messages[3].content


def test_a_conversation_is_one_run(tmp_path: Path) -> None:
    steps = (say("One."), say("Two."))
    with agent(tmp_path, *steps) as asked, asked.chat() as chat:
        assert chat.run == ""
        assert chat.say("First?").text == "One."
        second = chat.say("Second?")
    assert second.text == "Two." and second.run == chat.run and second.steps == 1
    assert [m.content for m in second.messages[1:]] == ["First?", "One.", "Second?", "Two."]
    assert len(list(folders(tmp_path / "runs"))) == 1


def test_a_call_of_a_turn_that_failed_is_not_made_in_the_next(tmp_path: Path) -> None:
    words = iter([UserError("Nobody is there."), True])

    def approve(made: Any, why: str) -> bool:
        word = next(words)
        if isinstance(word, UserError):
            raise word
        return word

    steps = (call(("send", '{"text": "hi"}')), say("Another question, then."))
    with agent(tmp_path, *steps, tools=[send], approve=approve) as asked, asked.chat() as chat:
        with pytest.raises(UserError, match="Nobody"):
            chat.say("Send hi.")
        answer = chat.say("What else?")
    assert answer.text == "Another question, then."
    assert not any(isinstance(event, ToolStarted) for event in read(answer.folder))


class City(BaseModel):
    name: str
    people: int


@dataclass
class Pair:
    a: int
    b: int


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (City, '{"name": "Lima", "people": 10}', City(name="Lima", people=10)),
        (City, 'Here it is:\n```json\n{"name": "Lima", "people": 10}\n```\n', City(name="Lima", people=10)),
        (Pair, '{"a": 1, "b": 2}', Pair(1, 2)),
        (list[int], "The list is [1, 2, 3].", [1, 2, 3]),
        (int, "7", 7),
    ],
)
def test_an_answer_of_a_type(tmp_path: Path, kind: Any, text: str, value: Any) -> None:
    with agent(tmp_path, say(text)) as asked:
        answer = asked.run("Which?", output=kind)
    assert answer.output == value
    assert '"type"' in answer.messages[1].content  # the schema


def test_a_wrong_answer_is_sent_back_with_what_is_wrong(tmp_path: Path) -> None:
    with agent(tmp_path, say('{"name": "Lima", "people": "many"}'), say('{"name": "Lima", "people": 10}')) as asked:
        answer = asked.run("Which?", output=City)
    assert answer.output == City(name="Lima", people=10)
    assert "people: Input should be a valid integer" in answer.messages[3].content


def test_an_answer_that_never_fits_is_an_error_and_the_run_is_kept(tmp_path: Path) -> None:
    with agent(tmp_path, *[say("no")] * 5) as asked:
        with pytest.raises(UserError, match=r"no answer of the type .* the run is"):
            asked.run("Which?", output=City, tries=2)
        assert sum(isinstance(event, ReplyReceived) for event in read(next(folders(asked.root)))) == 2


def test_the_embedded_model_has_no_types(home: Path) -> None:
    with pytest.raises(UserError, match="writes no JSON"):
        Agent().run("Which?", output=City)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"docs": ["/nowhere"]}, "There is no file or folder /nowhere"),
        ({"stepps": 3}, "no setting 'stepps'; it has"),
        ({"mode": "hevy"}, "no mode 'hevy'; choose from"),
        ({"steps": 0}, "steps is more than 0"),
        ({"max_cost": -1.0}, "max_cost is more than 0"),
        ({"model": "kimi"}, "There is no model 'kimi'"),
        ({"tools": ["fly"]}, "fly"),
        ({"tools": [lambda x: x]}, "docstring|type"),
    ],
)
def test_what_a_caller_can_mend_is_a_sentence(home: Path, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Agent(**settings).run("Which?")
    with pytest.raises(UserError, match="question is empty"):
        Agent().run(" ")


def test_a_served_model(serve: Any, home: Path) -> None:
    server = serve(lambda *_: said('{"name": "Lima", "people": 10}'))
    with Agent("stub", base_url=server.url, mode="chat", system="Be brief.") as asked:
        assert [asked.run("Which?", output=City).output.name for _ in range(3)] == ["Lima"] * 3
    assert server.requests[0]["messages"][0]["content"] == "Be brief."
    assert json.loads(server.bodies[0])["model"] == "stub"


def test_ctrl_c_stops_the_run_before_it_goes_on(tmp_path: Path) -> None:
    started = threading.Event()

    async def wait(n: int) -> str:
        """Wait."""
        started.set()
        await asyncio.sleep(60)
        return "done"

    program = Agent(provider=ScriptedProvider([call(("wait", '{"n": 1}'))]), tools=[wait], run_dir=tmp_path)

    def interrupt() -> None:
        started.wait(20)
        ident = threading.main_thread().ident
        assert ident is not None
        signal.pthread_kill(ident, signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        program.run("Wait.")
    assert isinstance(read(next(folders(tmp_path)))[-1], RunStopped)
    program.close()


def test_importing_it_is_light() -> None:
    program = "import sys, openk2; openk2.__version__; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.split()
    assert "openk2" in loaded and not {"pydantic", "numpy", "httpx", "asyncio", "openk2.agent"} & set(loaded)
    with pytest.raises(ImportError, match="nothing_such"):
        exec("from openk2 import nothing_such")
