"""The grammar of one tool's arguments: a JSON object after the tool's schema, over the ids of one tokenizer.

The arguments may come in any order, as JSON Schema says; inside nested objects they come in the schema's order.
Keys are spelt in one way only (no `\\u` escapes), so that none can be given twice under two spellings.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from openk2.chat.closing import Closing, Plan
from openk2.chat.messages import ToolSpec
from openk2.chat.schema import Prepared, Refused, Schema, prepare
from openk2.chat.tokenizer import Tokenizer
from openk2.errors import UserError

if TYPE_CHECKING:
    import llguidance

BLANK = r"[\x20\x0A\x0D\x09]{1,40}"  # a model that writes nothing but blanks has lost its way
OPTIONS = {"json_allowed_escapes": 'nrbtf\\"', "whitespace_pattern": BLANK}
MOST_ORDERED = 60  # a rule's parameter has 64 bits, one for each argument
KEPT = 1024  # compiled tools of one vocabulary
ORDER_FREE = {"type", "properties", "required", "additionalProperties", "minProperties", "maxProperties"}


class Vocabulary:
    """A tokenizer's ids as the grammar library sees them, and the tools compiled for it. Safe to share by threads."""

    def __init__(self, tok: Tokenizer) -> None:
        self.tok = tok
        self._lock = threading.Lock()
        self._compiled: OrderedDict[str, Arguments] = OrderedDict()

    @cached_property
    def ll(self) -> llguidance.LLTokenizer:
        """The library's own table, made when the first tool is compiled (Kimi's takes most of a second)."""
        from llguidance.tiktoken import lltokenizer_from_encoding

        # The end of a call is to the library the end of the text.
        end = self.tok.special["<|tool_call_end|>"]
        return lltokenizer_from_encoding(self.tok._encoding, n_vocab=self.tok.n_vocab, eos_token=end)

    @cached_property
    def bytes(self) -> np.ndarray:
        """int [256]: the ids of the single bytes."""
        return np.array([self.tok._encoding.encode_single_token(bytes([value])) for value in range(256)])

    def arguments(self, tool: ToolSpec) -> Arguments:
        """The compiled arguments of a tool. Raises UserError naming tool, path and keyword of what is not taken."""
        try:
            key = json.dumps(tool.parameters, ensure_ascii=False)
        except (TypeError, ValueError) as error:
            raise UserError(f"The schema of the tool {tool.name!r} is not JSON ({error}); correct it.") from None
        with self._lock:
            found = self._compiled.get(key)
            if found is None:
                try:
                    found = Arguments(self, prepare(tool.parameters))
                except (Refused, RecursionError) as error:
                    said = str(error) if isinstance(error, Refused) else "it is nested too deeply"
                    raise UserError(
                        f"The tool {tool.name!r} has a schema that calls cannot be held to: {said}; "
                        "change that part of its parameters."
                    ) from None
                self._compiled[key] = found
                if len(self._compiled) > KEPT:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(key)
            return found

    def forget(self) -> None:
        """Drop the compiled tools."""
        with self._lock:
            self._compiled.clear()

    def mask(self, matcher: llguidance.LLMatcher) -> np.ndarray:
        """bool [n_vocab]: the ids that may come next."""
        return np.unpackbits(self._bits(matcher), bitorder="little", count=self.tok.n_vocab).view(bool)

    def byte_mask(self, matcher: llguidance.LLMatcher) -> np.ndarray:
        """bool [256]: the bytes that may come next."""
        return (self._bits(matcher)[self.bytes >> 3] >> (self.bytes & 7) & 1).astype(bool)

    def of_bytes(self, text: bytes) -> list[int]:
        """The ids of single bytes."""
        return self.bytes[list(text)].tolist()

    def _bits(self, matcher: llguidance.LLMatcher) -> np.ndarray:
        """uint8, a bit for each id."""
        words = np.empty((self.tok.n_vocab + 31) // 32, np.int32)
        matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        return words.view(np.uint8)

    def matcher(self, grammar: str) -> llguidance.LLMatcher:
        from llguidance import LLMatcher

        return LLMatcher(self.ll, LLMatcher.grammar_from_lark(grammar), log_level=0)


class Arguments:
    """One compiled schema. Raises Refused."""

    def __init__(self, vocabulary: Vocabulary, prepared: Prepared) -> None:
        self.vocabulary = vocabulary
        self.growth = max(map(len, prepared.values))
        self.smallest = prepared.smallest
        keys = [[json.dumps(key, ensure_ascii=False) for key in names] for names in prepared.required]
        self._closing = Closing(vocabulary, prepared.values, *keys)
        plain = _json_rule("start", prepared.block(prepared.root))
        free = _any_order(prepared)
        self._first = vocabulary.matcher(free or plain)
        if free and self._first.is_error():
            self._first = vocabulary.matcher(plain)
        if self._first.is_error():
            raise _blame(vocabulary, prepared, self._first.get_error())
        if not vocabulary.byte_mask(self._first).any():
            raise Refused("", "parameters", "no value satisfies it")

    def start(self) -> llguidance.LLMatcher:
        """A matcher at the beginning of the arguments."""
        return self._first.deep_copy()

    @cached_property
    def least(self) -> Plan | None:
        """About the shortest arguments there are."""
        return self.closing(self._first, b"")

    def closing(self, matcher: llguidance.LLMatcher, before: bytes) -> Plan | None:
        """About the shortest way to the end of arguments that begin with `before`, which `matcher` has read."""
        return self._closing.plan(matcher, before)


def _json_rule(name: str, schema: dict[str, Any]) -> str:
    return f"{name}: %json {json.dumps({'x-guidance': OPTIONS, **schema})}\n"


def _any_order(prepared: Prepared) -> str | None:
    """A grammar of the object's members in any order, None where the schema says more of it than its members.

    A rule's parameter has a bit for each member that was written.
    """
    root = prepared.root
    others: Schema = root.get("additionalProperties", True)
    required = root.get("required", [])
    members: dict[str, Schema] = dict(root.get("properties", {}))
    members |= {key: others for key in required if key not in members}
    counted = root.keys() & {"minProperties", "maxProperties"}
    if root.keys() - ORDER_FREE or len(members) > MOST_ORDERED or (counted and others is not False) or not members:
        return None
    done = [f"bit_set({i})" for i, key in enumerate(members) if key in required]
    bits = f"[0:{len(members)}]"
    if "minProperties" in root:
        done.append(f"bit_count_ge({bits}, {root['minProperties']})")
    most = f"bit_count_lt({bits}, {root['maxProperties']})" if "maxProperties" in root else ""
    rules: dict[str, list[str]] = {"first": [], "later": []}
    lines: list[str] = []
    for i, (key, schema) in enumerate(members.items()):
        lines.append(f"K{i}: {json.dumps(json.dumps(key, ensure_ascii=False), ensure_ascii=False)}\n")
        if schema is False:
            continue
        lines.append(f"m{i}: K{i} COLON v{i}\n" + _json_rule(f"v{i}", prepared.block(schema)))
        free = _all([f"bit_clear({i})", most])
        rules["first"].append(f"m{i} later::set_bit({i}) %if {free}")
        rules["later"].append(f'"," m{i} later::set_bit({i}) %if {free}')
    if others is not False:
        taken = " | ".join(f"K{i}" for i in range(len(members)))
        lines.append(f'OTHER: /"([^"\\\\\\x00-\\x1F\\x7F]|\\\\["\\\\nrbtf])*"/ & ~({taken})\n')
        lines.append("other: OTHER COLON any\n" + _json_rule("any", prepared.block(others)))
        rules["first"].append("other later::_")
        rules["later"].append('"," other later::_')
    end = f'"" %if {_all(done)}' if done else '""'
    body = "".join(f"{name}::_ : {' | '.join([end, *options])}\n" for name, options in rules.items())
    head = '%llguidance {"skip_repetition": "once"}\nstart: "{" first::0x0 "}"\n'
    return f"{head}{body}{''.join(lines)}COLON: /:[\\x20\\x0A\\x0D\\x09]{{0,40}}/\n%ignore /{BLANK}/\n"


def _all(conditions: list[str]) -> str:
    *rest, last = [condition for condition in conditions if condition]
    for condition in reversed(rest):
        last = f"and({condition}, {last})"
    return last


def _blame(vocabulary: Vocabulary, prepared: Prepared, error: str) -> Refused:
    """The smallest part of a schema that the grammar library does not take, and the keyword in it."""

    def fails(schema: Schema) -> str:
        if isinstance(schema, bool):
            return ""
        return vocabulary.matcher(_json_rule("start", prepared.block(schema))).get_error()

    found: tuple[str, dict[str, Any], str] = ("", prepared.root, error)
    waiting: list[tuple[str, Schema]] = [("", prepared.root), *((f"/$defs/{n}", s) for n, s in prepared.defs.items())]
    while waiting:
        path, schema = waiting.pop(0)
        said = fails(schema)
        if said and isinstance(schema, dict):
            found = (path, schema, said)
            waiting = [(f"{path}/{step}", part) for step, part in _parts(schema)]
    path, schema, said = found
    for keyword in schema:
        if keyword != "type" and not fails({k: v for k, v in schema.items() if k != keyword}):
            return Refused(path, keyword, _reason(said))
    return Refused(path, next((k for k in schema if k != "type"), "type"), _reason(said))


def _parts(schema: dict[str, Any]) -> list[tuple[str, Schema]]:
    parts: list[tuple[str, Schema]] = []
    for keyword, value in schema.items():
        if keyword in ("properties", "patternProperties"):
            parts += [(f"{keyword}/{key}", part) for key, part in value.items()]
        elif keyword in ("anyOf", "oneOf", "allOf", "prefixItems"):
            parts += [(f"{keyword}/{i}", part) for i, part in enumerate(value)]
        elif keyword in ("items", "additionalProperties"):
            parts.append((keyword, value))
    return parts


def _reason(error: str) -> str:
    """The library's own sentence, in one line."""
    said = " ".join(error.split("\n  while processing")[0].split())
    said = re.sub(r"^at \d+\(\d+\): failed to compile JSON schema: ", "", said)
    said = said.removeprefix("Unsatisfiable schema: ")
    if said.startswith("oneOf constraints"):
        said = "more than one of its schemas may hold at once; anyOf says so"
    return said if len(said) <= 200 else said[:199] + "…"
