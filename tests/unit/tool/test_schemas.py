"""Values against a tool's schema, and schemas that may not be used."""

import time

import pytest
from pydantic import JsonValue

from aios_proto.errors import InvalidRequest
from aios_tool.core.schemas import CompiledSchema

SCHEMA: dict[str, JsonValue] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z]+$"},
        "parts": {"type": "array", "items": {"$ref": "#/$defs/part"}},
    },
    "required": ["name"],
    "additionalProperties": False,
    "$defs": {"part": {"type": "object", "properties": {"size": {"type": "integer", "minimum": 1}}}},
}


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({}, "arguments"),
        ({"name": "A"}, "arguments.name"),
        ({"name": "a", "parts": [{"size": 1}, {"size": 0}]}, "arguments.parts.1.size"),
        ({"name": "a", "more": 1}, "arguments"),
        ([], "arguments"),
    ],
)
def test_a_fault_is_named_by_its_path(value: JsonValue, path: str) -> None:
    fault = CompiledSchema(SCHEMA, "s").check(value, "arguments")
    assert fault is not None
    assert fault[0] == path


def test_a_sound_value_has_no_fault() -> None:
    assert CompiledSchema(SCHEMA, "s").check({"name": "a", "parts": [{"size": 3}]}, "arguments") is None


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"type": "strin"}, "s.type"),
        ({"properties": {"a": {"$ref": "https://example.org/x"}}}, "s.properties.a.$ref"),
        ({"$ref": "file:///etc/passwd"}, "s.$ref"),
        ({"pattern": "(?<=a)b"}, "s.pattern"),
        ({"patternProperties": {"(a+)+$": {}}}, "s.patternProperties"),
        ({"description": "x" * (65 << 10)}, "s"),
    ],
)
def test_a_schema_that_may_not_be_used_is_refused_by_its_path(schema: dict[str, JsonValue], path: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        CompiledSchema(schema, "s")
    assert caught.value.field == path


def test_a_schema_that_is_too_deep_is_refused() -> None:
    schema: dict[str, JsonValue] = {}
    for _ in range(100):
        schema = {"items": schema}
    with pytest.raises(InvalidRequest):
        CompiledSchema(schema, "s")


def test_a_schema_that_refers_to_itself_or_to_nothing_ends() -> None:
    for reference in ("#", "#/nowhere"):
        assert CompiledSchema({"$ref": reference}, "s").check(1, "arguments") is not None


def test_a_malicious_pattern_takes_linear_time() -> None:
    begun = time.monotonic()
    assert CompiledSchema({"pattern": "^(a+)+$"}, "s").check("a" * 50 + "!", "arguments") is not None
    assert time.monotonic() - begun < 1
