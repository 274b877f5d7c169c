"""Whether a value is what a tool's JSON Schema says, and where it is not.

Schemas come from agents and from foreign servers. They may not make the manager fetch anything (no reference leaves the
document), nor keep it busy: their size is bounded, and regular expressions run on Rust's engine, which takes linear
time.
"""

import functools
from collections.abc import Iterator, Mapping
from typing import Final

import orjson
from jsonschema import Draft202012Validator, SchemaError, ValidationError
from jsonschema.exceptions import best_match
from jsonschema.protocols import Validator
from jsonschema.validators import extend
from pydantic import JsonValue
from pydantic_core import SchemaError as PatternError
from pydantic_core import SchemaValidator, core_schema
from pydantic_core import ValidationError as PatternMismatch
from referencing import Registry
from referencing.exceptions import Unresolvable

from aios_proto.errors import InvalidRequest

MAX_SCHEMA_BYTES: Final = 64 << 10
MAX_DEPTH: Final = 32
_MESSAGE_CHARS: Final = 300


@functools.lru_cache(maxsize=1024)
def _pattern(pattern: str) -> SchemaValidator:
    return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))


def _matches(pattern: str, text: str) -> bool:
    try:
        _pattern(pattern).validate_python(text)
    except PatternMismatch:
        return False
    return True


def _check_pattern(
    validator: Validator, pattern: str, instance: JsonValue, schema: Mapping[str, JsonValue]
) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not _matches(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


_Checker: type[Validator] = extend(Draft202012Validator, {"pattern": _check_pattern})  # type: ignore[no-untyped-call]


class CompiledSchema:
    """One schema, ready to check values.

    Args:
        schema: JSON Schema, draft 2020-12.
        field: path of the schema in the call that brought it, for its own errors.

    Raises:
        InvalidRequest: it is no such schema, or it does what schemas here may not do.
    """

    def __init__(self, schema: Mapping[str, JsonValue], field: str) -> None:
        _check_bounds(schema, field)
        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError as error:
            path = ".".join([field, *map(str, error.absolute_path)])
            raise InvalidRequest(f"{path}: {_short(error.message)}", field=path) from error
        self._validator = _Checker(schema, registry=Registry())

    def check(self, value: JsonValue, field: str) -> tuple[str, str] | None:
        """Path and reason of the first fault of a value; None where it has none."""
        try:
            error = best_match(self._validator.iter_errors(value))
        except (Unresolvable, RecursionError) as unusable:
            return field, f"the tool's schema cannot be used: {_short(str(unusable))}"
        if error is None:
            return None
        return ".".join([field, *map(str, error.absolute_path)]), _short(error.message)


def _check_bounds(schema: Mapping[str, JsonValue], field: str) -> None:
    if len(orjson.dumps(schema)) > MAX_SCHEMA_BYTES:
        raise InvalidRequest(f"{field}: a schema may have at most {MAX_SCHEMA_BYTES} bytes", field=field)
    pending: list[tuple[JsonValue, str, int]] = [(dict(schema), field, 0)]
    while pending:
        node, path, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise InvalidRequest(f"{field}: a schema may be at most {MAX_DEPTH} levels deep", field=field)
        if isinstance(node, list):
            pending += [(value, f"{path}.{index}", depth + 1) for index, value in enumerate(node)]
        elif isinstance(node, dict):
            _check_keywords(node, path)
            pending += [(value, f"{path}.{key}", depth + 1) for key, value in node.items()]


def _check_keywords(node: Mapping[str, JsonValue], path: str) -> None:
    for keyword in ("$ref", "$dynamicRef"):
        reference = node.get(keyword)
        if isinstance(reference, str) and not reference.startswith("#"):
            raise InvalidRequest(f"{path}.{keyword}: a reference may not leave the schema", field=f"{path}.{keyword}")
    if isinstance(node.get("patternProperties"), dict):
        raise InvalidRequest(f"{path}.patternProperties: is not offered", field=f"{path}.patternProperties")
    pattern = node.get("pattern")
    if isinstance(pattern, str):
        try:
            _pattern(pattern)
        except PatternError as error:
            where = f"{path}.pattern"
            raise InvalidRequest(f"{where}: is no regular expression of linear time", field=where) from error


def _short(text: str) -> str:
    return text if len(text) <= _MESSAGE_CHARS else text[: _MESSAGE_CHARS - 1] + "…"
