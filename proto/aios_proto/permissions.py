"""Who may publish and subscribe to what: what the bus itself enforces, for agents and for each kernel service.

Least privilege: a service gets the subjects of its own work and its own JetStream assets, nothing else.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from aios_proto import subjects

Role = Literal["access", "scheduler", "llm", "context", "memory", "storage", "tool", "gateway"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True, slots=True)
class Permissions:
    """Subject patterns the bus lets one user publish to and subscribe to."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def agent_permissions(tenant: str, agent: str) -> Permissions:
    """An agent: its own system calls out, its own inbox in."""
    return Permissions(
        publish=(subjects.syscalls_of(tenant, agent),),
        subscribe=(f"{subjects.inbox_prefix(tenant, agent)}.>",),
    )


def service_permissions(role: Role) -> Permissions:
    """A kernel service of that role."""
    publish, subscribe = _ROLES[role]
    return Permissions(
        publish=(
            *publish,
            "aios.k.presence.*.*",
            subjects.ALL_EVENTS,
            subjects.ALL_KERNEL_ANSWERS,
            subjects.CALL_ENDED,
            subjects.REDEEM_APPROVAL,
            "$JS.API.INFO",
            *_append_only(subjects.EVENTS_STREAM),
        ),
        subscribe=(*subscribe, f"{subjects.service_inbox_prefix(role)}.>"),
    )


def _stream(name: str) -> tuple[str, ...]:
    """What creating, reading and acknowledging one stream takes."""
    return (
        f"$JS.API.STREAM.*.{name}",
        f"$JS.API.STREAM.MSG.*.{name}",
        f"$JS.API.CONSUMER.*.{name}",
        f"$JS.API.CONSUMER.*.{name}.>",
        f"$JS.API.CONSUMER.DURABLE.CREATE.{name}.*",
        f"$JS.API.CONSUMER.MSG.NEXT.{name}.*",
        f"$JS.API.DIRECT.GET.{name}",
        f"$JS.API.DIRECT.GET.{name}.>",
        f"$JS.ACK.{name}.>",
        f"$JS.FC.{name}.>",
    )


def _append_only(name: str) -> tuple[str, ...]:
    """The same without deleting or emptying the stream, or a message of it: what has happened stays on record."""
    whole = {f"$JS.API.STREAM.*.{name}", f"$JS.API.STREAM.MSG.*.{name}"}
    return (
        *(f"$JS.API.STREAM.{request}.{name}" for request in ("CREATE", "UPDATE", "INFO", "MSG.GET")),
        *(pattern for pattern in _stream(name) if pattern not in whole),
    )


def _unchangeable(name: str) -> tuple[str, ...]:
    """The same without changing the stream: other limits would drop what is on record."""
    return tuple(pattern for pattern in _append_only(name) if pattern != f"$JS.API.STREAM.UPDATE.{name}")


def _bucket(name: str) -> tuple[str, ...]:
    """What using one key-value bucket takes."""
    return (f"$KV.{name}.>", *_stream(f"KV_{name}"))


def _watching(name: str) -> tuple[str, ...]:
    """What reading and watching a key-value bucket of another service takes, and making it where there is none yet."""
    stream = f"KV_{name}"
    return (
        f"$JS.API.STREAM.CREATE.{stream}",
        f"$JS.API.STREAM.INFO.{stream}",
        f"$JS.API.STREAM.MSG.GET.{stream}",
        f"$JS.API.DIRECT.GET.{stream}.>",
        f"$JS.API.CONSUMER.*.{stream}",
        f"$JS.API.CONSUMER.*.{stream}.>",
        f"$JS.ACK.{stream}.>",
        f"$JS.FC.{stream}.>",
    )


def _lease(role: str) -> tuple[str, ...]:
    """What holding the lease of a service takes; not of another's."""
    return (f"$KV.{subjects.LEASES_BUCKET}.{role}", *_watching(subjects.LEASES_BUCKET))


