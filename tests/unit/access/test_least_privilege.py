"""What each kernel service may say and hear on the bus, written down: more is a leak, less is a service that fails.

The table below is what somebody has thought about. A new permission must be added here too, with a name that says what
it is good for.
"""

from dataclasses import dataclass, field
from typing import Final

import pytest

from aios_proto import subjects
from aios_proto.permissions import ROLES, Role, agent_permissions, service_permissions

SUBJECTS: Final = {
    "agents' calls": "aios.sys.acme.alice.llm.chat",
    "llm calls": "aios.k.llm.chat",
    "llm embed": "aios.k.llm.embed",
    "commands to workers": "aios.k.llm.default.w1.run",
    "workers' reports": "aios.k.scheduler.report.default.w1",
    "scheduler calls": "aios.k.scheduler.state",
    "syscall calls": "aios.k.syscall.list",
    "syscall cancel": "aios.k.syscall.cancel",
    "context calls": "aios.k.context.get",
    "memory calls": "aios.k.memory.get",
    "memory pools": "aios.k.memory.pool.list",
    "storage calls": "aios.k.storage.read",
    "tool calls": "aios.k.tool.call",
    "access calls": "aios.k.access.agent.create",
    "policy checks": "aios.k.access.policy.check",
    "ends of calls": subjects.CALL_ENDED,
    "redeeming approvals": subjects.REDEEM_APPROVAL,
    "among replicas of access": subjects.WAITING_CALLS,
    "waiting calls": subjects.waiting_calls("access-1", "cancel"),
    "turns at the audit log": subjects.AUDIT_OVERTAKEN,
    "durable calls": "aios.q.llm.chat",
    "presence": "aios.k.presence.memory.m1",
    "facts": "aios.evt.acme.llm.completed",
    "facts of keys": "aios.evt.acme.storage.rotated",
    "audit records": "aios.audit.acme",
    "interactions": "aios.interactions.acme.alice",
    "KV of calls": subjects.kv_pieces("acme.alice.1"),
    "agents' inboxes": "_INBOX.acme.alice.1",
    "answers to kernel calls": "_INBOX_AIOS.memory.call.x.1",
    "who connects": subjects.AUTH_CALLOUT,
    "lists of connections": subjects.LIST_CONNECTIONS,
    "cutting connections": "$SYS.REQ.SERVER.NABC.KICK",
    "JetStream of the account": "$JS.API.STREAM.LIST",
    "another account's": "$SYS.REQ.SERVER.PING",
    "anything": "some.subject",
}

STORES: Final = {
    "syscalls": subjects.SYSCALLS_STREAM,
    "events": subjects.EVENTS_STREAM,
    "audit": subjects.AUDIT_STREAM,
    "interactions": subjects.INTERACTIONS_STREAM,
    "agents": f"KV_{subjects.AGENTS_BUCKET}",
    "policies": f"KV_{subjects.POLICIES_BUCKET}",
    "quotas": f"KV_{subjects.QUOTAS_BUCKET}",
    "allowances": f"KV_{subjects.ALLOWANCES_BUCKET}",
    "rates": f"KV_{subjects.RATES_BUCKET}",
    "approvals": f"KV_{subjects.APPROVALS_BUCKET}",
    "taint": f"KV_{subjects.TAINT_BUCKET}",
    "results": f"KV_{subjects.RESULTS_BUCKET}",
    "checkpoints": f"KV_{subjects.CHECKPOINTS_BUCKET}",
    "kv pieces": subjects.KV_PIECES_STREAM,
    "contexts": f"KV_{subjects.CONTEXTS_BUCKET}",
    "turns": f"KV_{subjects.CONTEXT_TURNS_BUCKET}",
    "scheduler": f"KV_{subjects.SCHEDULER_BUCKET}",
    "memory": f"KV_{subjects.MEMORY_BUCKET}",
    "storage": f"KV_{subjects.STORAGE_BUCKET}",
    "tools": f"KV_{subjects.TOOLS_BUCKET}",
    "tool calls": f"KV_{subjects.TOOL_CALLS_BUCKET}",
    "leases": f"KV_{subjects.LEASES_BUCKET}",
}


@dataclass(frozen=True)
class May:
    """What one service may do.

    Attributes:
        say: what it may publish, beside what all services may.
        hear: what it may subscribe to.
        keep: the stores it may write and read, beside the events.
        read: the stores it may only read.
    """

    say: frozenset[str]
    hear: frozenset[str]
    keep: frozenset[str] = frozenset()
    read: frozenset[str] = frozenset()


