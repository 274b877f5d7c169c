"""What a call works on, as policies see it: read from the body, and only where a policy asks for it."""

import posixpath
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

import orjson
from pydantic import JsonValue

from aios_access.policy_schema import ResourceType
from aios_proto.errors import InvalidRequest, MalformedRequest

_FILE_FIELDS = ("path", "source", "target", "prefix")


@dataclass(frozen=True, slots=True)
class Resource:
    """One thing a call works on.

    Attributes:
        type: what it is.
        tenant: whose it is.
        name: its name within the tenant and the owner; empty where the call names none.
        owner: the agent it belongs to.
        effects: what a tool declares: `read_only`, `idempotent`, `irreversible`.
    """

    type: ResourceType
    tenant: str
    name: str
    owner: str
    effects: frozenset[str] = frozenset()

    @property
    def id(self) -> str:
        """Its id as a Cedar entity."""
        if self.type == "Tenant":
            return self.tenant
        if self.type == "Agent":
            return f"{self.tenant}.{self.name}"
        return f"{self.tenant}/{self.name}"


def parse_body(body: bytes) -> Mapping[str, JsonValue]:
    """The body of a call as a JSON object.

    Raises:
        MalformedRequest: it is none.
    """
    try:
        parsed = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError as error:
        raise MalformedRequest("the body is not JSON", field="body") from error
    if not isinstance(parsed, dict):
        raise MalformedRequest("the body must be a JSON object", field="body")
    return parsed


def resources_of(
    manager: str, body: Mapping[str, JsonValue], context: str | None, tenant: str, agent: str
) -> tuple[Resource, ...]:
    """What a call works on; all of it must be allowed.

    Args:
        manager: which manager is called.
        body: parsed.
        context: what the call's `Aios-Context` header names.
        tenant: of the caller.
        agent: the caller, whose own the resources are unless the body says otherwise.
    """
    owner = agent
    if manager == "llm":
        return (Resource("Model", tenant, _text(body, "model"), owner),)
    if manager == "context":
        name = _text(body, "context") or _text(body, "snapshot") or context or ""
        return (Resource("Context", tenant, name, _text(body, "owner") or owner),)
    if manager == "memory":
        if "pool" in body:
            return (Resource("Pool", tenant, _text(body, "pool"), owner),)
        return (Resource("Memory", tenant, _text(body, "memory_id"), owner),)
    if manager == "storage":
        named = [_text(body, field) for field in _FILE_FIELDS if field in body]
        return tuple(_file(tenant, path, owner) for path in named or [""])
    if manager == "tool":
        spec = body.get("tool")
        name = _text(spec, "name") if isinstance(spec, dict) else _text(body, "name")
        return (Resource("Tool", tenant, name, owner),)
    if manager == "access":
        meant = _text(body, "tenant") or tenant
        if "agent" in body:
            return (Resource("Agent", meant, _text(body, "agent"), owner),)
        return (Resource("Tenant", meant, "", owner),)
    return (Resource("Tenant", tenant, "", owner),)


def parse_resource(text: str, tenant: str, owner: str) -> Resource:
    """A resource as an operator writes it, such as `File::"notes/x"`.

    Raises:
        InvalidRequest: it has another form.
    """
    kind, separator, quoted = text.partition("::")
    name = quoted[1:-1] if len(quoted) >= 2 and quoted[0] == quoted[-1] == '"' else quoted
    if not separator:
        raise InvalidRequest('a resource is written Type::"name", such as File::"notes/x"', field="resource")
    match kind:
        case "Tenant":
            return Resource("Tenant", name, "", owner)
        case "File":
            return _file(tenant, name, owner)
        case "Agent" | "Model" | "Context" | "Memory" | "Pool" | "Tool":
            return Resource(kind, tenant, name, owner)
    raise InvalidRequest(f"there is no resource type {kind[:40]!r}", field="resource")


def _text(body: Mapping[str, JsonValue], field: str) -> str:
    value = body.get(field)
    return value if isinstance(value, str) else ""


def _file(tenant: str, path: str, owner: str) -> Resource:
    # `~bob/notes/x` is the file notes/x of the agent bob.
    name = _path(path)
    if name.startswith("~"):
        owner, _, name = name[1:].partition("/")
    return Resource("File", tenant, name, owner)


def _path(path: str) -> str:
    # As storage names it: a policy on `secret/*` must also see `a/../secret/x` and `/secret/x`.
    normal = posixpath.normpath("/" + unicodedata.normalize("NFC", path)).lstrip("/")
    return normal + "/" if normal and path.endswith("/") else normal
