"""Texts that end a reply. What is thought or called does not count; a text may be cut by tokens in any way."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from openk2.errors import UserError


class StopTexts:
    """`text` turns ids into text as they come (`Tokenizer.text_stream().feed`), specials into nothing.

    What stands between an id of `begins` (`<think>`, a tool section) and one of `ends` is passed over; `open`: the
    prompt has begun to think already.
    """

    def __init__(
        self,
        texts: Sequence[str],
        text: Callable[[int], str],
        *,
        begins: Collection[int] = (),
        ends: Collection[int] = (),
        open: bool = False,
    ) -> None:
        if not all(texts):
            raise UserError("A stop text is empty; give at least one character.")
        self._texts = tuple(texts)
        self._text = text
        self._begins, self._ends = frozenset(begins), frozenset(ends)
        self._passing = open
        self._keep = max(map(len, self._texts), default=1) - 1
        self._tail = ""
        self.found: str | None = None
        self.behind = 0  # characters the last id wrote behind the beginning of `found`, itself included

    def accept(self, token: int) -> bool:
        """Take the next id; True when a stop text is complete. The earliest one in the text is `found`."""
        if token in self._begins or token in self._ends:
            self._passing = token in self._begins
            self._tail = ""
            return False
        if self._passing:
            return False
        seen = self._tail + self._text(token)
        hits = [(place, text) for text in self._texts if (place := seen.find(text)) >= 0]
        if hits:
            place, self.found = min(hits)
            self.behind = len(seen) - place
            return True
        self._tail = seen[-self._keep :] if self._keep else ""
        return False
