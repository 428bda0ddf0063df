"""Replies sampled at random through the grammar, checked by an independent validator of JSON Schema."""

from __future__ import annotations

import functools
import ipaddress
import json
import random
import uuid
from collections.abc import Callable, Iterator
from datetime import date, datetime, time
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from jsonschema import validators

import openk2
from openk2.bench.schemas import REFUSED, TAKEN, of, some
from openk2.chat.arguments import Vocabulary
from openk2.chat.grammar import Grammar, Guide
from openk2.chat.messages import Message, ToolSpec
from openk2.chat.parser import Parser
from openk2.chat.tokenizer import Tokenizer
from openk2.errors import UserError

Policy = Callable[[Guide], int]
SEARCH = ToolSpec("search", "", some("query", query={"type": "string"}, k={"type": "integer"}))
PYTHON = ToolSpec("python", "", of(code={"type": "string"}))
STRUCTURE = set('{}[]":,0123456789-. \n')


@functools.cache
def vocabulary_of(tok: Tokenizer) -> Vocabulary:
    return Vocabulary(tok)


@pytest.fixture(scope="module")
def nano() -> Tokenizer:
    """Our small tokenizer."""
    return Tokenizer.load(Path(openk2.__path__[0]) / "weights" / "nano")


@pytest.fixture(params=["nano", "kimi"])
def tok(request: pytest.FixtureRequest) -> Tokenizer:
    if request.param == "nano":
        return request.getfixturevalue("nano")
    return kimi(request.getfixturevalue("kimi_folder"))


@functools.cache
def kimi(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder)


@pytest.fixture
def vocabulary(tok: Tokenizer) -> Vocabulary:
    return vocabulary_of(tok)


class RandomPolicy:
    """Random logits; `structure` is added to ids of brackets, quotes and digits, `markup` to special ids."""

    def __init__(self, tok: Tokenizer, seed: int, structure: float = 0.0, markup: float = 0.0) -> None:
        self._random = random.Random(seed)
        rng = np.random.default_rng(seed)
        self._noise = rng.gumbel(size=2 * tok.n_vocab).astype(np.float32)
        self._added = added_logits(tok) * np.float32(structure)
        self._added[tok.n_base :] += markup

    def __call__(self, guide: Guide) -> int:
        start = self._random.randrange(len(self._added))
        logits = self._noise[start : start + len(self._added)] + self._added
        token = int(logits.argmax())
        return token if guide.allows(token) else int(guide.restrict(logits, token).argmax())


@functools.cache
def added_logits(tok: Tokenizer) -> np.ndarray:
    texts = [tok.decode_bytes([i]).decode("utf-8", "replace") for i in range(tok.n_base)]
    marks = [set(text) <= STRUCTURE for text in texts]
    return np.array(marks + [False] * (tok.n_vocab - tok.n_base), np.float32)


def write(tok: Tokenizer, guide: Guide, policy: Policy, limit: int) -> tuple[Message, list[int], int]:
    """The message a policy writes, its ids and how many of them were forced. It must end within the limit."""
    parser, ids, forced = Parser(tok), [], 0
    while not parser.ended:
        assert len(ids) < limit, f"not ended: {tok.decode(ids)}"
        token = guide.forced()
        forced += token is not None
        if token is None:
            token = policy(guide)
            assert guide.allows(token), f"{token} chosen behind {tok.decode(ids)}"
        guide.accept(token)
        ids.append(token)
        parser.feed(token)
    return parser.finish(), ids, forced


def validator(schema: Any) -> Any:
    """The oracle: exact decimal numbers, formats checked by Python's own readers."""
    exact = json.loads(json.dumps({} if schema is None else schema), parse_float=Decimal)
    kind: Any = jsonschema.Draft202012Validator
    if '"additionalItems"' in json.dumps(schema) or '"items": [' in json.dumps(schema):
        kind = jsonschema.Draft7Validator
    if '"exclusiveMinimum": true' in json.dumps(schema) or '"exclusiveMinimum": false' in json.dumps(schema):
        kind = jsonschema.Draft4Validator
    if isinstance(exact, dict) and str(exact.get("$id", "")).startswith("::"):
        del exact["$id"]
    return validators.extend(kind, {"multipleOf": _multiple_of})(exact, format_checker=FORMATS)


