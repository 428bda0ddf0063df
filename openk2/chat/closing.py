"""The way to the end of a call's arguments, for when the token limit nears.

The grammar library says what may follow but not how far the end is. So this writes on as a person would: it closes
what is open, and where the schema demands more it tries short values of the schema's parts. The library has the last
word on each byte, so what comes out is valid; that it is short is likely, not certain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import llguidance

    from openk2.chat.arguments import Vocabulary

MOST_STEPS = 2000
MOST_SEARCHED = 4000  # states looked at to close one text or number
WIDTH = 160  # of one length
SAME = 2  # of those, that look alike
# Tried in this order where very many bytes may follow: what closes, what patterns are made of, anything.
LIKELY = b'"0123456789aA-.:/@ _bcdefzTZ\\'
STARTS = b'"0nft-123456789[{'

Plan = tuple[int, ...]


class Closing:
    """Completes arguments. `values` are short values of the schema's parts, the shortest first, as JSON;
    `keys` the names of members that are required, of the arguments themselves and inside."""

    def __init__(
        self, vocabulary: Vocabulary, values: Sequence[str], keys: Sequence[str], inner: Sequence[str]
    ) -> None:
        self._vocabulary = vocabulary
        self._values = [value.encode() for value in values]
        self._keys, self._inner = ([name.encode() for name in names] for names in (keys, inner))

    def plan(self, matcher: llguidance.LLMatcher, before: bytes) -> Plan | None:
        """Ids that complete the arguments after `before`, which `matcher` has read; None when no way was found."""
        writer = _Writer(self._vocabulary, matcher.deep_copy(), before)
        for _ in range(MOST_STEPS):
            if writer.matcher.is_accepting():
                return self._ids(bytes(writer.text))
            if writer.matcher.is_error() or not self._step(writer):
                return None
        return None

    def _step(self, writer: _Writer) -> bool:
        """Write the next piece; False where there is none."""
        forced = writer.matcher.compute_ff_bytes()
        if forced:
            return writer.write(forced)
        if writer.in_text:
            return writer.close()
        allowed = writer.allowed()
        for byte in b"}]:":
            if allowed[byte] and not (byte == 58 and writer.top != b"{"):
                return writer.write(bytes([byte]))
        if not writer.fresh:
            return writer.write(b",") if allowed[44] else writer.close()
        if writer.top == b"{":
            keys = self._keys if len(writer.stack) == 1 else self._inner
            if writer.first_of(key for key in keys if key not in writer.tried):
                return True
            return writer.write(b'"')
        if writer.first_of(self._values, ends=True):
            return True
        return any(allowed[byte] and writer.write(bytes([byte])) for byte in STARTS)

    def _ids(self, text: bytes) -> Plan:
        """The text's ids; bytes that end a character begun before stand alone."""
        single = self._vocabulary.bytes
        start = 0
        while start < len(text) and 0x80 <= text[start] < 0xC0:
            start += 1
        rest = text[start:]
        try:
            ids = self._vocabulary.tok.encode(rest.decode())
        except UnicodeDecodeError:
            ids = [int(single[byte]) for byte in rest]
        return (*(int(single[byte]) for byte in text[:start]), *ids)


class _Writer:
    """A matcher, what was written to it, and what is open.

    `stack` holds `[`, `{` before a key, `:` before or behind a member's value, `"` a text, `\\` an escape in it.
    """

    def __init__(self, vocabulary: Vocabulary, matcher: llguidance.LLMatcher, before: bytes) -> None:
        self._vocabulary = vocabulary
        self.matcher = matcher
        self.text = bytearray()
        self.stack = b""
        self.fresh = True  # a key or value is to begin
        self.tried: set[bytes] = set()
        self._follow(before)

    @property
    def top(self) -> bytes:
        return self.stack[-1:]

    @property
    def in_text(self) -> bool:
        return self.top in (b'"', b"\\")

    def allowed(self):
        return self._vocabulary.byte_mask(self.matcher)

    def write(self, text: bytes) -> bool:
        if not self.matcher.consume_tokens(self._vocabulary.of_bytes(text)):
            return False
        self.text += text
        self._follow(text)
        return True

    def first_of(self, texts, ends: bool = False) -> bool:
        """Write the first text that may stand here; `ends`: and behind which the member or item may end."""
        for text in texts:
            copy = self.matcher.deep_copy()
            ids = self._vocabulary.of_bytes(text)
            if copy.validate_tokens(ids) < len(ids) or not copy.consume_tokens(ids):
                continue
            if ends and not copy.is_accepting() and not self._vocabulary.byte_mask(copy)[list(b",}]")].any():
                continue
            self.tried.add(text)
            return self._take(copy, text)
        return False

    def close(self) -> bool:
        """End the text or number that is open: a search over bytes, by length."""
        in_text = self.in_text
        level = [(self.matcher, b"\\" if self.top == b"\\" else b"")]
        pending = len(level[0][1])
        searched = 0
        while level and searched < MOST_SEARCHED:
            following: list[tuple[llguidance.LLMatcher, bytes]] = []
            looks: dict[tuple[bytes, bool], int] = {}
            for matcher, text in level:
                allowed = self._vocabulary.byte_mask(matcher)
                searched += 1
                escaped = (len(text) - len(text.rstrip(b"\\"))) % 2 == 1
                if in_text and allowed[34] and not escaped:
                    return self._take(matcher, text[pending:]) and self.write(b'"')
                if not in_text and text and (matcher.is_accepting() or allowed[list(b",}]")].any()):
                    return self._take(matcher, text)
                look = (allowed.tobytes(), escaped)
                looks[look] = looks.get(look, 0) + 1
                if looks[look] > SAME:
                    continue
                values = allowed.nonzero()[0].tolist()
                if len(values) > len(LIKELY):
                    values = [byte for byte in LIKELY if allowed[byte]] or values[: len(LIKELY)]
                for byte in values:
                    copy = matcher.deep_copy()
                    if copy.consume_token(int(self._vocabulary.bytes[byte])):
                        following.append((copy, text + bytes([byte])))
            level = following[:WIDTH]
        return False

    def _take(self, matcher: llguidance.LLMatcher, text: bytes) -> bool:
        """Go on from a matcher that has read `text` behind what was written."""
        self.matcher = matcher
        self.text += text
        self._follow(text)
        return True

    def _follow(self, text: bytes) -> None:
        stack, fresh = self.stack, self.fresh
        for value in text:
            byte, top = bytes([value]), stack[-1:]
            if top == b"\\":
                stack = stack[:-1]
            elif top == b'"':
                if byte == b'"':
                    stack = stack[:-1]
                elif byte == b"\\":
                    stack += byte
            elif byte in b" \n\r\t":
                continue
            elif byte in b'"[{':
                stack += byte
                fresh = byte != b'"'
            elif byte in b"]}":
                stack, fresh = stack[:-1], False
            elif byte in b":,":
                fresh = True
                if top in (b"{", b":"):
                    stack = stack[:-1] + (b":" if byte == b":" else b"{")
            else:
                fresh = False
        self.stack, self.fresh = stack, fresh
