"""Answers as data: what the model is asked to write, and how it is read."""

from __future__ import annotations

import json
from typing import Generic, TypeVar

from openk2.errors import UserError

T = TypeVar("T")


class Form(Generic[T]):
    """A type that an answer has to have: a pydantic model, a dataclass, a TypedDict, `list[int]` ...

    Raises UserError for a type that no JSON can give.
    """

    def __init__(self, kind: type[T]) -> None:
        from pydantic import TypeAdapter
        from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

        try:
            self._adapter = TypeAdapter(kind)
            self.schema = self._adapter.json_schema()
        except (PydanticSchemaGenerationError, PydanticUserError) as error:
            why = str(error).split("\n")[0]
            raise UserError(f"An answer cannot be a {getattr(kind, '__name__', kind)}: {why}") from None

    def request(self, question: str) -> str:
        return (
            f"{question}\n\nWrite the final answer as JSON that follows this schema, with nothing before or after it:\n"
            f"{json.dumps(self.schema, ensure_ascii=False)}"
        )

    def read(self, answer: str) -> T:
        """The value. Raises ValueError with what the model has to mend."""
        from pydantic import ValidationError

        try:
            return self._adapter.validate_json(json_of(answer))
        except ValidationError as error:
            problems = [f"{'.'.join(map(str, e['loc'])) or 'the answer'}: {e['msg']}" for e in error.errors()]
            raise ValueError("; ".join(problems)) from None

    def complaint(self, problem: str) -> str:
        return f"That answer does not follow the schema: {problem}. Write it again as JSON alone, mended."


def json_of(answer: str) -> str:
    """The JSON in an answer: all of it, what stands in a code block, or the first value that can be read."""
    text = answer.strip()
    decoder = json.JSONDecoder()
    for start in (0, *(place for place, sign in enumerate(text) if sign in "{[")):
        try:
            _, length = decoder.raw_decode(text[start:])
        except ValueError:
            continue
        if start or length == len(text):
            return text[start : start + length]
    return text
