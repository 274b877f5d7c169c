"""Tools that are system calls of other managers, made in the name of the agent whose call it is.

A call between services does not pass access by itself, so access is asked first whether the agent might make it.
"""

from typing import TypeVar

from pydantic import JsonValue, ValidationError

from aios_kit.kernel_calls import KernelCalls
from aios_proto.errors import AccessDenied, InvalidRequest, ToolFailed
from aios_proto.messages import access, memory, storage
from aios_proto.messages.base import Body, Result
from aios_proto.messages.tool import Effect, ToolSpec
from aios_tool.core.builtin import Builtin, Work
from aios_tool.ports import Attempt

B = TypeVar("B", bound=Body)
R = TypeVar("R", bound=Result)

_PATH: JsonValue = {"type": "string", "minLength": 1, "maxLength": 1024, "description": "such as notes/today.txt"}


def file_tools(calls: KernelCalls) -> list[Builtin]:
    """`file_read`, `file_write` and `file_list`, on the storage manager."""

    async def read(attempt: Attempt) -> JsonValue:
        request = _made(storage.ReadRequest, path=attempt.arguments["path"])
        found = await _ask(calls, attempt, "storage", "read", request, storage.ReadResult, f'File::"{request.path}"')
        if found.text is None:
            raise ToolFailed(f"{attempt.arguments['path']} is not text")
        return {"path": found.path, "version": found.version, "text": found.text}

    async def write(attempt: Attempt) -> JsonValue:
        request = _made(storage.WriteRequest, path=attempt.arguments["path"], text=attempt.arguments["text"])
        written = await _ask(calls, attempt, "storage", "write", request, storage.FileInfo, f'File::"{request.path}"')
        return {"path": written.path, "version": written.version}

    async def entries(attempt: Attempt) -> JsonValue:
        request = _made(storage.ListRequest, prefix=attempt.arguments.get("folder", ""), limit=1000)
        found = await _ask(calls, attempt, "storage", "list", request, storage.FilesResult, f'File::"{request.prefix}"')
        return {"files": [{"path": file.path, "size_bytes": file.size_bytes} for file in found.files]}

    return [
        _tool("file_read", "Reads a text file of this agent.", {"path": _PATH}, ["path"], read, reads=["file:{path}"]),
        _tool(
            "file_write",
            "Writes a text file of this agent; what it held before stays as a version.",
            {"path": _PATH, "text": {"type": "string", "maxLength": 500_000}},
            ["path", "text"],
            write,
            effects=["idempotent"],
            writes=["file:{path}"],
        ),
        _tool("file_list", "Lists the files of this agent.", {"folder": {"type": "string"}}, [], entries),
    ]


def memory_tool(calls: KernelCalls) -> Builtin:
    """`memory_search`, on the memory manager."""

    async def search(attempt: Attempt) -> JsonValue:
        given = attempt.arguments
        request = _made(memory.SearchRequest, query=given["query"], limit=given.get("limit", 5))
        found = await _ask(calls, attempt, "memory", "search", request, memory.MemoriesResult)
        return {"memories": [{"memory_id": note.memory_id, "content": note.content} for note in found.memories]}

    properties: dict[str, JsonValue] = {
        "query": {"type": "string", "minLength": 1, "maxLength": 4096},
        "limit": {"type": "integer", "minimum": 1, "maximum": 50},
    }
    return _tool("memory_search", "Searches this agent's memories.", properties, ["query"], search)


def _made(model: type[B], **fields: JsonValue) -> B:
    """A request from arguments; what the other manager's model refuses is the caller's fault.

    Raises:
        InvalidRequest: an argument cannot be used; `field` names it.
    """
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        path = ".".join(map(str, ("arguments", *first["loc"])))
        raise InvalidRequest(f"{path}: {first['msg']}", field=path) from error


async def _ask(
    calls: KernelCalls,
    attempt: Attempt,
    manager: str,
    operation: str,
    request: Body,
    result: type[R],
    resource: str | None = None,
) -> R:
    name, caller = f"{manager}.{operation}", attempt.call
    check = access.PolicyCheckRequest(agent=caller.agent, operation=name, resource=resource, tainted=bool(caller.taint))
    allowed = await calls.call(
        "access", "policy.check", check, access.PolicyCheckResult, on_behalf=caller, deadline_s=attempt.timeout_s
    )
    if allowed.decision != "allow":
        raise AccessDenied(f"this agent may not perform {name} here, by a tool neither", field="name")
    # The id is made of the call's own, so that a repeated attempt is the same call to the other manager too.
    return await calls.call(
        manager,
        operation,
        request,
        result,
        on_behalf=attempt.call,
        deadline_s=attempt.timeout_s,
        call_id=f"{attempt.call.id[:56]}-{operation}"[:64],
    )


def _tool(
    name: str,
    description: str,
    properties: dict[str, JsonValue],
    required: list[str],
    work: Work,
    *,
    effects: list[Effect] | None = None,
    reads: list[str] | None = None,
    writes: list[str] | None = None,
) -> Builtin:
    schema: dict[str, JsonValue] = {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }
    spec = ToolSpec(
        name=name,
        description=description,
        input_schema=schema,
        effects=effects or ["read_only"],
        reads=reads or [],
        writes=writes or [],
        timeout_s=30,
        concurrency=64,
    )
    return Builtin(spec, work)
