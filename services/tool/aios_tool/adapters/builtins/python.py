"""Python code in the sandbox: what it prints is the answer."""

from pydantic import JsonValue

from aios_proto.errors import ToolFailed, ToolLimitExceeded
from aios_proto.messages.tool import ToolSpec
from aios_tool.adapters.sandbox.bounds import Bounds, Ran, Sandbox
from aios_tool.core.builtin import Builtin
from aios_tool.ports import Attempt

_CODE_CHARS = 200_000
_TAIL_CHARS = 2000
_SIGXCPU = 24
_SIGXFSZ = 25
_SIGKILL = 9


def python_tool(sandbox: Sandbox, bounds: Bounds) -> Builtin:
    """The tool, on a sandbox that holds."""

    async def work(attempt: Attempt) -> JsonValue:
        ran = await sandbox.run(str(attempt.arguments["code"]), bounds)
        return answer_of(ran, bounds)

    spec = ToolSpec(
        name="python",
        description="Runs Python code with the standard library, without network or files of others, and gives back "
        "what it prints.",
        input_schema={
            "type": "object",
            "properties": {"code": {"type": "string", "minLength": 1, "maxLength": _CODE_CHARS}},
            "required": ["code"],
            "additionalProperties": False,
        },
        output_schema={
            "type": "object",
            "properties": {"stdout": {"type": "string"}, "stderr": {"type": "string"}},
            "required": ["stdout", "stderr"],
        },
        effects=["read_only"],
        timeout_s=bounds.wall_s + 10,
        concurrency=4,
    )
    return Builtin(spec, work)


def answer_of(ran: Ran, bounds: Bounds) -> JsonValue:
    """What a run printed.

    Raises:
        ToolLimitExceeded: it was ended at a limit.
        ToolFailed: it ended with an error, which the message shows.
    """
    if ran.stopped_at is not None:
        raise ToolLimitExceeded(f"the code was stopped at {ran.stopped_at}")
    signal = -ran.exit_code if ran.exit_code < 0 else ran.exit_code - 128
    if signal == _SIGXCPU or (signal == _SIGKILL and not ran.stderr):
        raise ToolLimitExceeded(f"the code was stopped at {bounds.cpu_s} s of CPU, or at its memory")
    if signal == _SIGXFSZ:
        raise ToolLimitExceeded(f"the code was stopped at a file of {bounds.disk_bytes} bytes")
    if "MemoryError" in ran.stderr[-_TAIL_CHARS:]:
        raise ToolLimitExceeded(f"the code wanted more than {bounds.memory_bytes} bytes of memory")
    if ran.exit_code:
        raise ToolFailed(f"the code ended with {ran.exit_code}: {ran.stderr[-_TAIL_CHARS:]}")
    return {"stdout": ran.stdout, "stderr": ran.stderr}
