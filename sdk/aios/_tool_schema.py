"""How a Python function becomes a tool: its JSON Schemas from its type hints, and its call from JSON arguments."""

import asyncio
import contextvars
import functools
import inspect
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypedDict, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError, create_model

from aios_proto.errors import InvalidRequest
from aios_proto.messages.tool import Effect, ToolSpec

if TYPE_CHECKING:
    from aios._tool_host import ToolContext

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class ToolOptions(TypedDict, total=False):
    """What can be said about a tool beside its function.

    Keys:
        name: by default the function's.
        description: by default the function's docstring.
        version: "1" by default.
        effects: `read_only`, `idempotent`, `irreversible`; with neither of the first two it is run at most once a call.
        reads: resources it reads, such as `calendar` or `file:{path}` with an argument's value filled in.
        writes: resources it writes; calls that write what others read or write wait for each other.
        timeout_s: seconds for one run; 30 by default.
        concurrency: runs at once, of all processes together; 8 by default.
        retries: further runs after a failure that may pass, for tools whose repetition does no harm.
    """

    name: str
    description: str
    version: str
    effects: Sequence[Effect]
    reads: Sequence[str]
    writes: Sequence[str]
    timeout_s: float
    concurrency: int
    retries: int


@dataclass(frozen=True, slots=True)
class ToolFunction:
    """A function that can be served as a tool.

    Attributes:
        spec: its declaration.
        function: as it was written.
        arguments: model of its parameters.
        answer: writes what it returns as JSON.
        context_name: the parameter that gets the `ToolContext`; None where it wants none.
    """

    spec: ToolSpec
    function: Callable[..., object]
    arguments: type[BaseModel]
    answer: TypeAdapter[object]
    context_name: str | None

    async def run(self, arguments: Mapping[str, JsonValue], context: "ToolContext") -> JsonValue:
        """Calls the function; one that is not async runs in a thread.

        Raises:
            InvalidRequest: an argument is not of its type; `field` names it.
        """
        try:
            checked = self.arguments.model_validate(arguments)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            path = ".".join(["arguments", *map(str, first["loc"])])
            raise InvalidRequest(f"{path}: {first['msg']}", field=path) from error
        given = {name: getattr(checked, name) for name in type(checked).model_fields}
        if self.context_name is not None:
            given[self.context_name] = context
        if inspect.iscoroutinefunction(self.function):
            value = await self.function(**given)
        else:
            work = functools.partial(contextvars.copy_context().run, self.function, **given)
            value = await asyncio.to_thread(work)
            if isinstance(value, Awaitable):
                value = await value
        plain: JsonValue = self.answer.dump_python(value, mode="json", warnings=False)
        return plain


def tool_function(function: Callable[..., object], options: ToolOptions) -> ToolFunction:
    """A tool from a function with type hints.

    Raises:
        InvalidRequest: a parameter has no type, or takes any number of arguments, or an option is wrong.
    """
    name = options.get("name", getattr(function, "__name__", ""))
    if _NAME.fullmatch(name) is None:
        raise InvalidRequest(f"{name!r} is no name for a tool: letters, digits, `_` and `-` only", field="name")
    hints = get_type_hints(function, include_extras=True)
    context_name: str | None = None
    fields: dict[str, tuple[object, object]] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise InvalidRequest(f"{name}: the parameter {parameter.name} cannot be given by name", field="function")
        hint = hints.get(parameter.name)
        if hint is None:
            raise InvalidRequest(f"{name}: the parameter {parameter.name} has no type", field="function")
        if _is_context(hint):
            context_name = parameter.name
            continue
        fields[parameter.name] = (hint, ... if parameter.default is parameter.empty else Field(parameter.default))
    model = create_model(name, __config__=ConfigDict(extra="forbid"), **fields)  # type: ignore[call-overload]
    answer: TypeAdapter[object] = TypeAdapter(hints.get("return", object))
    return ToolFunction(_spec(function, name, model, answer, hints, options), function, model, answer, context_name)


def _is_context(hint: object) -> bool:
    from aios._tool_host import ToolContext

    return hint is ToolContext


def _spec(
    function: Callable[..., object],
    name: str,
    model: type[BaseModel],
    answer: TypeAdapter[object],
    hints: Mapping[str, object],
    options: ToolOptions,
) -> ToolSpec:
    schema = model.model_json_schema()
    schema.pop("title", None)
    output = None if hints.get("return", object) is object else answer.json_schema(mode="serialization")
    declared: dict[str, object] = {
        "description": inspect.getdoc(function) or "",
        **options,
        "name": name,
        "input_schema": schema,
        "output_schema": output,
    }
    try:
        return ToolSpec.model_validate(declared)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        path = ".".join(map(str, first["loc"]))
        raise InvalidRequest(f"{name}: {path}: {first['msg']}", field=path or "tool") from error
