"""The published schemas are those of the models, sound, and accept what the kernel and its clients say."""

import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from jsonschema.validators import Draft202012Validator

from aios_proto import headers, schemas
from aios_proto.errors import QueueFull, wire_codes
from aios_proto.frames import Accepted, Delta, Done, Failed, Usage
from aios_proto.headers import CallHeaders
from aios_proto.operations import OPERATIONS

PUBLISHED = {path.name: json.loads(path.read_text()) for path in sorted(schemas.FOLDER.glob("*.json"))}


def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(PUBLISHED[name])


def test_the_published_schemas_are_those_of_the_models() -> None:
    assert schemas.differences(schemas.FOLDER) == []
    assert schemas.documents() == schemas.documents()


def test_check_names_every_file_that_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "schemas"
    assert schemas.main(["--folder", str(folder)]) == 0
    assert schemas.main(["--check", "--folder", str(folder)]) == 0
    assert capsys.readouterr().err == ""
    (folder / "frames.json").write_text("{}")
    (folder / "llm.chat.request.json").unlink()
    (folder / "stale.json").write_text("{}")
    assert schemas.main(["--check", "--folder", str(folder)]) == 1
    told = capsys.readouterr().err
    assert all(name in told for name in ("frames.json", "llm.chat.request.json", "stale.json"))
    assert "error.json" not in told
    assert schemas.main(["--folder", str(folder)]) == 0
    assert schemas.differences(folder) == []
    assert not (folder / "stale.json").exists()
    shutil.rmtree(folder)
    assert schemas.main(["--check", "--folder", str(folder)]) == 1


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name != "asyncapi.json"])
def test_a_published_schema_is_sound_json_schema(name: str) -> None:
    schema = PUBLISHED[name]
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == schemas.DIALECT
    assert schema["$id"] == f"urn:aios:1:{name.removesuffix('.json')}"
    assert "discriminator" not in json.dumps(schema)


def test_every_operation_has_its_pair() -> None:
    pairs = {f"{op.full_name}.{part}.json" for op in OPERATIONS.values() for part in ("request", "result")}
    assert PUBLISHED.keys() == pairs | {"frames.json", "error.json", "headers.json", "asyncapi.json"}


def test_requests_with_unknown_fields_are_refused_and_results_may_grow() -> None:
    call = {"messages": [{"role": "user", "content": "Hi"}]}
    validator("llm.chat.request.json").validate(call)
    with pytest.raises(jsonschema.ValidationError):
        validator("llm.chat.request.json").validate(call | {"max_token": 3})
    with pytest.raises(jsonschema.ValidationError):
        validator("llm.chat.request.json").validate({"messages": []})
    result = {"message": {"role": "assistant", "content": "x"}, "finish_reason": "stop", "model": "m"}
    validator("llm.chat.result.json").validate(result | {"news": 1})


FRAMES: list[Any] = [
    Accepted(id="x"),
    Delta(id="x", offset=0, tokens=1, text_offset=0, text="a"),
    Done(id="x", result={"text": "a"}, usage=Usage(prompt_tokens=1, completion_tokens=1)),
    Failed(id="x", error=QueueFull("full").body()),
]


@pytest.mark.parametrize("frame", FRAMES)
def test_frames_as_they_are_sent_fit_the_schema(frame: Any) -> None:
    validator("frames.json").validate(frame.model_dump(mode="json"))
    validator("frames.json").validate(frame.model_dump(mode="json", exclude_none=True))


