"""What a tool is: a typed Python function that a model may call.

`@tool` reads the schema from the signature and the description from the docstring. `Tool.run` takes the arguments as
the model wrote them (JSON text), validates them before the function is entered, enforces the timeout, and cuts a
result that is too long. A bad call never raises: the model gets the error and the schema back and can try again.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import inspect
import json
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from types import MethodType
from typing import Any, overload

from openk2.chat.messages import ToolSpec
from openk2.errors import UserError
from openk2.tools.json_schema import fault
from openk2.tools.signature import (
    arguments_model,
    docstring,
    hints_of,
    name_of,
    parameters_of,
    takes_self,
    without_titles,
)

DEFAULT_TIMEOUT = 60.0  # seconds
DEFAULT_OUTPUT_LIMIT = 20_000  # characters


class ToolError(Exception):
    """Raised by a tool for a failure the model should read: the message is the whole result."""


Approval = bool | Callable[[dict[str, Any]], str | None]


@dataclass(frozen=True, slots=True)
class ToolResult:
    """`files`: paths made in the workspace, relative to it. `source`: where the text is from, a URL or a file."""

    content: str
    is_error: bool = False
    files: tuple[str, ...] = ()
    source: str = ""


@dataclass(frozen=True)
class Tool:
    """One callable tool, and what a run must know of it.

    `idempotent`: a repeat after a crash is safe. `parallel`: it may run beside others (an idempotent one always may).
    `needs_approval`: True, or a function of the checked arguments that says in a sentence why a person is asked, or
    None where nobody need be. `egress`: what it is given leaves this machine. `untrusted`: its results are text from
    outside (the web, a remote server). `private`: its results come from the person's own files.
    """

    name: str
    description: str
    function: Callable[..., Any]
    idempotent: bool = False
    needs_approval: Approval = False
    timeout: float | None = DEFAULT_TIMEOUT
    output_limit: int = DEFAULT_OUTPUT_LIMIT
    egress: bool = False
    schema: dict[str, Any] | None = None  # given where the signature does not tell it (a remote tool)
    close: Callable[[], None] | None = None  # ends what it keeps running between calls
    parallel: bool = False
    untrusted: bool = False
    private: bool = False
    hints: dict[str, Any] | None = None  # the function's types where only the place of definition knows them

    def __get__(self, instance: Any, owner: type | None = None) -> Tool:
        """A tool made of a method is bound to its object, as a method is."""
        if instance is None or not takes_self(self.function):
            return self
        return dataclasses.replace(self, function=MethodType(self.function, instance))

    @cached_property
    def arguments_model(self) -> Any:
        """The pydantic model of the arguments; None for a given schema. Built on first use: pydantic imports slowly."""
        return None if self.schema is not None else arguments_model(self.name, self.function, self.hints)

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """The JSON Schema of the arguments, without pydantic's `title` noise."""
        if self.schema is not None:
            return self.schema
        return without_titles(self.arguments_model.model_json_schema())

    def spec(self) -> ToolSpec:
        return ToolSpec(self.name, self.description, self.parameters)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the plain function: for tests and for code that trusts its arguments."""
        return self.function(*args, **kwargs)

    def check(self, arguments: str) -> dict[str, Any] | ToolResult:
        """The values of `arguments` (JSON text), or the result that tells the model what is wrong with them."""
        try:
            data = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError) as error:
            return self._refused(f"the arguments are not valid JSON: {error}")
        if not isinstance(data, dict):
            return self._refused("the arguments must be one JSON object")
        if self.arguments_model is None:
            problem = fault(data, self.parameters)
            return self._refused(problem) if problem else data
        from pydantic import ValidationError

        try:
            model = self.arguments_model.model_validate(data)
        except ValidationError as error:
            problems = (f"{'.'.join(map(str, e['loc'])) or 'arguments'}: {e['msg']}" for e in error.errors())
            return self._refused("; ".join(problems))
        return {field.alias: getattr(model, key) for key, field in type(model).model_fields.items()}

    def approval(self, values: dict[str, Any]) -> str | None:
        """Why a person must be asked before a call with these checked values; None where nobody need be."""
        if callable(self.needs_approval):
            return self.needs_approval(values)
        return f"{self.name} asks before it runs." if self.needs_approval else None

    async def run(self, arguments: str) -> ToolResult:
        """Check `arguments` (JSON text) and call. Never raises but CancelledError."""
        values = self.check(arguments)
        return values if isinstance(values, ToolResult) else await self.call(values)

    async def call(self, values: dict[str, Any]) -> ToolResult:
        """Call with values that `check` gave, and return the result as text. Never raises but CancelledError."""
        clock = asyncio.timeout(self.timeout)
        try:
            async with clock:
                if _is_async(self.function):
                    value = await self.function(**values)
                else:
                    value = await _in_thread(self.function, values)
            return self._result(value)
        except (ToolError, UserError) as error:
            return self._result(ToolResult(str(error), True))
        except (Exception, SystemExit) as error:  # what ends a program of its own ends no run
            if clock.expired():  # a TimeoutError may also be the function's own
                return ToolResult(f"{self.name} did not finish within {self.timeout:g} seconds and was stopped.", True)
            return self._result(ToolResult(f"{type(error).__name__}: {error}", True))

    async def aclose(self) -> None:
        """End what the tool keeps running between calls."""
        if self.close is not None:
            await asyncio.to_thread(self.close)

    def _refused(self, problem: str) -> ToolResult:
        schema = json.dumps(self.parameters, ensure_ascii=False)
        return ToolResult(f"{self.name} was not called, {problem}. The arguments follow this schema: {schema}", True)

    def _result(self, value: Any) -> ToolResult:
        if not isinstance(value, ToolResult):
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=_plain)
            value = ToolResult(text)
        return dataclasses.replace(value, content=cut(value.content, self.output_limit))


def _plain(value: Any) -> Any:
    """What JSON does not know, as it does: dataclasses and models as objects, sets as lists, all else as text."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return sorted(value, key=str) if isinstance(value, set | frozenset) else str(value)


