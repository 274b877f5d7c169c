"""Which subject carries what: the only place where subjects are built and taken apart.

| subject | who may publish | meaning |
|---|---|---|
| `aios.sys.<tenant>.<agent>.<manager>.<op>` | that agent | a system call, before access control |
| `aios.k.<manager>.<op>` | kernel services | the same call after access control, core NATS |
| `aios.q.<manager>.<op>` | access | the same, durable: captured by the stream `AIOS_SYSCALLS` |
| `aios.k.llm.<pool>.<worker>.<command>` | scheduler | a command to one worker |
| `aios.k.scheduler.report.<pool>.<worker>` | that worker | what a worker has to say to the scheduler |
| `aios.k.presence.<manager>.<instance>` | kernel services | this instance lives and serves these operations |
| `aios.audit.<tenant>` | access | what was decided and how it ended, captured by the stream `AIOS_AUDIT` |
| `aios.evt.<tenant>.<kind>` | kernel services | facts, captured by the stream `AIOS_EVENTS` |
| `aios.interactions.<tenant>.<agent>` | storage | one call's facts for the long term, captured by `AIOS_INTERACTIONS` |
| `aios.kv.<tenant>.<agent>.<id>` | LLM workers | KV of a running call, piece by piece, captured by `AIOS_KV_PIECES` |
| `_INBOX.<tenant>.<agent>.>` | kernel services | replies to one agent |
| `_INBOX_AIOS.<role>.call.>` | kernel services | answers to a call that one of them made to another |
"""

from dataclasses import dataclass
from typing import Literal

from aios_proto.names import is_name, is_operation

SYSCALL_QUEUE_GROUP = "access"
SYSCALLS_STREAM = "AIOS_SYSCALLS"
EVENTS_STREAM = "AIOS_EVENTS"
AUDIT_STREAM = "AIOS_AUDIT"
AGENTS_BUCKET = "AIOS_AGENTS"
APPROVALS_BUCKET = "AIOS_APPROVALS"
TAINT_BUCKET = "AIOS_TAINT"
POLICIES_BUCKET = "AIOS_POLICIES"
QUOTAS_BUCKET = "AIOS_QUOTAS"
ALLOWANCES_BUCKET = "AIOS_ALLOWANCES"
RATES_BUCKET = "AIOS_RATES"
RESULTS_BUCKET = "AIOS_RESULTS"
CHECKPOINTS_BUCKET = "AIOS_CHECKPOINTS"
KV_PIECES_STREAM = "AIOS_KV_PIECES"
CONTEXTS_BUCKET = "AIOS_CONTEXTS"
CONTEXT_TURNS_BUCKET = "AIOS_CONTEXT_TURNS"
SCHEDULER_BUCKET = "AIOS_SCHEDULER"
LEASES_BUCKET = "AIOS_LEASES"
MEMORY_BUCKET = "AIOS_MEMORY"
STORAGE_BUCKET = "AIOS_STORAGE"
INTERACTIONS_STREAM = "AIOS_INTERACTIONS"
TOOLS_BUCKET = "AIOS_TOOLS"
TOOL_CALLS_BUCKET = "AIOS_TOOL_CALLS"

ALL_SYSCALLS = "aios.sys.>"
ALL_DURABLE = "aios.q.>"
ALL_EVENTS = "aios.evt.>"
KEY_FACTS = "aios.evt.*.storage.*"
ALL_ENDS = "aios.evt.*.syscall.*"
ALL_REFUSALS = "aios.evt.*.scheduler.refused"
ALL_AUDIT = "aios.audit.*"
ALL_INTERACTIONS = "aios.interactions.>"
ALL_KV_PIECES = "aios.kv.>"
ALL_PRESENCE = "aios.k.presence.*.*"
ALL_WORKER_REPORTS = "aios.k.scheduler.report.*.*"
AUTH_CALLOUT = "$SYS.REQ.USER.AUTH"
ALL_KERNEL_ANSWERS = "_INBOX_AIOS.*.call.>"
SERVICE_INBOXES = "_INBOX_AIOS."
"""What the inboxes of kernel services begin with."""
CALL_ENDED = "aios.k.access.ended"
"""Where a manager says how a call ended (`aios_proto.kernel.CallEnd`); core NATS, one replica of access takes it in."""
REDEEM_APPROVAL = "aios.k.access.redeem"
"""Where whoever is about to run an approved call asks whether it is the first; a kernel call, none of an agent's."""
WAITING_CALLS = "aios.k.access.waiting"
"""Where each replica of access tells the others which calls begin and end to wait there for a quota."""
AUDIT_OVERTAKEN = "aios.k.access.audit_overtaken"
"""Where a replica of access says that others keep it from writing a tenant's audit log: `<instance> <tenant>`."""
ABOUT_CALLS = frozenset({"syscall.attach", "syscall.cancel", "syscall.list", "tool.cancel"})
"""Operations on calls that may be anywhere: access takes them at `about_calls`, and looks where the call is."""
LIST_CONNECTIONS = "$SYS.REQ.ACCOUNT.PING.CONNZ"
"""Asks every server of the bus for the connections of the asking account; NATS imports it into each account."""
CUT_CONNECTIONS = "$SYS.REQ.SERVER.*.KICK"
"""Cuts a client's connection; lent to the account of the services by the bus' system account."""

KERNEL_TENANT = "kernel"
"""Tenant of facts that belong to no tenant, such as a worker coming up. No agent may belong to it."""

WorkerCommand = Literal["run", "preempt", "cancel", "attach", "probe"]


@dataclass(frozen=True, slots=True)
class SyscallSubject:
    """The parts of `aios.sys.<tenant>.<agent>.<manager>.<op>`."""

    tenant: str
    agent: str
    manager: str
    operation: str


