"""How our models become plain JSON Schema 2020-12, where pydantic's own output leans towards OpenAPI."""

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import TaggedUnionSchema

FRAME_NAMES = ("Accepted", "PendingApproval", "Delta", "Done", "Failed")


class PlainJsonSchema(GenerateJsonSchema):
    """Leaves out OpenAPI's `discriminator`, which JSON Schema does not know; each branch's `const` says the same."""

    def tagged_union_schema(self, schema: TaggedUnionSchema) -> JsonSchemaValue:
        """A `oneOf` and nothing else."""
        json_schema = super().tagged_union_schema(schema)
        json_schema.pop("discriminator", None)
        return json_schema


def require_frame_types(definitions: dict[str, Any]) -> None:
    """Makes `type` required in the definitions of frames: in Python it has a default, on the wire it must be there."""
    for name in FRAME_NAMES:
        if name in definitions:
            frame = definitions[name]
            frame["properties"]["type"].pop("default", None)
            frame["required"] = ["type", *frame["required"]]
