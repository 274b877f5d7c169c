"""Short ways to call the memory manager in tests."""

from typing import Any

from support.frame_inbox import KernelCaller


async def done(caller: KernelCaller, operation: str, body: object = None, **options: Any) -> Any:
    """The result of a call that must succeed."""
    frame = await caller.call("memory", operation, body, **options)
    assert frame["type"] == "done", frame
    return frame["result"]


async def refused(caller: KernelCaller, operation: str, body: object = None, **options: Any) -> str:
    """The error code of a call that must fail."""
    frame = await caller.call("memory", operation, body, **options)
    assert frame["type"] == "error", frame
    code: str = frame["error"]["code"]
    return code


async def add(caller: KernelCaller, content: str, **fields: Any) -> str:
    """The id of a new note."""
    made = await done(caller, "add", {"content": content, **fields})
    name: str = made["memory_id"]
    return name


async def contents(caller: KernelCaller, operation: str, **fields: Any) -> list[str]:
    """What a search or list finds."""
    found = await done(caller, operation, fields)
    return [memory["content"] for memory in found["memories"]]