def _checked_name(kind: str, value: str) -> str:
    if not is_name(value):
        msg = f"{kind} {value!r} is not a legal name"
        raise ValueError(msg)
    return value


def _checked_operation(value: str) -> str:
    if not is_operation(value):
        msg = f"operation {value!r} is not a legal operation"
        raise ValueError(msg)
    return value


def syscall(tenant: str, agent: str, manager: str, operation: str) -> str:
    """Where an agent publishes a system call.

    Raises:
        ValueError: a part is not a legal token.
    """
    _checked_name("tenant", tenant)
    _checked_name("agent", agent)
    _checked_name("manager", manager)
    return f"aios.sys.{tenant}.{agent}.{manager}.{_checked_operation(operation)}"


def syscalls_of(tenant: str, agent: str) -> str:
    """All system calls of one agent: what its credential lets it publish."""
    return f"aios.sys.{_checked_name('tenant', tenant)}.{_checked_name('agent', agent)}.>"


def parse_syscall(subject: str) -> SyscallSubject | None:
    """Takes a system call's subject apart; None where it has too few tokens. Names are not validated: the bus has."""
    parts = subject.split(".", 5)
    if len(parts) != 6 or parts[0] != "aios" or parts[1] != "sys":
        return None
    return SyscallSubject(parts[2], parts[3], parts[4], parts[5])


def kernel(manager: str, operation: str) -> str:
    """Where access forwards a volatile call, and where the manager listens."""
    return f"aios.k.{_checked_name('manager', manager)}.{_checked_operation(operation)}"


def about_calls(manager: str, operation: str) -> str:
    """Where access sends an operation of `ABOUT_CALLS` on to, and where one of its replicas listens."""
    return kernel("access", f"{manager}.{operation}")


def waiting_calls(instance: str, operation: str) -> str:
    """Where one replica of access is asked about the calls that wait there for a quota: to list them, or cancel one."""
    return f"{WAITING_CALLS}.{_checked_name('instance', instance)}.{_checked_operation(operation)}"


def durable(manager: str, operation: str) -> str:
    """Where access publishes a durable call."""
    return f"aios.q.{_checked_name('manager', manager)}.{_checked_operation(operation)}"


def operation_of(subject: str) -> tuple[str, str] | None:
    """Manager and operation of a kernel or durable subject; None for any other subject."""
    parts = subject.split(".", 3)
    if len(parts) != 4 or parts[0] != "aios" or parts[1] not in ("k", "q"):
        return None
    return parts[2], parts[3]


def worker(pool: str, name: str, command: WorkerCommand) -> str:
    """Where the scheduler sends one worker its commands."""
    return f"aios.k.llm.{_checked_name('pool', pool)}.{_checked_name('worker', name)}.{command}"


def worker_commands(pool: str, name: str) -> str:
    """All commands to one worker: what it listens to, in the order in which they were sent."""
    return f"aios.k.llm.{_checked_name('pool', pool)}.{_checked_name('worker', name)}.*"


def worker_report(pool: str, name: str) -> str:
    """Where a worker tells the scheduler of itself and its calls."""
    return f"aios.k.scheduler.report.{_checked_name('pool', pool)}.{_checked_name('worker', name)}"


def presence(manager: str, instance: str) -> str:
    """Where an instance of a service says once a second that it lives."""
    return f"aios.k.presence.{_checked_name('manager', manager)}.{_checked_name('instance', instance)}"


def event(tenant: str, kind: str) -> str:
    """Where a fact about a tenant is published; `kind` is dotted, such as `llm.completed`."""
    return f"aios.evt.{_checked_name('tenant', tenant)}.{_checked_operation(kind)}"


def interaction(tenant: str, agent: str) -> str:
    """Where the storage manager keeps what an agent's calls came to, sealed."""
    return f"aios.interactions.{_checked_name('tenant', tenant)}.{_checked_name('agent', agent)}"


def kv_pieces(key: str) -> str:
    """Where a worker stores the KV of a call.

    Args:
        key: the call's, `headers.CallHeaders.key`.
    """
    return f"aios.kv.{key}"


def audit(tenant: str) -> str:
    """Where access writes a tenant's audit log."""
    return f"aios.audit.{_checked_name('tenant', tenant)}"


def cut_connection(server_id: str) -> str:
    """Where access asks one server of the bus to cut a connection; the body is `{"cid": number}`."""
    return f"$SYS.REQ.SERVER.{_checked_name('server', server_id)}.KICK"


def inbox_prefix(tenant: str, agent: str) -> str:
    """The prefix of all reply subjects of one agent, without the trailing dot."""
    return f"_INBOX.{_checked_name('tenant', tenant)}.{_checked_name('agent', agent)}"


def is_own_inbox(reply: str, tenant: str, agent: str) -> bool:
    """Whether a reply subject lies in the agent's own inbox and holds no wildcard."""
    return reply.startswith(f"_INBOX.{tenant}.{agent}.") and "*" not in reply and ">" not in reply


def service_inbox_prefix(role: str) -> str:
    """The prefix of a kernel service's own replies; disjoint from every agent's."""
    return f"_INBOX_AIOS.{_checked_name('role', role)}"


def lease_holder(role: str, process: str) -> str:
    """Where the process that holds a service's lease listens: the bus says whether anybody does."""
    return f"{kernel_call_inbox(role)}.lease.{_checked_name('process', process)}"


def kernel_call_inbox(role: str) -> str:
    """The prefix of the answers to calls that a kernel service makes to another."""
    return f"{service_inbox_prefix(role)}.call"


def tool_replica(tenant: str, agent: str, replica: str) -> str:
    """Where one process of an agent is sent the invocations of the tools it serves."""
    return f"{inbox_prefix(tenant, agent)}.{_checked_name('replica', replica)}.tools"