def _multiple_of(_: Any, step: Any, value: Any, __: Any) -> Iterator[jsonschema.ValidationError]:
    if isinstance(value, int | Decimal) and Fraction(value) % Fraction(step):
        yield jsonschema.ValidationError(f"{value} is not a multiple of {step}")


FORMATS = jsonschema.FormatChecker(formats=())
for name, read in {
    "date": date.fromisoformat,
    "time": lambda text: time.fromisoformat(text.upper()),
    "date-time": lambda text: datetime.fromisoformat(text.upper()),
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "uuid": uuid.UUID,
}.items():
    FORMATS.checks(name, raises=ValueError)(
        lambda value, read=read: not isinstance(value, str) or bool(read(value)) or True
    )


def check(message: Message, schema: Any, first: int, name: str = "tool") -> None:
    assert message.tool_calls
    for i, call in enumerate(message.tool_calls):
        assert (call.id, call.name) == (f"functions.{name}:{first + i}", name)
        arguments = json.loads(call.arguments, parse_float=Decimal)
        assert isinstance(arguments, dict)
        validator(schema).validate(arguments)


@pytest.mark.parametrize("case", TAKEN)
def test_every_call_is_valid(case: str, tok: Tokenizer, vocabulary: Vocabulary) -> None:
    """Whatever is sampled, near the token limit and far from it."""
    schema = TAKEN[case]
    grammar = Grammar(vocabulary, [ToolSpec("tool", "", schema)])
    shortest = len(grammar.tools["tool"].least or ()) + 24
    for seed, limit, structure in ((1, shortest, 0.0), (2, shortest + 30, 3.0), (3, shortest + 90, 6.0)):
        guide = grammar.guide(first_index=seed, choice="required", limit=limit)
        policy = RandomPolicy(tok, seed, structure, markup=4.0)
        message, _, _ = write(tok, guide, policy, limit)
        check(message, schema, seed)


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name(case: str, nano: Tokenizer) -> None:
    schema, path, keyword = REFUSED[case]
    with pytest.raises(UserError, match=r"^The tool 'my_tool' has a schema") as error:
        Grammar(vocabulary_of(nano), [ToolSpec("my_tool", "", schema)])
    assert f"{keyword!r} at {path or '/'}:" in str(error.value)


def test_a_tool_that_no_call_can_name(nano: Tokenizer) -> None:
    grammar = functools.partial(Grammar, vocabulary_of(nano))
    for name in ("", " x", "a "):
        with pytest.raises(UserError, match="cannot be the name"):
            grammar([ToolSpec(name, "", {})])
    with pytest.raises(UserError, match="Two tools"):
        grammar([SEARCH, SEARCH])
    with pytest.raises(UserError, match="not JSON"):
        grammar([ToolSpec("x", "", {"const": object()})])


def test_the_counter_goes_on_and_names_are_known(tok: Tokenizer, vocabulary: Vocabulary) -> None:
    tools = [SEARCH, PYTHON, ToolSpec("search_web", "", {}), ToolSpec("s-1.x", "", of())]
    schemas = {tool.name: tool.parameters for tool in tools}
    grammar = Grammar(vocabulary, tools)
    seen: set[str] = set()
    for seed in range(6):
        guide = grammar.guide(first_index=98, choice="required", limit=300)
        message, ids, forced = write(tok, guide, RandomPolicy(tok, seed, structure=6.0, markup=8.0), 300)
        assert forced > 3
        for i, call in enumerate(message.tool_calls):
            check(Message("assistant", tool_calls=(call,)), schemas[call.name], 98 + i, call.name)
        seen |= {call.name for call in message.tool_calls}
        end, section = tok.special["<|im_end|>"], tok.special["<|tool_calls_section_end|>"]
        assert ids[-2:] == [section, end]
        assert ids.count(tok.special["<|tool_calls_section_begin|>"]) == ids.count(section) == 1
    assert len(seen) > 1


