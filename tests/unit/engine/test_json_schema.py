from pydantic import JsonValue

from aios_engine.core.json_schema import closed

OPEN: dict[str, JsonValue] = {"properties": {"a": {"type": "string"}}}
CLOSED: dict[str, JsonValue] = {**OPEN, "additionalProperties": False}


def test_an_object_has_the_properties_its_schema_names() -> None:
    assert closed(OPEN) == CLOSED


def test_a_schema_that_says_what_else_it_takes_is_left_as_it_is() -> None:
    schema: JsonValue = {**OPEN, "additionalProperties": {"type": "integer"}}
    assert closed(schema) == schema


def test_schemas_inside_schemas_are_closed_too() -> None:
    assert closed({"items": OPEN, "$defs": {"d": OPEN}, "anyOf": [OPEN, {"type": "null"}]}) == {
        "items": CLOSED,
        "$defs": {"d": CLOSED},
        "anyOf": [CLOSED, {"type": "null"}],
    }
    assert closed({"properties": {"b": OPEN}}) == {"properties": {"b": CLOSED}, "additionalProperties": False}


def test_schemas_that_describe_one_object_together_stay_open() -> None:
    schema: JsonValue = {"allOf": [OPEN, {"properties": {"b": {}}}]}
    assert closed(schema) == schema
    assert closed({**OPEN, "allOf": [OPEN]}) == {**OPEN, "allOf": [OPEN]}


def test_values_are_no_schemas() -> None:
    schema: JsonValue = {"const": {"properties": {}}, "enum": [{"properties": {}}], "default": {"properties": 1}}
    assert closed(schema) == schema


def test_a_property_may_be_called_properties() -> None:
    assert closed({"properties": {"properties": {"type": "string"}}}) == {
        "properties": {"properties": {"type": "string"}},
        "additionalProperties": False,
    }


def test_true_and_false_are_schemas() -> None:
    assert closed(True) is True
    assert closed({"properties": {"a": True}}) == {"properties": {"a": True}, "additionalProperties": False}
