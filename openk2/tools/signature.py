"""What a model is told of a Python function: its parameters as a pydantic model, from type hints and docstring."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from openk2.errors import UserError


def parameters_of(name: str, function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters a model fills in. Raises UserError for one that it cannot: untyped, positional-only, *args."""
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    if takes_self(function):
        del parameters[0]
    if isinstance(function, partial):
        parameters = [parameter for parameter in parameters if parameter.name not in function.keywords]
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise UserError(f"The tool {name} takes *args or **kwargs: name every parameter instead.")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise UserError(f"The parameter {parameter.name} of the tool {name} is positional-only: remove the `/`.")
        if parameter.annotation is inspect.Parameter.empty:
            raise UserError(f"The parameter {parameter.name} of the tool {name} has no type: annotate it.")
    return parameters


def name_of(function: Callable[..., Any]) -> str:
    function = _plain(function)
    return getattr(function, "__name__", "") or type(function).__name__


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function itself under partials and decorators."""
    while isinstance(function, partial):
        function = function.func
    return inspect.unwrap(function)


def takes_self(function: Callable[..., Any]) -> bool:
    """Whether this is a method that is not bound yet: its first parameter is an untyped self or cls."""
    first = next(iter(inspect.signature(function).parameters.values()), None)
    return first is not None and first.name in ("self", "cls") and first.annotation is inspect.Parameter.empty


def hints_of(function: Callable[..., Any], names: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The resolved type hints, `Annotated` kept. `names`: what the place of definition knows besides its module.

    Raises NameError for a type that is not (yet) defined.
    """
    function = _plain(function)
    if not inspect.isroutine(function):
        function = type(function).__call__
    return typing.get_type_hints(function, localns=dict(names) if names else None, include_extras=True)


def docstring(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """The description and the parameter descriptions of a docstring with an optional Google-style `Args:` section."""
    function = _plain(function)
    text = inspect.getdoc(function) if inspect.isroutine(function) else inspect.getdoc(type(function).__call__)
    text, _, section = (text or "").partition("\nArgs:\n")
    described: dict[str, str] = {}
    key = ""
    indent = len(section) - len(section.lstrip(" "))
    for line in section.splitlines():
        if line and not line.startswith((" ", "\t")):
            break
        name, colon, rest = line.partition(":")
        if colon and len(line) - len(line.lstrip(" ")) == indent:
            key = name.strip().split(" ")[0]
            described[key] = rest.strip()
        elif key and line.strip():  # a description may go on below
            described[key] += f" {line.strip()}"
    return text.strip(), described


def arguments_model(name: str, function: Callable[..., Any], hints: dict[str, Any] | None = None) -> Any:
    """The pydantic model of the arguments; its fields are `arg_NAME`, so that no name is taken by pydantic itself.

    Raises UserError for a type that is not defined or that no JSON can give.
    """
    from pydantic import ConfigDict, Field, create_model
    from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError, PydanticUserError

    _, described = docstring(function)
    parameters = parameters_of(name, function)
    try:
        hints = hints or hints_of(function)
    except NameError as error:
        raise UserError(
            f"The tool {name} has a type that is not defined where it stands ({error}): define it in the module."
        ) from None
    fields: dict[str, Any] = {}
    for parameter in parameters:
        default = ... if parameter.default is inspect.Parameter.empty else parameter.default
        said = getattr(hints[parameter.name], "__metadata__", ())
        about = next((part for part in said if isinstance(part, str)), None) or described.get(parameter.name)
        more: dict[str, Any] = {"description": about} if about else {}
        fields[f"arg_{parameter.name}"] = (hints[parameter.name], Field(default, alias=parameter.name, **more))
    try:
        model = create_model(name, __config__=ConfigDict(extra="forbid"), **fields)
        model.model_json_schema()
    except (PydanticSchemaGenerationError, PydanticInvalidForJsonSchema, PydanticUserError) as error:
        why = str(error).split("\n")[0]
        raise UserError(f"The tool {name} has a parameter that no JSON can give: {why}") from None
    return model


def without_titles(schema: Any, *, names: bool = False) -> Any:
    """`schema` without `title` keywords; `names` is set below `properties`, whose keys are not keywords."""
    if isinstance(schema, dict):
        return {
            key: without_titles(value, names=key in ("properties", "$defs") and not names)
            for key, value in schema.items()
            if names or key != "title" or not isinstance(value, str)
        }
    return [without_titles(item) for item in schema] if isinstance(schema, list) else schema