def test_forced_ids_are_the_tokenizers_own(tok: Tokenizer, vocabulary: Vocabulary) -> None:
    """A model that writes a text writes it in the same ids with forced ones as without."""
    said = [*tok.encode("Let me look."), tok.special["<|tool_calls_section_begin|>"]]
    calls = [("search", '{"query": "größte Stadt", "k": 12}'), ("python", '{"code":"print(1)\\n"}')]
    for i, (name, arguments) in enumerate(calls):
        said += [tok.special["<|tool_call_begin|>"], *tok.encode(f"functions.{name}:{i + 7}")]
        said += [tok.special["<|tool_call_argument_begin|>"], *tok.encode(arguments), tok.special["<|tool_call_end|>"]]
    said += [tok.special["<|tool_calls_section_end|>"], tok.special["<|im_end|>"]]
    guide = Grammar(vocabulary, [SEARCH, PYTHON]).guide(first_index=7, limit=1000)
    forced = 0
    for token in said:
        must = guide.forced()
        assert must in (None, token) and (must is not None or guide.allows(token))
        forced += must is not None
        guide.accept(token)
    assert forced >= 12


def play(tok: Tokenizer, guide: Guide, *parts: str) -> None:
    """Accept texts and markup, each of which must be possible."""
    for part in parts:
        for token in [tok.special[part]] if part in tok.special else tok.encode(part):
            must = guide.forced()
            assert must == token or (must is None and guide.allows(token)), part
            guide.accept(token)


def allowed_markup(tok: Tokenizer, guide: Guide) -> set[str]:
    must = guide.forced()
    return {
        name for name, token in tok.special.items() if (must in (None, token) and guide.allows(token)) or must == token
    }


ENDS = {"<|im_end|>", "[EOS]", "[EOT]"}
SECTION = "<|tool_calls_section_begin|>"


def test_thinking_and_prose(nano: Tokenizer) -> None:
    """One thought, at the beginning; it is closed; a message is not empty; text is never touched."""
    grammar = Grammar(vocabulary_of(nano), [SEARCH])
    guide = grammar.guide()
    assert allowed_markup(nano, guide) == {"<think>", SECTION}
    play(nano, guide, "<think>", "hm </think> <|im_end|>")
    assert allowed_markup(nano, guide) == {"</think>", SECTION}
    play(nano, guide, "</think>")
    assert allowed_markup(nano, guide) == {SECTION}
    play(nano, guide, " \n")
    assert allowed_markup(nano, guide) == {SECTION}
    play(nano, guide, "Yes")
    assert allowed_markup(nano, guide) == {SECTION, *ENDS}
    assert all(guide.allows(token) for token in range(nano.n_base))
    assert not guide.allows(nano.n_vocab) and not guide.allows(-1)
    play(nano, guide, SECTION)
    assert guide.forced() == nano.special["<|tool_call_begin|>"]
    inside = grammar.guide()
    play(nano, inside, "<think>", "let me", SECTION, "<|tool_call_begin|>", "functions.search:0")
    with pytest.raises(ValueError, match=r"may not come|not the one forced"):
        guide.accept(nano.special["<|im_end|>"])


