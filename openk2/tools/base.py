"""What a tool is: a typed Python function that a model may call.

`@tool` reads the schema from the signature and the description from the docstring. `Tool.run` takes the arguments as
the model wrote them (JSON text), validates them before the function is entered, enforces the timeout, and cuts a
result that is too long. A bad call never raises: the model gets the error and the schema back and can try again.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import json
import threading
import typing
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

from openk2.chat.messages import ToolSpec
from openk2.errors import UserError

DEFAULT_TIMEOUT = 60.0  # seconds
DEFAULT_OUTPUT_LIMIT = 20_000  # characters


class ToolError(Exception):
    """Raised by a tool for a failure the model should read: the message is the whole result."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    content: str
    is_error: bool = False


@dataclass(frozen=True)
class Tool:
    """One callable tool. `egress`: what it sends leaves this machine. `idempotent`: a repeat after a crash is safe."""

    name: str
    description: str
    function: Callable[..., Any]
    idempotent: bool = False
    needs_approval: bool = False
    timeout: float | None = DEFAULT_TIMEOUT
    output_limit: int = DEFAULT_OUTPUT_LIMIT
    egress: bool = False
    schema: dict[str, Any] | None = None  # given where the signature does not tell it (a remote tool)
    close: Callable[[], None] | None = None  # ends what it keeps running between calls

    @cached_property
    def arguments_model(self) -> Any:
        """The pydantic model of the arguments; None for a given schema. Built on first use: pydantic imports slowly."""
        return None if self.schema is not None else _arguments_model(self.name, self.function)

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """The JSON Schema of the arguments, without pydantic's `title` noise."""
        if self.schema is not None:
            return self.schema
        return _without_titles(self.arguments_model.model_json_schema())

    def spec(self) -> ToolSpec:
        return ToolSpec(self.name, self.description, self.parameters)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the plain function: for tests and for code that trusts its arguments."""
        return self.function(*args, **kwargs)

    async def run(self, arguments: str) -> ToolResult:
        """Validate `arguments` (JSON text), call, and return the result as text. Never raises but CancelledError."""
        values = self._validated(arguments)
        if isinstance(values, ToolResult):
            return values
        clock = asyncio.timeout(self.timeout)
        try:
            async with clock:
                if inspect.iscoroutinefunction(self.function):
                    value = await self.function(**values)
                else:
                    value = await _in_thread(self.function, values)
            return self._result(value)
        except (ToolError, UserError) as error:
            return self._result(ToolResult(str(error), True))
        except Exception as error:
            if clock.expired():  # a TimeoutError may also be the function's own
                return ToolResult(f"{self.name} did not finish within {self.timeout:g} seconds and was stopped.", True)
            return self._result(ToolResult(f"{type(error).__name__}: {error}", True))

    async def aclose(self) -> None:
        """End what the tool keeps running between calls."""
        if self.close is not None:
            await asyncio.to_thread(self.close)

    def _validated(self, arguments: str) -> dict[str, Any] | ToolResult:
        try:
            data = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError) as error:
            return self._refused(f"the arguments are not valid JSON: {error}")
        if not isinstance(data, dict):
            return self._refused("the arguments must be one JSON object")
        if self.arguments_model is None:
            missing = [key for key in self.parameters.get("required", ()) if key not in data]
            return self._refused(f"{missing[0]}: Field required") if missing else data
        from pydantic import ValidationError

        try:
            model = self.arguments_model.model_validate(data)
        except ValidationError as error:
            problems = (f"{'.'.join(map(str, e['loc'])) or 'arguments'}: {e['msg']}" for e in error.errors())
            return self._refused("; ".join(problems))
        return {key: getattr(model, key) for key in type(model).model_fields}

    def _refused(self, problem: str) -> ToolResult:
        schema = json.dumps(self.parameters, ensure_ascii=False)
        return ToolResult(f"{self.name} was not called, {problem}. The arguments follow this schema: {schema}", True)

    def _result(self, value: Any) -> ToolResult:
        if isinstance(value, ToolResult):
            text, is_error = value.content, value.is_error
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            is_error = False
        return ToolResult(cut(text, self.output_limit), is_error)


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
    needs_approval: bool = False,
    timeout: float | None = DEFAULT_TIMEOUT,
    output_limit: int = DEFAULT_OUTPUT_LIMIT,
    egress: bool = False,
) -> Callable[[Callable[..., Any]], Tool]: ...
def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    idempotent: bool = False,
    needs_approval: bool = False,
    timeout: float | None = DEFAULT_TIMEOUT,
    output_limit: int = DEFAULT_OUTPUT_LIMIT,
    egress: bool = False,
) -> Any:
    """Make a `Tool` of a typed function with a docstring, as `@tool` or `@tool(idempotent=True, ...)`.

    An `Args:` section of the docstring describes the parameters. Raises UserError where the docstring or the type of a
    parameter is missing, because a model cannot call what it is not told.
    """

    def wrap(function: Callable[..., Any]) -> Tool:
        label = name or function.__name__
        description, _ = _docstring(function)
        if not description:
            raise UserError(f"The tool {label} has no docstring: say in one what it does, the model reads it.")
        for parameter in inspect.signature(function).parameters.values():
            if parameter.annotation is inspect.Parameter.empty:
                raise UserError(f"The parameter {parameter.name} of the tool {label} has no type: annotate it.")
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise UserError(f"The tool {label} takes *args or **kwargs: name every parameter instead.")
        return Tool(label, description, function, idempotent, needs_approval, timeout, output_limit, egress)

    return wrap if function is None else wrap(function)


def _docstring(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """The description and the parameter descriptions of a docstring with an optional Google-style `Args:` section."""
    text, _, section = (inspect.getdoc(function) or "").partition("\nArgs:\n")
    described: dict[str, str] = {}
    for line in section.splitlines():
        key, colon, rest = line.partition(":")
        if colon and line.startswith((" ", "\t")):
            described[key.strip().split(" ")[0]] = rest.strip()
        elif line and not line.startswith((" ", "\t")):
            break
    return text.strip(), described


def _arguments_model(name: str, function: Callable[..., Any]) -> Any:
    from pydantic import ConfigDict, Field, create_model

    _, described = _docstring(function)
    hints = typing.get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        default = ... if parameter.default is inspect.Parameter.empty else parameter.default
        about = described.get(parameter.name)
        fields[parameter.name] = (hints[parameter.name], Field(default, description=about) if about else default)
    return create_model(name, __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=True), **fields)


def _without_titles(schema: Any, *, names: bool = False) -> Any:
    """`schema` without `title` keywords; `names` is set below `properties`, whose keys are not keywords."""
    if isinstance(schema, dict):
        return {
            key: _without_titles(value, names=key == "properties" and not names)
            for key, value in schema.items()
            if names or key != "title"
        }
    return [_without_titles(item) for item in schema] if isinstance(schema, list) else schema


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