ALL_SAY: Final = frozenset(
    {"presence", "facts", "facts of keys", "answers to kernel calls", "ends of calls", "redeeming approvals"}
)

CALLS: Final = frozenset(
    {
        *("llm calls", "llm embed", "scheduler calls", "syscall calls", "syscall cancel", "context calls"),
        *("memory calls", "memory pools", "storage calls", "tool calls", "access calls", "policy checks"),
    }
)

AMONG_ACCESS: Final = frozenset({"among replicas of access", "waiting calls", "turns at the audit log"})

TABLE: Final[dict[Role, May]] = {
    "access": May(
        say=CALLS
        | AMONG_ACCESS
        | {"durable calls", "agents' inboxes", "audit records", "lists of connections", "cutting connections"},
        hear=frozenset(
            {
                *("agents' calls", "who connects", "access calls", "policy checks"),
                *("ends of calls", "redeeming approvals"),
                *("presence", "workers' reports"),
                *AMONG_ACCESS,
            }
        ),
        keep=frozenset(
            {
                *("syscalls", "agents", "policies", "quotas", "allowances", "rates", "approvals", "taint"),
            }
        ),
        read=frozenset({"tools", "audit"}),  # the audit log is added to, and never changed
    ),
    "scheduler": May(
        say=frozenset({"commands to workers", "agents' inboxes"}),
        hear=frozenset({"llm calls", "llm embed", "syscall calls", "syscall cancel", "scheduler calls"})
        | {"workers' reports"},
        keep=frozenset({"syscalls", "results", "scheduler"}),
    ),
    "llm": May(
        say=frozenset({"workers' reports", "context calls", "agents' inboxes", "KV of calls"}),
        hear=frozenset({"commands to workers", "llm embed"}),
        keep=frozenset({"results", "checkpoints", "kv pieces"}),
    ),
    "context": May(
        say=frozenset({"agents' inboxes", "llm calls", "llm embed", "syscall cancel"}),
        hear=frozenset({"context calls"}),
        keep=frozenset({"contexts", "turns"}),
    ),
    "memory": May(
        say=frozenset({"agents' inboxes", "llm calls", "llm embed", "syscall cancel"}),
        hear=frozenset({"memory calls", "memory pools", "facts of keys"}),
        keep=frozenset({"memory"}),
        read=frozenset({"leases"}),  # and its own is written, see below
    ),
    "storage": May(
        say=frozenset({"agents' inboxes", "llm embed", "interactions"}),
        hear=frozenset({"storage calls"}),
        keep=frozenset({"storage", "interactions"}),
    ),
    "tool": May(
        say=frozenset({"agents' inboxes", "memory calls", "storage calls", "policy checks"}),
        hear=frozenset({"tool calls"}),
        keep=frozenset({"tools", "tool calls"}),
        read=frozenset({"leases"}),
    ),
    "gateway": May(say=frozenset(), hear=frozenset()),
}


@dataclass
class Found:
    """What a set of patterns covers."""

    patterns: tuple[str, ...]
    covered: set[str] = field(default_factory=set)

    def allows(self, subject: str) -> bool:
        return any(matches(pattern, subject) for pattern in self.patterns)


def matches(pattern: str, subject: str) -> bool:
    """NATS' own rule: `*` is one token, `>` the rest."""
    wanted, given = pattern.split("."), subject.split(".")
    for number, token in enumerate(wanted):
        if token == ">":
            return len(given) > number
        if number >= len(given) or token not in ("*", given[number]):
            return False
    return len(wanted) == len(given)


def named(patterns: tuple[str, ...]) -> set[str]:
    found = Found(patterns)
    return {name for name, subject in SUBJECTS.items() if found.allows(subject)}


@pytest.mark.parametrize("role", ROLES)
def test_a_service_may_say_what_the_table_says_and_nothing_else(role: Role) -> None:
    assert named(service_permissions(role).publish) == TABLE[role].say | ALL_SAY


@pytest.mark.parametrize("role", ROLES)
def test_a_service_may_hear_what_the_table_says_and_nothing_else(role: Role) -> None:
    heard = named(service_permissions(role).subscribe)
    own_answers = {"answers to kernel calls"} if role == "memory" else set()
    assert heard == TABLE[role].hear | own_answers
    others = {f"_INBOX_AIOS.{other}.1" for other in ROLES if other != role}
    subscribe = Found(service_permissions(role).subscribe)
    assert not any(subscribe.allows(inbox) for inbox in others)


