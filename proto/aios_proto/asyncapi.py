"""What the AsyncAPI 3.0 document says: the system calls as channels and operations, seen from the kernel.

The kernel *receives* a call and replies with frames; a client does the reverse.
"""

import json
import re
from typing import Final

from pydantic import BaseModel, JsonValue
from pydantic.json_schema import models_json_schema

from aios_proto import PROTOCOL_VERSION
from aios_proto.errors import ErrorBody
from aios_proto.frames import Accepted, Delta, Done, Failed, PendingApproval, Timings, Usage
from aios_proto.json_schema import PlainJsonSchema, require_frame_types
from aios_proto.names import NAME_PATTERN
from aios_proto.operations import OPERATIONS, Operation
from aios_proto.subjects import SYSCALL_QUEUE_GROUP

Schema = dict[str, JsonValue]

INBOX: Final = "inbox"
_DESCRIPTION: Final = """\
A system call is one NATS message to `aios.sys.<tenant>.<agent>.<manager>.<operation>` with the headers below and a JSON
object as its body. Its reply subject must be `_INBOX.<tenant>.<agent>.<anything>`: one under the caller's own inbox;
any other is refused. The answer is a sequence of JSON frames to that subject, in the order accepted? pending_approval?
delta* (done | error): exactly one done or error ends a call. With `n` characters of a streamed answer received, a
reader appends `text[n - text_offset:]` of a delta, and so drops what it has already after a failover. A call sent again
with the same `Aios-Id` runs once and answers twice."""
_TOKEN: Final = (
    "An agent's token `<tenant>.<agent>.<secret>`, sent as `auth_token` of the NATS CONNECT message. Its first two "
    "parts are the identity, and so the subjects the bus lets the connection use."
)
_FRAMES: Final[dict[str, type[BaseModel]]] = {
    "accepted": Accepted,
    "pending_approval": PendingApproval,
    "delta": Delta,
    "error": Failed,
}


def asyncapi_document(headers: Schema) -> Schema:
    """The whole document; `headers` is the schema of a call's headers."""
    schemas = _component_schemas() | {"CallHeaders": headers}
    messages: dict[str, JsonValue] = {
        name: _message(name, _reference("schemas", model.__name__)) for name, model in _FRAMES.items()
    }
    channels: dict[str, JsonValue] = {}
    operations: dict[str, JsonValue] = {}
    for operation in OPERATIONS.values():
        name = operation.full_name
        request = _message(f"{name}.request", _reference("schemas", f"{name}.request"))
        messages[f"{name}.request"] = request | {"headers": _reference("schemas", "CallHeaders")}
        messages[f"{name}.done"] = _message(f"{name}.done", _done_payload(operation))
        channels[name] = {
            "address": f"aios.sys.{{tenant}}.{{agent}}.{name}",
            "parameters": _parameters(),
            "messages": {"request": _reference("messages", f"{name}.request")},
        }
        operations[name] = _operation(operation)
    channels[INBOX] = {
        "address": "_INBOX.{tenant}.{agent}.{token}",
        "description": "Replies to one agent. It subscribes to `_INBOX.<tenant>.<agent>.>` or narrower, nothing else.",
        "parameters": _parameters() | {"token": {"description": "chosen by the caller, one for each call"}},
        "messages": {name: _reference("messages", name) for name in messages if not name.endswith(".request")},
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "AIOS on NATS: system calls",
            "version": f"{PROTOCOL_VERSION}.0.0",
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "bus": {
                "host": "localhost:4222",
                "protocol": "nats",
                "description": "any server of the NATS cluster",
                "security": [_reference("securitySchemes", "agentToken")],
            }
        },
        "channels": channels,
        "operations": operations,
        "components": {
            "securitySchemes": {"agentToken": {"type": "apiKey", "in": "password", "description": _TOKEN}},
            "messages": messages,
            "schemas": schemas,
        },
    }


def _component_schemas() -> Schema:
    """Every model under a readable name: `llm.chat.request`, and the nested ones by class."""
    models: list[type[BaseModel]] = [*_FRAMES.values(), Done, ErrorBody, Usage, Timings]
    for operation in OPERATIONS.values():
        models += [operation.request, operation.result]
    references, definitions = models_json_schema(
        [(model, "validation") for model in dict.fromkeys(models)],
        ref_template="#/components/schemas/{model}",
        schema_generator=PlainJsonSchema,
    )
    schemas: Schema = _with_readable_names(definitions["$defs"])
    require_frame_types(schemas)
    for operation in OPERATIONS.values():
        for part, model in (("request", operation.request), ("result", operation.result)):
            schemas[f"{operation.full_name}.{part}"] = _with_readable_names(references[(model, "validation")])
    return schemas


def _with_readable_names(schema: Schema) -> Schema:
    """Shortens the names of classes that two managers have: pydantic spells them with the whole module path."""
    readable: Schema = json.loads(re.sub(r"aios_proto__messages__([a-z]+)__", r"\1.", json.dumps(schema)))
    return readable


def _done_payload(operation: Operation) -> Schema:
    return {
        "allOf": [
            _reference("schemas", Done.__name__),
            {
                "type": "object",
                "properties": {"result": _reference("schemas", f"{operation.full_name}.result")},
                "required": ["type", "id", "result"],
            },
        ]
    }


def _operation(operation: Operation) -> Schema:
    name = operation.full_name
    frames = ["accepted", "pending_approval", *(["delta"] if operation.streams else []), f"{name}.done", "error"]
    return {
        "action": "receive",
        "channel": _reference_to(f"#/channels/{name}"),
        "title": name,
        "summary": " ".join((operation.request.__doc__ or "").split()),
        "description": f"Default durability: {operation.durability}. Streams: {'yes' if operation.streams else 'no'}.",
        "messages": [_reference_to(f"#/channels/{name}/messages/request")],
        "bindings": {"nats": {"queue": SYSCALL_QUEUE_GROUP, "bindingVersion": "0.1.0"}},
        "reply": {
            "channel": _reference_to(f"#/channels/{INBOX}"),
            "messages": [_reference_to(f"#/channels/{INBOX}/messages/{frame}") for frame in frames],
        },
    }


def _message(name: str, payload: Schema) -> Schema:
    return {"name": name, "contentType": "application/json", "payload": payload}


def _parameters() -> Schema:
    form = f"matches `{NAME_PATTERN}`"
    return {
        "tenant": {"description": f"tenant of the caller, the first part of its token; {form}"},
        "agent": {"description": f"name of the caller, the second part of its token; {form}"},
    }


def _reference(kind: str, name: str) -> Schema:
    return _reference_to(f"#/components/{kind}/{name}")


def _reference_to(pointer: str) -> Schema:
    return {"$ref": pointer}
