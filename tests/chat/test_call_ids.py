from __future__ import annotations

import random
from dataclasses import replace

from openk2.chat.call_ids import canonical, index_of, next_index
from openk2.chat.messages import Message, ToolCall
from openk2.chat.tokenizer import Tokenizer

from conversations import conversation, spoiled  # isort: skip


def read(messages: list[dict]) -> list[Message]:
    return [Message.from_wire(message) for message in messages]


def called(*ids_and_names: tuple[str, str], token_ids: tuple[int, ...] = ()) -> Message:
    calls = tuple(ToolCall(id, name, "{}") for id, name in ids_and_names)
    return Message("assistant", tool_calls=calls, token_ids=token_ids)


def answered(*results: tuple[str | None, str | None]) -> list[Message]:
    """Results as (id, name); the content tells which is which."""
    return [Message("tool", str(i), tool_call_id=id, name=name) for i, (id, name) in enumerate(results)]


def ids(messages: list[Message]) -> list[str | None]:
    return [c.id for m in messages for c in m.tool_calls] + [m.tool_call_id for m in messages if m.role == "tool"]


def test_ids_of_other_providers_become_canonical() -> None:
    rng = random.Random(1)
    for _ in range(500):
        messages = conversation(rng)
        assert canonical(read(spoiled(rng, messages))) == read(messages)


def test_canonical_conversations_stay_as_they_are() -> None:
    rng = random.Random(2)
    for _ in range(300):
        messages = read(conversation(rng))
        assert canonical(messages) == messages
        assert next_index(messages) == sum(len(m.tool_calls) for m in messages)
        once = canonical(read(spoiled(rng, conversation(rng))))
        assert canonical(once) == once


def test_missing_ids_are_linked_by_name_then_by_order() -> None:
    call = called(("", "a"), ("", "b"), ("", "a"))
    by_name = answered((None, "b"), (None, "a"), (None, "a"))
    assert ids(canonical([call, *by_name]))[3:] == ["functions.b:1", "functions.a:0", "functions.a:2"]
    by_order = answered((None, None), ("", None), ("unheard of", None))
    assert ids(canonical([call, *by_order]))[3:] == ["functions.a:0", "functions.b:1", "functions.a:2"]


def test_a_result_without_id_does_not_take_a_call_that_another_names() -> None:
    assert ids(canonical([called(("x", "a"), ("y", "b")), *answered((None, None), ("x", None))]))[2:] == [
        "functions.b:1",
        "functions.a:0",
    ]


def test_calls_of_one_id() -> None:
    same = canonical([called(("x", "a"), ("x", "b")), *answered(("x", None), ("x", None))])
    assert ids(same) == ["functions.a:0", "functions.b:1"] * 2
    each_turn = [called(("functions.a:0", "a")), *answered(("functions.a:0", None))]
    assert ids(canonical(each_turn * 3)) == [f"functions.a:{i}" for i in range(3)] * 2
    unanswered = [called(("x", "a")), called(("x", "a")), *answered(("x", None))]
    assert ids(canonical(unanswered))[2:] == ["functions.a:1"]


def test_results_that_answer_nothing() -> None:
    twice = canonical([called(("x", "a"), ("y", "b")), *answered(("x", None), ("x", None), ("y", None))])
    assert ids(twice)[2:] == ["functions.a:0", "functions.a:0", "functions.b:1"]
    assert ids(canonical(answered(("lost", None), (None, None)))) == ["lost", None]


def test_names_with_dots_colons_and_digits() -> None:
    names = ["a.b", "functions.a", "a:1", "a:1:2", "ä"]
    calls = canonical([called(*((f"call_{i}", name) for i, name in enumerate(names)))])[0].tool_calls
    assert [c.id for c in calls] == [f"functions.{name}:{i}" for i, name in enumerate(names)]
    assert [index_of(c) for c in calls] == list(range(len(names)))
    for id in ("functions.b:0", "functions.a:", "functions.a:01", "functions.a:-1", "a:0", "functions.a:0 ", ""):
        assert index_of(ToolCall(id, "a", "")) is None


def test_sampled_calls_keep_their_index(small: Tokenizer) -> None:
    """A conversation whose beginning was dropped goes on with the numbers that the sampled ids say."""
    sampled = called(("functions.a:7", "a"), ("functions.b:8", "b"), token_ids=(1,))
    after = [sampled, *answered(("functions.b:8", None)), called(("call_1", "c")), *answered(("call_1", None))]
    assert ids(canonical(after)) == [
        "functions.a:7",
        "functions.b:8",
        "functions.c:9",
        "functions.b:8",
        "functions.c:9",
    ]
    assert next_index(canonical(after)) == 10
    behind = canonical([*after, replace(sampled, tool_calls=(ToolCall("functions.a:0", "a", ""),))])
    assert behind[-1].tool_calls[0].id == "functions.a:10"  # an index used before would name two calls