_AGENT_INBOXES = "_INBOX.*.*.>"
_ROLES: dict[Role, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "access": (
        (
            "aios.k.llm.*",
            "aios.k.syscall.*",
            "aios.k.scheduler.*",
            "aios.k.context.*",
            "aios.k.memory.>",
            "aios.k.storage.*",
            "aios.k.tool.*",
            "aios.k.access.>",
            subjects.ALL_DURABLE,
            _AGENT_INBOXES,
            subjects.LIST_CONNECTIONS,
            subjects.CUT_CONNECTIONS,
            "$SYS._INBOX.>",
            *_stream(subjects.SYSCALLS_STREAM),
            *_bucket(subjects.AGENTS_BUCKET),
            subjects.ALL_AUDIT,
            *_unchangeable(subjects.AUDIT_STREAM),
            *_bucket(subjects.APPROVALS_BUCKET),
            *_bucket(subjects.TAINT_BUCKET),
            *_watching(subjects.TOOLS_BUCKET),
            *_bucket(subjects.POLICIES_BUCKET),
            *_bucket(subjects.QUOTAS_BUCKET),
            *_bucket(subjects.ALLOWANCES_BUCKET),
            *_bucket(subjects.RATES_BUCKET),
        ),
        (
            subjects.ALL_SYSCALLS,
            subjects.AUTH_CALLOUT,
            "aios.k.access.>",
            subjects.ALL_PRESENCE,
            subjects.ALL_WORKER_REPORTS,
            subjects.ALL_REFUSALS,
            subjects.ALL_ENDS,
        ),
    ),
    "scheduler": (
        (
            "aios.k.llm.*.*.*",
            _AGENT_INBOXES,
            *_stream(subjects.SYSCALLS_STREAM),
            *_bucket(subjects.RESULTS_BUCKET),
            *_bucket(subjects.SCHEDULER_BUCKET),
        ),
        ("aios.k.llm.*", "aios.k.syscall.*", "aios.k.scheduler.>"),
    ),
    "llm": (
        (
            "aios.k.scheduler.report.*.*",
            "aios.k.context.*",
            _AGENT_INBOXES,
            *_bucket(subjects.RESULTS_BUCKET),
            *_bucket(subjects.CHECKPOINTS_BUCKET),
            subjects.ALL_KV_PIECES,
            *_stream(subjects.KV_PIECES_STREAM),
        ),
        ("aios.k.llm.*.*.*", "aios.k.llm.embed", "aios.k.llm.tokenize"),
    ),
    "context": (
        (
            _AGENT_INBOXES,
            "aios.k.llm.*",
            "aios.k.syscall.cancel",
            *_bucket(subjects.CONTEXTS_BUCKET),
            *_bucket(subjects.CONTEXT_TURNS_BUCKET),
        ),
        ("aios.k.context.>",),
    ),
    "memory": (
        (
            _AGENT_INBOXES,
            "aios.k.llm.*",
            "aios.k.syscall.cancel",
            *_bucket(subjects.MEMORY_BUCKET),
            *_lease("memory"),
        ),
        ("aios.k.memory.>", subjects.KEY_FACTS),
    ),
    "storage": (
        (
            _AGENT_INBOXES,
            "aios.k.llm.embed",
            subjects.ALL_INTERACTIONS,
            *_stream(subjects.INTERACTIONS_STREAM),
            *_bucket(subjects.STORAGE_BUCKET),
        ),
        ("aios.k.storage.>",),
    ),
    "tool": (
        (
            _AGENT_INBOXES,
            "aios.k.access.policy.check",
            "aios.k.memory.*",
            "aios.k.storage.*",
            *_bucket(subjects.TOOLS_BUCKET),
            *_bucket(subjects.TOOL_CALLS_BUCKET),
            *_lease("tool"),
        ),
        ("aios.k.tool.>",),
    ),
    "gateway": ((), ()),
}