@pytest.mark.parametrize("role", ROLES)
def test_a_service_may_keep_and_read_its_own_stores_and_no_others(role: Role) -> None:
    publish = Found(service_permissions(role).publish)
    kept = {name for name, store in STORES.items() if publish.allows(f"$JS.API.STREAM.UPDATE.{store}")}
    readable = {name for name, store in STORES.items() if publish.allows(f"$JS.API.DIRECT.GET.{store}.key")}
    assert kept == TABLE[role].keep | {"events"}
    assert readable - kept == TABLE[role].read
    for name, store in STORES.items():
        kind, _, bucket = store.partition("_")
        if kind == "KV":
            assert publish.allows(f"$KV.{bucket}.key") is (name in TABLE[role].keep), name
        if kind == "OBJ":
            assert publish.allows(f"$O.{bucket}.C.x") is (name in TABLE[role].keep), name


@pytest.mark.parametrize("role", ROLES)
def test_a_service_may_hold_its_own_lease_and_no_others(role: Role) -> None:
    publish = Found(service_permissions(role).publish)
    held = {other for other in ROLES if publish.allows(f"$KV.{subjects.LEASES_BUCKET}.{other}")}
    assert held == ({role} if role in ("memory", "tool") else set())


@pytest.mark.parametrize("role", ROLES)
def test_every_pattern_of_a_service_is_one_the_table_knows(role: Role) -> None:
    """So that a permission for something the table has never heard of does not pass unseen."""
    known_subjects = [*SUBJECTS.values(), "$JS.API.INFO", "aios.k.llm.tokenize", "$SYS._INBOX.x"]
    known_subjects += ["aios.evt.acme.scheduler.refused", "aios.evt.acme.syscall.denied", f"_INBOX_AIOS.{role}.1"]
    permissions = service_permissions(role)
    for pattern in (*permissions.publish, *permissions.subscribe):
        if any(matches(pattern, subject) for subject in known_subjects):
            continue
        tokens = set(pattern.replace("$KV.", "KV_").replace("$O.", "OBJ_").split("."))
        assert tokens & set(STORES.values()), f"{role}: {pattern} is in no table"


@pytest.mark.parametrize("role", ROLES)
def test_nobody_may_speak_for_an_agent_listen_to_its_inbox_or_use_all_of_jetstream(role: Role) -> None:
    permissions = service_permissions(role)
    publish, subscribe = Found(permissions.publish), Found(permissions.subscribe)
    assert not publish.allows("aios.sys.acme.alice.llm.chat")
    assert not subscribe.allows("_INBOX.acme.alice.1")
    assert not any(pattern.startswith((">", "*", "$JS.API.>", "$KV.>", "$SYS.>")) for pattern in permissions.publish)
    for request in ("STREAM.LIST", "STREAM.NAMES", "ACCOUNT.PURGE.AIOS", "STREAM.CREATE.OTHER", "META.LEADER.STEPDOWN"):
        assert not publish.allows(f"$JS.API.{request}")


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("stream", [subjects.EVENTS_STREAM, subjects.AUDIT_STREAM])
def test_nobody_may_erase_what_has_happened(role: Role, stream: str) -> None:
    publish = Found(service_permissions(role).publish)
    for request in ("STREAM.DELETE", "STREAM.PURGE", "STREAM.MSG.DELETE", "STREAM.RESTORE"):
        assert not publish.allows(f"$JS.API.{request}.{stream}")


def test_an_agent_may_say_its_own_calls_hear_its_own_inbox_and_nothing_else() -> None:
    permissions = agent_permissions("acme", "alice")
    publish, subscribe = Found(permissions.publish), Found(permissions.subscribe)
    assert named(permissions.publish) == {"agents' calls"}
    assert named(permissions.subscribe) == {"agents' inboxes"}
    for subject in ("aios.sys.acme.bob.llm.chat", "aios.sys.other.alice.llm.chat", "aios.sys.acme.alicex.llm.chat"):
        assert not publish.allows(subject)
    for subject in ("_INBOX.acme.bob.1", "_INBOX.other.alice.1", "_INBOX.acme.>", "_INBOX.>", ">"):
        assert not subscribe.allows(subject)
    for store in STORES.values():
        assert not publish.allows(f"$JS.API.STREAM.MSG.GET.{store}")
        assert not publish.allows(f"$JS.API.DIRECT.GET.{store}.x")
