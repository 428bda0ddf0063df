from __future__ import annotations

import random
from dataclasses import replace

import pytest

from openk2.bench.parser_fuzz import measure
from openk2.chat.messages import Message, ToolCall
from openk2.chat.parser import Parser, call_name
from openk2.chat.template import sampled
from openk2.chat.tokenizer import Tokenizer
from openk2.paths import NANO

WORDS = ["Kenya", " the", "\n", '"', "{", "</think>", "<|im_end|>", "漢字", "😀", "é", " 12_345", "functions.x:0", "\\"]


def random_message(rng: random.Random) -> Message:
    def text(most: int) -> str:
        return "".join(rng.choices(WORDS, k=rng.randrange(most)))

    calls = tuple(
        ToolCall(f"functions.{name}:{i}", name, text(8) or "{}")
        for i, name in enumerate(rng.choices(["python", "search", "a-b.c"], k=rng.randrange(4)))
    )
    return Message("assistant", text(12), reasoning=text(12), tool_calls=calls)


def test_rendered_messages_come_back(tok: Tokenizer) -> None:
    rng = random.Random(1)
    for _ in range(200):
        message = random_message(rng)
        ids = sampled(tok, message)
        parser = Parser(tok)
        pieces = [piece for token in ids for piece in parser.feed(token)]
        assert parser.ended
        assert parser.finish() == replace(message, token_ids=tuple(ids))
        for kind, whole in (("reasoning", message.reasoning), ("content", message.content)):
            assert "".join(p.text for p in pieces if p.kind == kind) == whole
        assert "".join(p.text for p in pieces if p.kind == "call_arguments") == "".join(
            call.arguments for call in message.tool_calls
        )


def test_any_split_into_tokens_gives_the_same_message(tok: Tokenizer) -> None:
    """A model may sample other tokens than the tokenizer would choose, down to single bytes of a character."""
    rng = random.Random(2)
    byte_ids = {tok.decode_bytes([i]): i for i in range(256)}
    for _ in range(50):
        message = random_message(rng)
        ids: list[int] = []
        for token in sampled(tok, message):
            split = not tok.is_special(token) and rng.random() < 0.5
            ids += [byte_ids[bytes([b])] for b in tok.decode_bytes([token])] if split else [token]
        parser = Parser(tok)
        for token in ids:
            for piece in parser.feed(token):
                assert "\ufffd" not in piece.text
        assert replace(parser.finish(), token_ids=()) == message


def parse(tok: Tokenizer, *parts: str) -> Message:
    parser = Parser(tok)
    for part in parts:
        for token in [tok.special[part]] if part in tok.special else tok.encode(part):
            parser.feed(token)
    return parser.finish()


def test_a_tool_section_inside_thinking_ends_it(tok: Tokenizer) -> None:
    message = parse(
        tok, "<think>", "I search", "<|tool_calls_section_begin|>", "<|tool_call_begin|>", "functions.search:0",
        "<|tool_call_argument_begin|>", "{}", "<|tool_call_end|>", "<|tool_calls_section_end|>", "<|im_end|>",
    )  # fmt: skip
    assert (message.reasoning, message.content) == ("I search", "")
    assert message.tool_calls == (ToolCall("functions.search:0", "search", "{}"),)


def test_malformed_sections_come_back_as_calls(tok: Tokenizer) -> None:
    no_markers = parse(tok, "</think>", "<|tool_calls_section_begin|>", "search Kenya", "<|im_end|>")
    assert no_markers.tool_calls == (ToolCall("search Kenya", "search Kenya", ""),)
    cut_off = parse(tok, "<|tool_call_begin|>", "functions.python:1", "<|tool_call_argument_begin|>", '{"co')
    assert cut_off.tool_calls == (ToolCall("functions.python:1", "python", '{"co'),)
    empty = parse(tok, "x", "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|im_end|>")
    assert (empty.content, empty.tool_calls) == ("x", ())


def test_text_between_calls_is_content(tok: Tokenizer) -> None:
    call = ("<|tool_call_begin|>", "functions.search:0", "<|tool_call_argument_begin|>", "{}", "<|tool_call_end|>")
    between = parse(
        tok, "a", "<|tool_calls_section_begin|>", *call, "\n", *call, " b", "<|tool_calls_section_end|>", "c"
    )
    assert between.content == "a bc"
    assert between.tool_calls == (ToolCall("functions.search:0", "search", "{}"),) * 2
    cut_off = parse(tok, "<|tool_calls_section_begin|>", *call, " b")
    assert (cut_off.content, len(cut_off.tool_calls)) == (" b", 1)


def test_a_call_whose_begin_is_missing(tok: Tokenizer) -> None:
    """Behind a call, an id without its marker is told from text by the marker of the arguments."""
    call = ("functions.search:0", "<|tool_call_argument_begin|>", "{}", "<|tool_call_end|>")
    message = parse(tok, "<|tool_calls_section_begin|>", "<|tool_call_begin|>", *call, "\n", *call, "<|im_end|>")
    assert message.tool_calls == (ToolCall("functions.search:0", "search", "{}"),) * 2
    assert message.content == ""


def test_thinking_that_the_prompt_opened(tok: Tokenizer) -> None:
    for opening in ([], [tok.special["<think>"]]):
        parser = Parser(tok, thinking=True)
        assert parser.thinking
        for token in [*opening, *tok.encode("so"), tok.special["</think>"], *tok.encode("Hi")]:
            parser.feed(token)
        assert (parser.finish().reasoning, parser.finish().content) == ("so", "Hi")


@pytest.mark.parametrize("parser", ["ids", "text"])
def test_random_and_mutated_sequences(parser: str) -> None:
    """`k2 bench parser` runs ten million of them; here a few."""
    if not NANO.exists():
        pytest.skip("the embedded weights are not in this checkout")
    count = 4000 if parser == "ids" else 1000
    report = measure(count, 7, parser)
    assert not report.failed, report.notes
    (row,) = report.rows
    assert row["sequences"] == count and row["calls"] > 100
    assert not (row["exceptions"] or row["invented_calls"] or row["lost_text"] or row["other_findings"])


def test_no_thinking_unfinished_thinking_and_what_follows_the_end(tok: Tokenizer) -> None:
    assert parse(tok, "Hi", "<|im_end|>", "more").content == "Hi"
    assert parse(tok, "Hi").reasoning is None
    assert parse(tok, "<think>", "so").reasoning == "so"
    parser = Parser(tok)
    parser.feed(tok.special["<|im_end|>"])
    assert parser.feed(tok.encode("x")[0]) == []
    assert parser.finish().token_ids == (tok.special["<|im_end|>"],)


def test_other_specials_leave_no_text(tok: Tokenizer) -> None:
    assert parse(tok, "a", "<|im_user|>", "b", "<|im_end|>").content == "ab"


def test_half_a_character_at_the_end(tok: Tokenizer) -> None:
    parser = Parser(tok)
    byte_ids = {tok.decode_bytes([i]): i for i in range(256)}
    assert parser.feed(byte_ids[b"\xe6"]) == []
    assert parser.finish().content == "\ufffd"


def test_call_names() -> None:
    cases = {"functions.search:0": "search", " functions.a-b.c:12 ": "a-b.c", "search:3": "search", "search": "search"}
    for call_id, name in cases.items():
        assert call_name(call_id) == name
