from __future__ import annotations

import json
import random
import time
from dataclasses import replace

import pytest

from openk2.chat.json_text import JsonText
from openk2.chat.messages import Message, ToolCall
from openk2.chat.parser import Parser, Piece
from openk2.chat.template import sampled
from openk2.chat.text_parser import BEGIN_ARGUMENTS, MARKERS, TextParser
from openk2.chat.tokenizer import Tokenizer

from conversations import NAMES, PLAIN, text  # isort: skip

S, s = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
C, A, c = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"
END = "<|im_end|>"


def parse(*texts: str, thinking: bool = False, calls: bool = True) -> tuple[Message, list[Piece]]:
    parser = TextParser(thinking=thinking, calls=calls)
    pieces = [piece for text in texts for piece in parser.feed(text)]
    message = parser.finish()
    return message, pieces + parser.finished


def say(message: Message) -> tuple[str | None, str, list[tuple[str, str, str]]]:
    return message.reasoning, message.content, [(call.id, call.name, call.arguments) for call in message.tool_calls]


X = ("functions.x:0", "x", "{}")
CASES: dict[str, tuple[str, tuple[str | None, str, list[tuple[str, str, str]]]]] = {
    "an answer": ("Hi there", (None, "Hi there", [])),
    "nothing": ("", (None, "", [])),
    "thinking and an answer": ("<think>so</think>Hi\n", ("so", "Hi\n", [])),
    "blanks before thinking": ("\n <think>so</think>Hi", ("so", "Hi", [])),
    "thinking that does not end": ("<think>so", ("so", "", [])),
    "empty thinking": ("<think></think>Hi", ("", "Hi", [])),
    "think in the middle": ("I use <think> and </think> tags", (None, "I use <think> and </think> tags", [])),
    "a second end of thinking": ("<think>a</think>b</think>c", ("a", "b</think>c", [])),
    "the end marker": (f"Hi{END}\n", (None, "Hi", [])),
    "an end marker in a sentence": (f"Write {END} last.", (None, f"Write {END} last.", [])),
    "a call": (f"{S}{C}functions.x:0{A}{{}}{c}{s}", (None, "", [X])),
    "a call and the end": (f"<think>so</think>I look.{S}{C}functions.x:0{A}{{}}{c}{s}{END}", ("so", "I look.", [X])),
    "a section inside thinking": (f"<think>so {S}{C}functions.x:0{A}{{}}{c}{s}", ("so ", "", [X])),
    "thinking closed behind the section": (
        f"<think>so{S}{C}functions.x:0{A}{{}}{c}{s}</think>Wait.", ("so", "Wait.", [X]),
    ),
    "a section quoted in thinking": (f"<think>I write {S} first</think>x", (f"I write {S} first", "x", [])),
    "blanks everywhere": (
        f"Hi\n{S}\n {C} functions.x:0 \n{A} {{}} {c}\n\n{s}\n", (None, "Hi\n\n", [("functions.x:0", "x", " {} ")]),
    ),
    "the singular section": (f"{S.replace('calls', 'call')}{C}functions.x:0{A}{{}}{c}{s.replace('calls', 'call')}",
                             (None, "", [X])),
    "two calls": (
        f"{S}{C}functions.x:0{A}{{}}{c}{C}functions.y:1{A}[1]{c}{s}",
        (None, "", [X, ("functions.y:1", "y", "[1]")]),
    ),
    "two sections": (
        f"a{S}{C}functions.x:0{A}{{}}{c}{s}b{S}{C}functions.x:1{A}{{}}{c}{s}c",
        (None, "abc", [X, ("functions.x:1", "x", "{}")]),
    ),
    "text behind a section": (f"{S}{C}functions.x:0{A}{{}}{c}{s} Done.", (None, " Done.", [X])),
    "text between calls": (
        f"{S}{C}functions.x:0{A}{{}}{c} and {C}functions.x:1{A}{{}}{c}{s}",
        (None, " and ", [X, ("functions.x:1", "x", "{}")]),
    ),
    "no end of the call": (f"{S}{C}functions.x:0{A}{{}}{s}ok", (None, "ok", [X])),
    "no end of the call before the next": (
        f"{S}{C}functions.x:0{A}{{}}{C}functions.x:1{A}{{}}{c}{s}", (None, "", [X, ("functions.x:1", "x", "{}")]),
    ),
    "no end at all": (f"{S}{C}functions.x:0{A}{{}}", (None, "", [X])),
    "no end at all, then words": (f"{S}{C}functions.x:0{A}{{}}\nI wait.", (None, "\nI wait.", [X])),
    "cut off": (f'{S}{C}functions.x:0{A}{{"co', (None, "", [("functions.x:0", "x", '{"co')])),
    "no section": (f"{C}functions.x:0{A}{{}}{c}", (None, "", [X])),
    "only the end of a section": (f"{C}functions.x:0{A}{{}}{c}{s} b", (None, " b", [X])),
    "the end of a section in a sentence": (f"{s} ends it", (None, f"{s} ends it", [])),
    "no prefix": (f"{S}{C}x:0{A}{{}}{c}{s}", (None, "", [("x:0", "x", "{}")])),
    "no index": (f"{S}{C}functions.x{A}{{}}{c}{s}", (None, "", [("functions.x", "x", "{}")])),
    "a name alone": (f"{S}{C}x{A} {{}}{c}{s}", (None, "", [("x", "x", " {}")])),
    "dots and dashes": (f"{C}functions.a-b.c_d:12{A}1{c}{s}", (None, "", [("functions.a-b.c_d:12", "a-b.c_d", "1")])),
    "not JSON": (f"{S}{C}functions.x:0{A}city: Nairobi{c}{s}", (None, "", [("functions.x:0", "x", "city: Nairobi")])),
    "no arguments": (f"{S}{C}functions.x:0{A}{c}{s}", (None, "", [("functions.x:0", "x", "")])),
    "quotes in quotes": (
        f'{S}{C}functions.x:0{A}{{"a": "\\"{c}\\" \\\\"}}{c}{s}',
        (None, "", [("functions.x:0", "x", f'{{"a": "\\"{c}\\" \\\\"}}')]),
    ),
    "a whole call in a string": (
        f'{S}{C}functions.x:0{A}{{"a": "{S}{C}functions.y:0{A}1{c}{s}"}}{c}{s}',
        (None, "", [("functions.x:0", "x", f'{{"a": "{S}{C}functions.y:0{A}1{c}{s}"}}')]),
    ),
    "a string that does not end": (
        f'{S}{C}functions.x:0{A}{{"a": "b{c}{C}functions.y:1{A}{{"a": 1}}{c}{s}',
        (None, "", [("functions.x:0", "x", '{"a": "b'), ("functions.y:1", "y", '{"a": 1}')]),
    ),
    "a string that does not end, last": (
        f'{S}{C}functions.x:0{A}{{"a": "b{c}{s}Done.', (None, "Done.", [("functions.x:0", "x", '{"a": "b')]),
    ),
    "a section without a call": (f"{S}search Kenya{s}", (None, f"{S}search Kenya{s}", [])),
    "an empty section": (f"x{S}{s}", (None, f"x{S}{s}", [])),
    "a description of the format": (
        f"Each call is {C}{{id}}{A}{{arguments}}{c} inside {S} and {s}.",
        (None, f"Each call is {C}{{id}}{A}{{arguments}}{c} inside {S} and {s}.", []),
    ),
    "a description with names": (f"It is {C}ID{A}ARGUMENTS{c}.", (None, f"It is {C}ID{A}ARGUMENTS{c}.", [])),
    "an id of several words": (f"{S}{C}functions.get the weather:0{A}{{}}{c}{s}",
                               (None, f"{S}{C}functions.get the weather:0{A}{{}}{c}{s}", [])),
    "a marker cut off": ("Hi <|tool_calls_sect", (None, "Hi <|tool_calls_sect", [])),
    "a call cut off before its arguments": (f"Hi{S}{C}functions.x:0", (None, f"Hi{S}{C}functions.x:0", [])),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_cases(name: str) -> None:
    given, expected = CASES[name]
    assert say(parse(given)[0]) == expected


@pytest.mark.parametrize("name", CASES)
def test_any_cut_gives_the_same(name: str) -> None:
    given, expected = CASES[name]
    for cut in range(len(given) + 1):
        assert say(parse(given[:cut], given[cut:])[0]) == expected
    message, pieces = parse(*given)
    assert say(message) == expected
    assert_told(message, pieces)


def assert_told(message: Message, pieces: list[Piece]) -> None:
    """The pieces are the message."""
    told = {kind: "".join(p.text for p in pieces if p.kind == kind) for kind in ("reasoning", "content")}
    assert (told["reasoning"], told["content"]) == (message.reasoning or "", message.content)
    assert [p.text for p in pieces if p.kind == "call_id"] == [call.id for call in message.tool_calls]
    assert [p.text for p in pieces if p.kind == "call_arguments"] == [call.arguments for call in message.tool_calls]


def test_text_is_told_as_soon_as_it_is_certain() -> None:
    parser = TextParser()
    told = ["".join(p.text for p in parser.feed(char)) for char in "<think>ab < c</think>d<|tool e"]
    assert "".join(told) == "ab < cd<|tool e"
    assert told[7:9] == ["a", "b"]
    assert told[-1] == "<|tool e"[2:] or told[-2:] == ["<|tool ", "e"]


def test_arguments_of_any_length() -> None:
    arguments = json.dumps({"path": "a.py", "content": "print('<|tool_call_end|>')\n" * 8_000})
    given = f"<think>I write it{S}{C}functions.write_file:3{A}{arguments}{c}{s}"
    for size in (5, 1000, len(given)):
        message = parse(*(given[i : i + size] for i in range(0, len(given), size)))[0]
        assert say(message) == ("I write it", "", [("functions.write_file:3", "write_file", arguments)])


def test_thinking_that_the_prompt_opened() -> None:
    assert say(parse("so</think>Hi", thinking=True)[0]) == ("so", "Hi", [])
    assert say(parse("<think>so</think>Hi", thinking=True)[0]) == ("so", "Hi", [])
    assert say(parse(f"so{S}{C}functions.x:0{A}{{}}{c}", thinking=True)[0]) == ("so", "", [X])


def test_without_tools_everything_is_prose() -> None:
    given = f"{S}{C}functions.x:0{A}{{}}{c}{s}"
    assert say(parse(f"<think>a</think>{given}", calls=False)[0]) == ("a", given, [])


def test_it_reads_what_the_id_parser_reads(tok: Tokenizer) -> None:
    rng = random.Random(1)
    for _ in range(200):
        calls = tuple(
            ToolCall(f"functions.{name}:{i}", name, json.dumps({"a": text(rng, 6, PLAIN)}, ensure_ascii=False))
            for i, name in enumerate(rng.choices(NAMES, k=rng.randrange(4)))
        )
        message = Message("assistant", text(rng, 6, PLAIN), text(rng, 6, PLAIN), calls)
        ids = sampled(tok, message)
        parser = Parser(tok)
        for token in ids:
            parser.feed(token)
        assert parse(tok.decode(ids))[0] == replace(parser.finish(), token_ids=()) == message


def test_random_texts_in_random_cuts() -> None:
    """No exception, nothing lost, no dependence on the cuts; no call where no arguments begin."""
    rng = random.Random(2)
    fragments = [
        *MARKERS, *MARKERS, "functions.x:0", "functions.", "x", ":1", "{", "}", '"', '{"a": "', '"}', "\\", " ", "\n",
        "<", "<|", "tool_call_begin|>", "null", "1", ",",
    ]  # fmt: skip
    begun = [f"{C}functions.x:0{A}", f'{S}{C} y:1 {A}{{"a": "', f"{S}\n{C}z{A}{{}}"] * 3
    called = 0
    for i in range(3000):
        known = [*fragments, *begun] if i % 2 else [f for f in fragments if f != BEGIN_ARGUMENTS]
        parts = rng.choices(known, k=rng.randint(1, 25))
        words = [f"w{n}w" for n in range(rng.randrange(4))]
        for word in words:
            parts.insert(rng.randrange(len(parts) + 1), word)
        given = "".join(parts)
        whole, pieces = parse(given)
        assert_told(whole, pieces)
        cuts = sorted(rng.sample(range(len(given) + 1), min(len(given), rng.randint(0, 6))))
        assert parse(*(given[a:b] for a, b in zip([0, *cuts], [*cuts, len(given)], strict=True)))[0] == whole
        said = "".join(piece.text for piece in pieces)
        for word in words:
            assert said.count(word) == given.count(word)
        assert len("".join(given.split())) >= len("".join(said.split()))
        called += bool(whole.tool_calls)
        if not i % 2:
            assert whole.tool_calls == ()
            if not given.lstrip().startswith("<think>") and not given.rstrip().endswith(END):
                assert whole.content == given
    assert called > 100


@pytest.mark.parametrize(
    ("before", "again", "after"),
    [
        ("", C, ""), (f'{S}{C}functions.x:0{A}{{"a": "', "x" * 30, f'"}}{c}'), (f'{C}functions.x:0{A}{{"a', c, ""),
        ("", f'{C}functions.x:0{A}{{"', ""), ("", f'{C}functions.x:0{A}{{":"', ""),
        ("", f"{C}functions.x:0{A}{{}}{c}\n", ""), ("", END, ""), ("", "<" * 30, ""),
        (f'{C}functions.x:0{A}{{"', "\\" * 30, c), ("", f"{S} ", ""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [7, 1 << 30])
def test_time_grows_with_the_text(before: str, again: str, after: str, size: int) -> None:
    def seconds(characters: int) -> float:
        given = before + again * (characters // len(again)) + after
        cuts = [given[i : i + size] for i in range(0, len(given), size)]
        start = time.process_time()
        parse(*cuts)
        return time.process_time() - start

    small = min(seconds(3_000) for _ in range(3))
    large = min(seconds(24_000) for _ in range(3))  # the least of several: one may hold a garbage collection
    assert large < 40 * small + 0.02  # eight times the text; squared would be 64 times the seconds


def test_json_text() -> None:
    """Against the standard library, in any cuts."""
    rng = random.Random(3)
    complete = 0
    for _ in range(4000):
        nested = {"a": [1, -2.5e3, None, {"b": 'x\\"y', "ä": []}], "": True}
        value = rng.choice((nested, [], "x", 7, {}, [[1], {"a": {}}]))
        given = list(json.dumps(value, ensure_ascii=False))
        for _ in range(rng.choice((0, 0, 1, 2))):
            at = rng.randrange(len(given) + 1)
            given[at : at + rng.randrange(2)] = rng.choice(('"', "{", "}", ",", ":", "\\", " ", "1", "x", ""))
        written = "".join(given)
        state = JsonText()
        cut = rng.randrange(len(written) + 1)
        state.feed(written[:cut])
        state.feed(written[cut:] + "\n")
        try:
            json.loads(written, strict=False)
        except ValueError as error:
            assert state.invalid or state.end is None or "escape" in str(error)  # where strings end is all we ask
        else:
            assert not state.invalid and not state.in_string
            assert state.end == len(written.rstrip())
            complete += 1
    assert complete > 1000