def test_choices(nano: Tokenizer) -> None:
    grammar = Grammar(vocabulary_of(nano), [SEARCH, PYTHON])
    none = grammar.guide(choice="none")
    play(nano, none, "Hi")
    assert allowed_markup(nano, none) == ENDS
    required = grammar.guide(choice="required", parallel=False)
    play(nano, required, "Hi")
    assert allowed_markup(nano, required) == {SECTION}
    named = grammar.guide(choice="python", parallel=False)
    play(nano, named, SECTION, "<|tool_call_begin|>", "functions.python:0", "<|tool_call_argument_begin|>", '{"code":"')
    play(nano, named, '"}', "<|tool_call_end|>", "<|tool_calls_section_end|>", "<|im_end|>")
    for choice, match in (("nothing", "no such tool"), ("required", "no tools")):
        with pytest.raises(UserError, match=match):
            Grammar(vocabulary_of(nano), []).guide(choice=choice)
    with pytest.raises(UserError, match=r"may have 9 tokens, the call demanded needs \d+"):
        grammar.guide(choice="required", limit=9)


def test_what_the_model_means(nano: Tokenizer) -> None:
    """A refused id tells what is wanted: the end (of thinking first, of a message that owes a call), or a call."""
    name = nano.special
    grammar = Grammar(vocabulary_of(nano), [SEARCH])
    logits = np.zeros(nano.n_vocab + 8, np.float32)

    def left(guide: Guide, refused: str) -> set[int]:
        return set(np.isfinite(guide.restrict(logits, name[refused])).nonzero()[0].tolist())

    guide = grammar.guide()
    play(nano, guide, "<think>", "hm")
    assert left(guide, "<|im_end|>") == {name["</think>"]}
    assert left(guide, "<|tool_call_begin|>") == {name["</think>"], name[SECTION]}
    assert left(guide, "<|im_user|>") == {*range(nano.n_base), name["</think>"], name[SECTION]}
    guide = grammar.guide(choice="required")
    play(nano, guide, "Well")
    assert left(guide, "<|im_end|>") == {name[SECTION]}


def test_instruct_does_not_think(nano: Tokenizer) -> None:
    instruct = Tokenizer.load(Path(openk2.__path__[0]) / "weights" / "nano", template="instruct")
    guide = Grammar(Vocabulary(instruct), [SEARCH]).guide()
    assert allowed_markup(instruct, guide) == {SECTION}


def test_no_call_is_begun_that_does_not_fit(nano: Tokenizer) -> None:
    grammar = Grammar(vocabulary_of(nano), [SEARCH, ToolSpec("t", "", of())])
    for limit in range(1, 40):
        guide = grammar.guide(limit=limit)
        if SECTION in allowed_markup(nano, guide):
            write(
                nano,
                guide,
                lambda g: next(i for i in [nano.special[SECTION], *range(nano.n_vocab)] if g.allows(i)),
                limit,
            )
    assert SECTION not in allowed_markup(nano, grammar.guide(limit=8))
    assert SECTION in allowed_markup(nano, grammar.guide(limit=20))


def test_every_limit_is_kept(nano: Tokenizer) -> None:
    """Wherever the limit falls in a long call, the call is whole."""
    grammar = Grammar(vocabulary_of(nano), [ToolSpec("tool", "", TAKEN["order"])])
    for limit in range(90, 260, 10):
        guide = grammar.guide(choice="required", limit=limit)
        message, _, _ = write(nano, guide, RandomPolicy(nano, limit, structure=5.0, markup=6.0), limit)
        check(message, TAKEN["order"], 0)


def test_arguments_come_in_any_order(nano: Tokenizer) -> None:
    grammar = Grammar(vocabulary_of(nano), [SEARCH])
    head = (SECTION, "<|tool_call_begin|>", "functions.search:0", "<|tool_call_argument_begin|>")
    for arguments in ('{"k":1,"query":"a"}', '{ "query" : "a" , "k" : 1 }', '{\n  "query": "a"\n}'):
        play(nano, grammar.guide(), *head, arguments, "<|tool_call_end|>")
    for arguments in ('{"k":1,', '{"query":"a","query"', '{"k":1}', '{"q":1', '{"query":"\\u0061'):
        guide = grammar.guide()
        play(nano, guide, *head)
        with pytest.raises((AssertionError, ValueError)):
            play(nano, guide, *([arguments] if arguments != '{"k":1,' else [arguments, "}"]))
