"""Which tools there are, who may call and who may change them."""

from collections.abc import Set
from dataclasses import dataclass

from aios_proto import subjects
from aios_proto.errors import AccessDenied, InvalidRequest, ResourceConflict, ResourceNotFound
from aios_proto.messages.tool import RegisterRequest, ToolInfo, ToolRecord, ToolSpec, UnregisterRequest
from aios_tool.core.schemas import CompiledSchema

MAX_TOOLS_PER_TENANT = 1000
MAX_REPLICAS = 256


def record_key(record: ToolRecord) -> str:
    """Its place in the bucket."""
    return f"{record.tenant}.{record.tool.name}"


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that can be called, its schemas compiled.

    Attributes:
        revision: of its record in the bucket.
    """

    record: ToolRecord
    revision: int
    input_schema: CompiledSchema
    output_schema: CompiledSchema | None

    @property
    def key(self) -> str:
        """Its place in the bucket."""
        return record_key(self.record)

    @property
    def spec(self) -> ToolSpec:
        """What its owner declared."""
        return self.record.tool


def compiled(record: ToolRecord, revision: int) -> Tool:
    """A tool from its record.

    Raises:
        InvalidRequest: a schema of it cannot be used.
    """
    spec = record.tool
    output = None if spec.output_schema is None else CompiledSchema(spec.output_schema, "tool.output_schema")
    return Tool(record, revision, CompiledSchema(spec.input_schema, "tool.input_schema"), output)


class Registry:
    """All tools, as the bucket has them; kept up to date by whoever watches it."""

    def __init__(self) -> None:
        self._tools: dict[str, Tool] = {}
        self._revisions: dict[str, int] = {}

    def put(self, tool: Tool) -> None:
        """Takes a tool in, unless a newer state of it is known."""
        if tool.revision >= self._revisions.get(tool.key, 0):
            self._revisions[tool.key] = tool.revision
            self._tools[tool.key] = tool

    def remove(self, key: str, revision: int) -> None:
        """Forgets a tool, unless a newer state of it is known."""
        if revision >= self._revisions.get(key, 0):
            self._revisions[key] = revision
            self._tools.pop(key, None)

    def keep_only(self, keys: Set[str]) -> None:
        """Forgets every tool that is not among `keys`."""
        for key in self._tools.keys() - keys:
            del self._tools[key]

    def get(self, key: str) -> Tool | None:
        """The tool of that key."""
        return self._tools.get(key)

    def all(self) -> list[Tool]:
        """Every tool."""
        return list(self._tools.values())

    def find(self, tenant: str, name: str) -> Tool:
        """The tool a caller of that tenant means. The kernel's own come first, so that none can be shadowed.

        Raises:
            ResourceNotFound: there is none.
        """
        tool = self._tools.get(f"{subjects.KERNEL_TENANT}.{name}") or self._tools.get(f"{tenant}.{name}")
        if tool is None:
            raise ResourceNotFound(f"there is no tool {name!r}", field="name")
        return tool

    def visible(self, tenant: str) -> list[Tool]:
        """What a caller of that tenant can call, by name; `find` gives the same."""
        own = [tool for tool in self._tools.values() if tool.record.tenant in (tenant, subjects.KERNEL_TENANT)]
        own.sort(key=lambda tool: (tool.spec.name, tool.record.tenant != subjects.KERNEL_TENANT))
        return [tool for at, tool in enumerate(own) if not at or own[at - 1].spec.name != tool.spec.name]

    def registered(self, tenant: str, agent: str, request: RegisterRequest, now_ms: int) -> ToolRecord:
        """The record after an agent has registered a tool.

        A process more with the same declaration joins those that serve it; another declaration replaces it, and the
        processes that served the old one serve it no more.

        Raises:
            ResourceConflict: the name is the kernel's or another agent's.
            InvalidRequest: there are too many, or a schema cannot be used.
        """
        spec = request.tool
        if f"{subjects.KERNEL_TENANT}.{spec.name}" in self._tools:
            raise ResourceConflict(f"{spec.name} is a tool of the kernel", field="tool.name")
        known = self._tools.get(f"{tenant}.{spec.name}")
        if known is None:
            if sum(tool.record.tenant == tenant for tool in self._tools.values()) >= MAX_TOOLS_PER_TENANT:
                raise InvalidRequest(f"a tenant may have {MAX_TOOLS_PER_TENANT} tools", field="tool.name")
            record = ToolRecord(tool=spec, tenant=tenant, owner=agent, source="agent", registered_ms=now_ms)
            return record.model_copy(update={"replicas": [request.replica]})
        if known.record.owner != agent:
            raise ResourceConflict(f"{spec.name} is a tool of the agent {known.record.owner}", field="tool.name")
        if known.spec != spec:
            return known.record.model_copy(
                update={"tool": spec, "replicas": [request.replica], "registered_ms": now_ms}
            )
        replicas = [*(name for name in known.record.replicas if name != request.replica), request.replica]
        return known.record.model_copy(update={"replicas": replicas[-MAX_REPLICAS:]})

    def unregistered(self, tenant: str, agent: str, request: UnregisterRequest) -> tuple[Tool, ToolRecord | None]:
        """The tool, and its record after a process of its owner (or with none named, the tool) has gone.

        Raises:
            ResourceNotFound: there is no such tool.
            AccessDenied: it is another's.
        """
        tool = self.find(tenant, request.name)
        if tool.record.source != "agent" or tool.record.owner != agent:
            raise AccessDenied(f"{request.name} is not a tool of this agent", field="name")
        if request.replica is None:
            return tool, None
        return tool, without_replica(tool.record, request.replica)


def without_replica(record: ToolRecord, replica: str) -> ToolRecord:
    """The record after one process has gone."""
    return record.model_copy(update={"replicas": [name for name in record.replicas if name != replica]})


def info(tool: Tool, *, up: bool, healthy: bool) -> ToolInfo:
    """What callers are told of a tool.

    Args:
        tool: the tool.
        up: whether the server that it belongs to is there; agents' processes are counted here.
        healthy: whether its circuit is closed.
    """
    spec, record = tool.spec, tool.record
    replicas = len(record.replicas) if record.source == "agent" else int(up)
    return ToolInfo(
        name=spec.name,
        version=spec.version,
        description=spec.description,
        input_schema=spec.input_schema,
        output_schema=spec.output_schema,
        effects=spec.effects,
        reads=spec.reads,
        writes=spec.writes,
        timeout_s=spec.timeout_s,
        concurrency=spec.concurrency,
        owner=record.owner,
        source=record.source,
        health="down" if not replicas else "up" if healthy else "failing",
        replicas=replicas,
    )