@pytest.mark.parametrize(
    "frame", [{}, {"id": "x"}, {"type": "joke", "id": "x"}, {"type": "done", "id": "x"}, {"id": "x", "result": {}}]
)
def test_what_is_no_frame_does_not_fit_the_schema(frame: dict[str, object]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validator("frames.json").validate(frame)


def test_every_error_code_is_published_with_its_meaning() -> None:
    codes = PUBLISHED["error.json"]["x-codes"]
    assert codes.keys() == wire_codes().keys()
    for code, cls in wire_codes().items():
        assert codes[code]["retryable"] is cls.default_retryable
        assert codes[code]["description"]
        validator("error.json").validate(cls("m").body().model_dump(mode="json"))


FULL = CallHeaders(
    id="x",
    program="p",
    priority=7,
    deadline_ms=1_900_000_000_000,
    after=("a", "b-c"),
    context="c",
    durability="volatile",
    traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01",
    tracestate="v=1",
    tenant="t",
    agent="a",
    group="g",
    reply="_INBOX.t.a.x",
    times_us=(1, 2),
    attempt=1,
    operation="chat",
)


def test_every_header_is_published() -> None:
    wire = FULL.to_wire()
    assert wire.keys() == PUBLISHED["headers.json"]["properties"].keys()
    validator("headers.json").validate(wire)
    validator("headers.json").validate(CallHeaders(id="x").to_wire())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (headers.ID, "a b"),
        (headers.PROTO, "2"),
        (headers.PRIORITY, "10"),
        (headers.DEADLINE, "soon"),
        (headers.AFTER, ",".join("a" * 65)),
        (headers.DURABILITY, "forever"),
        (headers.CONTEXT, "a.b"),
    ],
)
def test_headers_the_kernel_would_refuse_do_not_fit_the_schema(name: str, value: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validator("headers.json").validate(FULL.to_wire() | {name: value})


# AsyncAPI. Its own JSON Schema is checked by the Node.js client's test.

ASYNCAPI = PUBLISHED["asyncapi.json"]


def resolve(pointer: str) -> Any:
    assert pointer.startswith("#/"), pointer
    value: Any = ASYNCAPI
    for part in pointer[2:].split("/"):
        value = value[part]
    return value


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for entry in value.values() for found in references(entry)]
    if isinstance(value, list):
        return [found for entry in value for found in references(entry)]
    return []


def test_every_reference_of_the_asyncapi_document_leads_somewhere() -> None:
    found = references(ASYNCAPI)
    assert len(found) > 300
    for pointer in found:
        assert resolve(pointer) is not None
    assert "aios_proto" not in json.dumps(ASYNCAPI)


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=lambda op: op.full_name)
def test_every_operation_has_a_channel_and_a_reply(operation: Any) -> None:
    name = operation.full_name
    described = ASYNCAPI["operations"][name]
    channel = resolve(described["channel"]["$ref"])
    assert channel["address"] == f"aios.sys.{{tenant}}.{{agent}}.{name}"
    assert channel["parameters"].keys() == {"tenant", "agent"}
    inbox = resolve(described["reply"]["channel"]["$ref"])
    assert inbox["address"].startswith("_INBOX.{tenant}.{agent}.")
    replies = [message["$ref"].rsplit("/", 1)[1] for message in described["reply"]["messages"]]
    deltas = ["delta"] if operation.streams else []
    assert replies == ["accepted", "pending_approval", *deltas, f"{name}.done", "error"]


def test_the_payloads_of_the_asyncapi_document_are_those_of_the_single_schemas() -> None:
    whole = {"$schema": schemas.DIALECT, "components": ASYNCAPI["components"]}
    for name in ("llm.chat.request", "memory.search.request"):
        checker = Draft202012Validator(whole | {"$ref": f"#/components/schemas/{name}"})
        with pytest.raises(jsonschema.ValidationError):
            checker.validate({"unknown": 1})
    done = Draft202012Validator(whole | {"$ref": "#/components/messages/llm.chat.done/payload"})
    result = {"message": {"role": "assistant", "content": "x"}, "finish_reason": "stop", "model": "m"}
    done.validate({"type": "done", "id": "x", "result": result})
    with pytest.raises(jsonschema.ValidationError):
        done.validate({"type": "done", "id": "x", "result": {"text": "x"}})
