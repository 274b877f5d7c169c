"""Which properties an object of a schema may have that says nothing about further ones: those it names, and no others.

JSON Schema allows any; text-generation-inference's grammars do not, and a small model that may invent properties does
not stop inventing them.
"""

from typing import Final

from pydantic import JsonValue

_OF_SCHEMAS: Final = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_SCHEMA: Final = frozenset({"items", "additionalProperties", "contains", "not", "if", "then", "else"})
_ALTERNATIVES: Final = frozenset({"anyOf", "oneOf", "prefixItems"})


def closed(schema: JsonValue) -> JsonValue:
    """The schema with `additionalProperties: false` wherever it names properties and does not say otherwise.

    The branches of an `allOf` describe one object together, so none of them is closed.
    """
    if not isinstance(schema, dict):
        return schema
    result: dict[str, JsonValue] = {}
    for key, value in schema.items():
        if key in _OF_SCHEMAS and isinstance(value, dict):
            result[key] = {name: closed(part) for name, part in value.items()}
        elif key in _SCHEMA:
            result[key] = closed(value)
        elif key in _ALTERNATIVES and isinstance(value, list):
            result[key] = [closed(part) for part in value]
        else:
            result[key] = value
    if "properties" in result and not result.keys() & {"additionalProperties", "patternProperties", "allOf", "$ref"}:
        result["additionalProperties"] = False
    return result
