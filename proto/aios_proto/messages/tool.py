"""Tools: `tool.register unregister list call cancel result`, and what the process that serves a tool is sent.

An agent may publish system calls and read its own inbox, nothing else. So whoever serves a tool gets a
`ToolInvocation` at `_INBOX.<tenant>.<agent>.<replica>.tools`, where `replica` is the token it named when it
registered, and answers with the system call `tool.result`.
"""

from typing import Annotated, Literal

from pydantic import Field, JsonValue, model_validator

from aios_proto.messages.base import Body, Result
from aios_proto.names import Name

Effect = Literal["read_only", "idempotent", "irreversible"]
ToolSource = Literal["agent", "mcp", "builtin"]
ToolHealth = Literal["up", "failing", "down"]

Resource = Annotated[
    str,
    Field(
        min_length=1,
        max_length=256,
        description="name of a resource; `{argument}` stands for the value of that argument, such as `file:{path}`",
    ),
]


class ToolSpec(Body):
    """One tool as its owner declares it."""

    name: Name
    version: str = Field("1", max_length=64)
    description: str = Field("", max_length=8192)
    input_schema: dict[str, JsonValue]
    output_schema: dict[str, JsonValue] | None = None
    effects: list[Effect] = Field(
        default_factory=list,
        description="`read_only` changes nothing; `idempotent` may be run again under the same call id; `irreversible` "
        "is asked about first; with neither of the first two a call is run at most once",
    )
    reads: list[Resource] = Field(
        default_factory=list, max_length=64, description="resources it reads; conflicts with their writers"
    )
    writes: list[Resource] = Field(
        default_factory=list, max_length=64, description="resources it writes; conflicts with all others there"
    )
    timeout_s: float = Field(30, gt=0, le=3600)
    concurrency: int = Field(8, ge=1, le=1024)
    retries: int = Field(0, ge=0, le=5, description="further attempts after a failure that may pass")

    @model_validator(mode="after")
    def _effects_agree(self) -> "ToolSpec":
        if "read_only" in self.effects and "irreversible" in self.effects:
            msg = "a tool that is read_only cannot be irreversible"
            raise ValueError(msg)
        if self.retries and not self.repeatable:
            msg = "retries need the effect read_only or idempotent"
            raise ValueError(msg)
        return self

    @property
    def repeatable(self) -> bool:
        """Whether running the same call again does no harm."""
        return "read_only" in self.effects or "idempotent" in self.effects


class RegisterRequest(Body):
    """`tool.register`: one process of the calling agent serves this tool from now on."""

    tool: ToolSpec
    replica: Name = Field(description="invocations come to `_INBOX.<tenant>.<agent>.<replica>.tools`")


class UnregisterRequest(Body):
    """`tool.unregister`: this process, or where no replica is named the tool itself, is no more."""

    name: Name
    replica: Name | None = None


class ToolCallRequest(Body):
    """`tool.call`."""

    name: Name
    arguments: dict[str, JsonValue] = Field(default_factory=dict)


class ToolCallResult(Result):
    """What the tool answered; `untrusted` content must not steer the agent."""

    content: JsonValue
    untrusted: bool = True
    taint: list[str] = Field(
        default_factory=list, description="where untrusted content came from, such as `tool:fetch`"
    )
    tool: Name
    version: str = "1"
    attempts: int = Field(1, ge=1, description="how often the tool was run for this call")


class ToolFault(Body):
    """Why a tool could not do what it was asked."""

    message: str = Field(max_length=8192)
    retryable: bool = False
    field: str | None = Field(None, description="path of the argument at fault, where one is")


class ToolResultRequest(Body):
    """`tool.result`: what the process that runs an invocation has to say. One of the four; none of them is
    a content of null.
    """

    invocation: str = Field(max_length=128)
    content: JsonValue = None
    fault: ToolFault | None = None
    progress: str | None = Field(None, max_length=65536)
    unknown: bool = Field(False, description="the answer to a ping about an invocation that never came here")


class ToolResultTaken(Result):
    """Whether the kernel still waited for it."""

    waited: bool


class ToolInvocation(Result):
    """What the process that serves a tool is sent: a call of it, or that a call has ended without it.

    `ping` names an invocation that should be running; only who has never got that one has to say so.
    """

    type: Literal["call", "cancel", "ping"]
    invocation: str = Field("", description="names this attempt; `tool.result` gives it back")
    tool: str = ""
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    deadline_ms: int = Field(0, description="Unix time in milliseconds after which the result is of no use")
    call_id: str = Field("", description="`<tenant>.<agent>.<id>` of the call: the same for each attempt")
    fencing_token: int | None = Field(
        None,
        description="grows with each attempt of a call that has effects; a store that keeps the largest seen "
        "refuses a late writer",
    )
    traceparent: str | None = None


class ToolInfo(Result):
    """A tool and how it is."""

    name: Name
    version: str
    description: str
    input_schema: dict[str, JsonValue]
    output_schema: dict[str, JsonValue] | None = None
    effects: list[Effect]
    reads: list[str] = Field(default_factory=list)
    writes: list[str] = Field(default_factory=list)
    timeout_s: float = 30
    concurrency: int = 8
    owner: str
    source: ToolSource = "agent"
    health: ToolHealth = "up"
    replicas: int = Field(1, description="processes that serve it")


class ToolsResult(Result):
    """`tool.list`: the tools the caller's tenant can call."""

    tools: list[ToolInfo]


class ToolRecord(Result):
    """The value of one key of the bucket `AIOS_TOOLS`: `<tenant>.<name>`, or `kernel.<name>` for everyone's tools."""

    tool: ToolSpec
    tenant: Name
    owner: str = Field(description="the agent, or `mcp:<server>`, or `builtin`")
    source: ToolSource
    replicas: list[str] = Field(default_factory=list, description="of an agent's tool: its processes")
    registered_ms: int