def _is_async(function: Callable[..., Any]) -> bool:
    while isinstance(function, partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def cut(text: str, limit: int) -> str:
    """`text` with its middle left out where it is longer than `limit` characters; the result says how much is gone."""
    if len(text) <= limit:
        return text
    head = limit * 2 // 3
    return f"{text[:head]}\n… ({len(text) - limit} characters left out) …\n{text[len(text) - (limit - head) :]}"


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...
@overload
def tool(
    *,
    name: str | None = None,
    idempotent: bool = False,
    parallel: bool = False,
    needs_approval: Approval = False,
    timeout: float | None = DEFAULT_TIMEOUT,
    output_limit: int = DEFAULT_OUTPUT_LIMIT,
    egress: bool = False,
    untrusted: bool = False,
    private: bool = False,
) -> Callable[[Callable[..., Any]], Tool]: ...
def tool(function: Callable[..., Any] | None = None, /, *, name: str | None = None, **declared: Any) -> Any:
    """Make a `Tool` of a typed function with a docstring, as `@tool` or `@tool(idempotent=True, ...)`.

    The function may be sync or async, a method, a partial or a callable object; its parameters any type that JSON can
    give: plain types, Literal, Enum, Optional, dataclasses, pydantic models. A parameter is described by
    `Annotated[type, "words"]` or by an `Args:` section of the docstring. Raises UserError where the docstring or the
    type of a parameter is missing, because a model cannot call what it is not told.
    """
    outside = sys._getframe(1).f_locals

    def wrap(function: Callable[..., Any]) -> Tool:
        label = name or name_of(function)
        description, _ = docstring(function)
        if not description:
            raise UserError(f"The tool {label} has no docstring: say in one what it does, the model reads it.")
        parameters_of(label, function)
        hints = None
        try:
            hints_of(function)
        except NameError:  # a type of the place of definition, or one that comes later
            with contextlib.suppress(NameError):
                hints = hints_of(function, outside)
        return Tool(label, description, function, hints=hints, **declared)

    return wrap if function is None else wrap(function)


async def _in_thread(function: Callable[..., Any], values: dict[str, Any]) -> Any:
    """Run a sync function in a daemon thread: unlike the loop's executor, one that hangs does not keep us alive."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()

    def settle(value: Any, error: BaseException | None) -> None:
        if future.done():  # timed out or cancelled meanwhile
            return
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)

    def work() -> None:
        value, error = None, None
        try:
            value = context.run(function, **values)
        except StopIteration as stop:  # a future cannot carry it
            error = RuntimeError(f"StopIteration: {stop}")
        except BaseException as raised:
            error = raised
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=work, name=f"tool-{getattr(function, '__name__', 'call')}", daemon=True).start()
    return await future
