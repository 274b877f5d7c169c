"""What the published JSON Schemas say: everything under `proto/schemas/`, generated from the models and the call table.

`python -m aios_proto.schemas` writes them; with `--check` it exits 1 and names the files that differ. Other languages
need only these: JSON Schema 2020-12, a pair for each system call, frames, errors, headers, and an AsyncAPI document.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydantic import BaseModel, JsonValue

from aios_proto import PROTOCOL_VERSION, headers
from aios_proto.asyncapi import asyncapi_document
from aios_proto.errors import AiosError, ErrorBody, wire_codes
from aios_proto.frames import FRAME
from aios_proto.json_schema import PlainJsonSchema, require_frame_types
from aios_proto.names import NAME_PATTERN, SYSCALL_ID_PATTERN
from aios_proto.operations import OPERATIONS

Schema = dict[str, JsonValue]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
FOLDER: Final = Path(__file__).resolve().parent.parent / "schemas"


def documents() -> dict[str, str]:
    """All published files: name to text."""
    published: dict[str, Schema] = {}
    for operation in OPERATIONS.values():
        name = operation.full_name
        request = _schema_of(operation.request)
        request["x-streams"] = operation.streams
        request["x-durability"] = operation.durability
        published[f"{name}.request.json"] = _named(f"{name}.request", request)
        published[f"{name}.result.json"] = _named(f"{name}.result", _schema_of(operation.result))
    published["frames.json"] = _named("frames", frames_schema())
    published["error.json"] = _named("error", error_schema())
    published["headers.json"] = _named("headers", headers_schema())
    published["asyncapi.json"] = asyncapi_document(headers_schema())
    return {name: json.dumps(document, indent=2, ensure_ascii=False) + "\n" for name, document in published.items()}


def frames_schema() -> Schema:
    """One frame of a reply; `done.result` is open here and closed by the operation's own result schema."""
    schema = FRAME.json_schema(schema_generator=PlainJsonSchema)
    require_frame_types(schema["$defs"])
    schema["title"] = "Frame"
    schema["description"] = (
        "One message to the caller's inbox. Order: accepted? pending_approval? delta* (done | error); exactly one done "
        "or error ends a call. Readers ignore fields they do not know."
    )
    return schema


def error_schema() -> Schema:
    """The error body, and under `x-codes` every code that can cross the wire today.

    The codes are no enum: a reader that meets a code it does not know goes by its family, the part before the dot.
    """
    schema = _schema_of(ErrorBody)
    codes: dict[str, JsonValue] = {}
    for code, cls in wire_codes().items():
        codes[code] = {
            "description": _one_paragraph(cls),
            "family": code.partition(".")[0],
            "retryable": cls.default_retryable,
        }
    schema["x-codes"] = codes
    return schema


def headers_schema() -> Schema:
    """The headers of a call, all text. Those marked `x-stamped-by` are the kernel's; what an agent sends is dropped."""
    call_id: Schema = {"type": "string", "pattern": SYSCALL_ID_PATTERN}
    properties: dict[str, Schema] = {
        headers.ID: call_id | {"description": "names the call, a ULID by default; the same id sent twice runs once"},
        headers.PROTO: {"const": str(PROTOCOL_VERSION), "description": "version of this contract"},
        headers.PROGRAM: call_id | {"description": "the agent run this call belongs to, the unit of scheduling"},
        headers.PRIORITY: {
            "type": "string",
            "pattern": f"^[0-{headers.MAX_PRIORITY}]$",
            "default": str(headers.DEFAULT_PRIORITY),
            "description": f"0 (lowest) to {headers.MAX_PRIORITY} (highest)",
        },
        headers.DEADLINE: {
            "type": "string",
            "pattern": "^[0-9]{1,16}$",
            "description": "Unix time in milliseconds after which the answer is of no use",
        },
        headers.AFTER: {
            "type": "string",
            "pattern": f"^[A-Za-z0-9_-]{{1,64}}( *, *[A-Za-z0-9_-]{{1,64}}){{0,{headers.MAX_AFTER - 1}}}$",
            "description": f"ids of at most {headers.MAX_AFTER} calls that must end first, separated by commas",
        },
        headers.CONTEXT: {"type": "string", "pattern": NAME_PATTERN, "description": "context this call works on"},
        headers.DURABILITY: {
            "enum": ["durable", "volatile"],
            "description": "durable survives a restart of the bus; the default stands in `x-durability` of the request",
        },
        headers.TRACEPARENT: {"type": "string", "description": "W3C trace context"},
        headers.TRACESTATE: {"type": "string", "description": "W3C trace context"},
        headers.TENANT: _stamped("taken from the subject, which the bus has authenticated"),
        headers.AGENT: _stamped("taken from the subject, which the bus has authenticated"),
        headers.GROUP: _stamped("privilege group of the agent"),
        headers.REPLY: _stamped("where all frames of this call go"),
        headers.TIMES: _stamped("Unix times in microseconds: received, queued, given to a worker"),
        headers.ATTEMPT: _stamped("how often the call has been given to a worker, from 1"),
        headers.OPERATION: _stamped("what a worker is asked: chat or complete"),
    }
    return {
        "title": "CallHeaders",
        "description": "NATS headers of a system call. The body may be up to 1 MiB of JSON.",
        "type": "object",
        "properties": {name: value for name, value in properties.items()},  # noqa: C416 - widens the value type
        "required": [headers.ID, headers.PROTO],
    }


def _schema_of(model: type[BaseModel]) -> Schema:
    return model.model_json_schema(schema_generator=PlainJsonSchema)


def _named(name: str, schema: Schema) -> Schema:
    return {"$schema": DIALECT, "$id": f"urn:aios:{PROTOCOL_VERSION}:{name}"} | schema


def _stamped(description: str) -> Schema:
    return {"type": "string", "description": description, "x-stamped-by": "kernel"}


def _one_paragraph(cls: type[AiosError]) -> str:
    return " ".join((cls.__doc__ or "").split())


def differences(folder: Path) -> list[str]:
    """Names of the files in `folder` that are missing, different, or no longer generated; sorted."""
    expected = documents()
    present = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.json")}
    return sorted(name for name in expected.keys() | present.keys() if expected.get(name) != present.get(name))


def write(folder: Path) -> None:
    """Makes `folder` hold exactly the generated files; others than JSON are left alone."""
    folder.mkdir(parents=True, exist_ok=True)
    expected = documents()
    for path in folder.glob("*.json"):
        if path.name not in expected:
            path.unlink()
    for name, text in expected.items():
        (folder / name).write_text(text, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m aios_proto.schemas", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file differs")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the files stand")
    options = parser.parse_args(arguments)
    if not options.check:
        write(options.folder)
        return 0
    stale = differences(options.folder)
    for name in stale:
        sys.stderr.write(f"{options.folder / name} differs; run python -m aios_proto.schemas\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
