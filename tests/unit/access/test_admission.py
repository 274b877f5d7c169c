"""Which calls pass, what they carry from then on, and by which code and field the others are refused."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_access.core import AccessCore, Admitted
from aios_access.directory import Directory, Identity
from aios_access.policies import Policies, PolicyDocument
from aios_access.presence import PresenceTable
from aios_access.routes import Route
from aios_access.settings import DEFAULT_GROUPS
from aios_proto import headers as wire
from aios_proto.errors import AccessDenied, AiosError, InvalidRequest
from aios_proto.kernel import Presence
from aios_proto.limits import BUS_MAX_PAYLOAD_BYTES, MAX_BODY_BYTES
from aios_proto.messages.access import AgentCreateRequest
from aios_proto.operations import MANAGERS, OPERATIONS
from aios_proto.subjects import SyscallSubject

NOW_MS = 1_750_000_000_000
NOW_US = NOW_MS * 1000 + 999
STEADY = 50.0
REPLY = "_INBOX.acme.alice.1"
SOUND = {wire.ID: "call-1", wire.PROTO: "1"}
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

OPERATOR = Identity("acme", "olga", "operator", "0" * 64, 0)
ROOT = Identity("default", "root", "operator", "0" * 64, 0)


@pytest.fixture
def core() -> AccessCore:
    return make_core()


def make_core() -> AccessCore:
    directory, presence = Directory(), PresenceTable()
    for agent, group in (("alice", "agent"), ("gus", "guest"), ("olga", "operator")):
        directory.put(Identity("acme", agent, group, "0" * 64, 0))
    for manager in ("llm", "memory", "access", "syscall"):
        names = [operation.name for operation in OPERATIONS.values() if operation.manager == manager]
        presence.heard(Presence(manager=manager, instance="1", operations=names), STEADY)
    return AccessCore(
        directory,
        Policies(DEFAULT_GROUPS),
        presence,
        default_deadline_s=600,
        max_deadline_s=3600,
        root_tenant="default",
    )


def admit(
    core: AccessCore,
    name: str = "memory.add",
    *,
    headers: Mapping[str, str] | None = None,
    agent: str = "alice",
    reply: str | None = None,
    body_bytes: int = 2,
    raw: bool = False,
) -> Admitted:
    manager, _, operation = name.partition(".")
    subject = SyscallSubject("acme", agent, manager, operation)
    sent = headers if raw else {**SOUND, **(headers or {})}
    inbox = f"_INBOX.acme.{agent}.1" if reply is None else reply
    return core.admit(Route.of(subject), inbox, sent, b"x" * body_bytes, NOW_US, STEADY)


def refusal(core: AccessCore, name: str = "memory.add", **call: object) -> tuple[str, str | None]:
    with pytest.raises(AiosError) as caught:
        admit(core, name, **call)  # type: ignore[arg-type]
    return caught.value.code, caught.value.field


def test_a_sound_call_is_stamped_with_who_called_and_when(core: AccessCore) -> None:
    admitted = admit(core)
    headers = admitted.headers
    assert (headers.tenant, headers.agent, headers.group) == ("acme", "alice", "agent")
    assert (headers.id, headers.reply, headers.times_us) == ("call-1", REPLY, (NOW_US,))
    assert admitted.operation.full_name == "memory.add"
    assert headers.program == "alice"  # what the scheduler counts by, where the call names none


def test_what_an_agent_says_about_itself_is_dropped(core: AccessCore) -> None:
    forged = {
        wire.TENANT: "default",
        wire.AGENT: "root",
        wire.GROUP: "operator",
        wire.REPLY: "_INBOX.acme.bob.1",
        wire.TIMES: "1,2,3",
        wire.ATTEMPT: "7",
        wire.OPERATION: "complete",
        "Nats-Msg-Id": "mine",
        "Nats-Rollup": "all",
        "Nats-Expected-Stream": "OTHER",
        "X-Anything": "else",
    }
    assert admit(core, headers=forged).headers.to_wire() == admit(core).headers.to_wire()


def test_what_an_agent_may_say_goes_on(core: AccessCore) -> None:
    said = {
        wire.PROGRAM: "run-7",
        wire.PRIORITY: "9",
        wire.AFTER: "a, b",
        wire.CONTEXT: "ctx",
        wire.TRACEPARENT: TRACEPARENT,
        wire.TRACESTATE: "v=1",
    }
    headers = admit(core, headers=said).headers
    assert (headers.program, headers.priority, headers.after, headers.context) == ("run-7", 9, ("a", "b"), "ctx")
    assert (headers.traceparent, headers.tracestate) == (TRACEPARENT, "v=1")


@pytest.mark.parametrize(
    ("headers", "field"),
    [
        ({wire.PROTO: "1"}, wire.ID),
        ({wire.ID: "", wire.PROTO: "1"}, wire.ID),
        ({wire.ID: "a.b", wire.PROTO: "1"}, wire.ID),
        ({wire.ID: "x" * 65, wire.PROTO: "1"}, wire.ID),
        ({wire.ID: "x"}, wire.PROTO),
        ({**SOUND, wire.PRIORITY: "10"}, wire.PRIORITY),
        ({**SOUND, wire.PRIORITY: "-1"}, wire.PRIORITY),
        ({**SOUND, wire.PRIORITY: "high"}, wire.PRIORITY),
        ({**SOUND, wire.PRIORITY: "٣"}, wire.PRIORITY),
        ({**SOUND, wire.DEADLINE: "soon"}, wire.DEADLINE),
        ({**SOUND, wire.DEADLINE: "9" * 17}, wire.DEADLINE),
        ({**SOUND, wire.DEADLINE: str(NOW_MS + 3_600_001)}, wire.DEADLINE),
        ({**SOUND, wire.AFTER: "a,,b"}, wire.AFTER),
        ({**SOUND, wire.AFTER: ",".join(["a"] * 65)}, wire.AFTER),
        ({**SOUND, wire.CONTEXT: "a/b"}, wire.CONTEXT),
        ({**SOUND, wire.PROGRAM: "a b"}, wire.PROGRAM),
        ({**SOUND, wire.DURABILITY: "eternal"}, wire.DURABILITY),
        (None, wire.PROTO),
    ],
)
def test_a_bad_header_is_refused_by_its_name(core: AccessCore, headers: dict[str, str] | None, field: str) -> None:
    assert refusal(core, headers=headers, raw=True) == ("request.invalid", field)


def test_another_protocol_version_is_refused_as_such(core: AccessCore) -> None:
    assert refusal(core, headers={wire.PROTO: "2"}) == ("request.unsupported_protocol", wire.PROTO)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "_INBOX.acme.bob.1",
        "_INBOX.other.alice.1",
        "_INBOX.acme.alice",
        "_INBOX.acme.alicex.1",
        "_INBOX.acme.alice.>",
        "_INBOX.acme.alice.*",
        "_INBOX_AIOS.access.1",
        "aios.k.memory.add",
        "$JS.API.STREAM.DELETE.AIOS_SYSCALLS",
    ],
)
def test_a_reply_outside_the_own_inbox_is_refused(core: AccessCore, reply: str) -> None:
    assert refusal(core, reply=reply) == ("access.reply_forbidden", "reply")


def test_unknown_managers_and_operations_are_told_apart(core: AccessCore) -> None:
    assert refusal(core, "mind.read") == ("request.unknown_manager", "manager")
    assert refusal(core, "memory.forget.everything") == ("request.unknown_operation", "operation")


def test_a_group_may_not_do_what_it_is_not_allowed(core: AccessCore) -> None:
    assert refusal(core, "access.agent.create") == ("access.denied", "operation")
    assert refusal(core, "llm.chat", agent="gus") == ("access.denied", "operation")
    assert admit(core, "llm.models", agent="gus").operation.name == "models"
    assert admit(core, "access.agent.create", agent="olga").headers.group == "operator"


def test_an_agent_that_was_revoked_while_connected_may_do_nothing(core: AccessCore) -> None:
    core.directory.remove("acme.alice")
    assert refusal(core)[0] == "access.denied"


def test_a_body_may_have_a_mebibyte_and_no_more(core: AccessCore) -> None:
    assert admit(core, body_bytes=MAX_BODY_BYTES).headers.id == "call-1"
    assert refusal(core, body_bytes=MAX_BODY_BYTES + 1) == ("request.too_large", "body")


def test_model_calls_are_durable_unless_the_call_says_otherwise(core: AccessCore) -> None:
    assert admit(core, "llm.chat").durable
    assert not admit(core, "llm.chat", headers={wire.DURABILITY: "volatile"}).durable
    assert admit(core, "llm.chat", headers={wire.DURABILITY: "durable"}).durable


def test_only_what_is_queued_can_be_durable(core: AccessCore) -> None:
    assert not admit(core, "memory.add").durable
    assert not admit(core, "memory.add", headers={wire.DURABILITY: "volatile"}).durable
    assert refusal(core, headers={wire.DURABILITY: "durable"}) == ("request.invalid", wire.DURABILITY)


def test_a_call_without_a_deadline_gets_the_kernels(core: AccessCore) -> None:
    assert admit(core).headers.deadline_ms == NOW_MS + 600_000


def test_a_deadline_within_the_limits_stands(core: AccessCore) -> None:
    for deadline in (NOW_MS, NOW_MS + 1, NOW_MS + 3_600_000):
        assert admit(core, headers={wire.DEADLINE: str(deadline)}).headers.deadline_ms == deadline


def test_a_deadline_that_has_passed_is_told_at_once(core: AccessCore) -> None:
    for deadline in (NOW_MS - 1, NOW_MS - 60_000, 1):
        assert refusal(core, headers={wire.DEADLINE: str(deadline)}) == ("deadline.exceeded", wire.DEADLINE)


def test_a_manager_that_does_not_run_is_told_as_retryable(core: AccessCore) -> None:
    with pytest.raises(AiosError) as caught:
        admit(core, "storage.read")
    assert (caught.value.code, caught.value.retryable) == ("manager.unavailable", True)
    assert caught.value.retry_after_s is not None


def test_trace_context_that_is_no_such_thing_goes_no_further(core: AccessCore) -> None:
    headers = admit(core, headers={wire.TRACEPARENT: "x" * 1_000_000, wire.TRACESTATE: "y" * 1_000_000}).headers
    assert (headers.traceparent, headers.tracestate) == (None, None)


header_names = st.sampled_from([getattr(wire, name) for name in ("ID", "PROTO", "PROGRAM", "PRIORITY", "DEADLINE")])
more_names = st.sampled_from([wire.AFTER, wire.CONTEXT, wire.DURABILITY, wire.TRACEPARENT, wire.TENANT, wire.TIMES])


@given(
    st.dictionaries(header_names | more_names | st.text(max_size=20), st.text(max_size=300)),
    st.sampled_from([*sorted(MANAGERS), "nobody"]),
    st.text(max_size=40),
    st.text(max_size=40),
    st.booleans(),
)
def test_whatever_is_sent_it_is_admitted_or_refused_with_a_code(
    headers: dict[str, str], manager: str, operation: str, reply: str, sound: bool
) -> None:
    subject = SyscallSubject("acme", "alice", manager, operation)
    sent = {**headers, **SOUND} if sound else headers
    try:
        admitted = make_core().admit(Route.of(subject), REPLY if sound else reply, sent, b"", NOW_US, STEADY)
    except AiosError as error:
        refused = error.body()
        assert "." in refused.code
    else:
        out = admitted.headers.to_wire()
        assert (out[wire.TENANT], out[wire.AGENT], out[wire.REPLY]) == ("acme", "alice", REPLY)
        assert sum(len(name) + len(value) for name, value in out.items()) < BUS_MAX_PAYLOAD_BYTES - MAX_BODY_BYTES


def test_an_operator_creates_agents_in_its_own_tenant(core: AccessCore) -> None:
    assert core.new_identity(OPERATOR, AgentCreateRequest(agent="new")) == ("acme", "new", "agent")
    request = AgentCreateRequest(agent="new", tenant="acme", group="guest")
    assert core.new_identity(OPERATOR, request) == ("acme", "new", "guest")


def test_only_the_root_tenants_operators_reach_other_tenants(core: AccessCore) -> None:
    request = AgentCreateRequest(agent="new", tenant="other")
    assert core.new_identity(ROOT, request) == ("other", "new", "agent")
    with pytest.raises(AccessDenied) as caught:
        core.new_identity(OPERATOR, request)
    assert caught.value.field == "tenant"


def test_nobody_belongs_to_the_kernels_tenant(core: AccessCore) -> None:
    for caller in (OPERATOR, ROOT):
        with pytest.raises(InvalidRequest) as caught:
            core.new_identity(caller, AgentCreateRequest(agent="new", tenant="kernel"))
        assert caught.value.field == "tenant"


def test_a_group_nobody_knows_is_refused_with_those_there_are(core: AccessCore) -> None:
    with pytest.raises(InvalidRequest, match="agent, guest, operator") as caught:
        core.new_identity(OPERATOR, AgentCreateRequest(agent="new", group="wizard"))
    assert caught.value.field == "group"


ALICE = Identity("acme", "alice", "agent", "0" * 64, 0)


def admit_again(core: AccessCore, admitted: Admitted, *, steady_s: float = STEADY) -> Admitted:
    headers, operation = admitted.headers, admitted.operation
    subject = SyscallSubject(headers.tenant, headers.agent, operation.manager, operation.name)
    return core.admit_again(admitted, Route.of(subject), b"{}", steady_s)


def put_policy(core: AccessCore, text: str) -> None:
    core.policies.put(PolicyDocument("acme", "own", 1, text))
    core.policies.refresh()


def test_a_call_that_waited_passes_as_it_was_where_nothing_changed(core: AccessCore) -> None:
    admitted = admit(core)
    assert admit_again(core, admitted) == admitted


@pytest.mark.parametrize(
    "now", [None, replace(ALICE, created_ms=7)], ids=["revoked", "revoked and made anew under the same name"]
)
def test_a_call_that_waited_does_not_outlive_its_agent(core: AccessCore, now: Identity | None) -> None:
    admitted = admit(core)
    core.directory.remove("acme.alice")
    if now is not None:
        core.directory.put(now)
    with pytest.raises(AccessDenied, match="revoked"):
        admit_again(core, admitted)


def test_a_new_secret_does_not_end_a_call_that_waits(core: AccessCore) -> None:
    admitted = admit(core)
    core.directory.put(replace(ALICE, secret_sha256="1" * 64))
    assert admit_again(core, admitted).headers == admitted.headers


def test_a_call_that_waited_has_the_rights_its_agents_group_has_by_then(core: AccessCore) -> None:
    reads, writes = admit(core, "memory.search"), admit(core)
    core.directory.put(replace(ALICE, group="guest"))
    with pytest.raises(AccessDenied, match="group guest may not perform"):
        admit_again(core, writes)
    core.directory.put(replace(ALICE, group="operator"))
    assert admit_again(core, reads).headers.group == "operator"


def test_a_call_that_waited_is_judged_by_the_policies_in_force_by_then(core: AccessCore) -> None:
    admitted = admit(core)
    put_policy(core, '@id("stop") forbid(principal, action == Action::"memory.add", resource);')
    with pytest.raises(AccessDenied, match="own:stop"):
        admit_again(core, admitted)
    put_policy(core, '@id("ask") @ask permit(principal, action == Action::"memory.add", resource);')
    asked = admit_again(core, admitted)
    assert asked.decision.effect == "ask"
    assert asked.headers == admitted.headers
    put_policy(core, "")
    assert admit_again(core, asked).decision.effect == "allow"


def test_a_call_whose_manager_went_while_it_waited_is_refused(core: AccessCore) -> None:
    admitted = admit(core)
    with pytest.raises(AiosError) as caught:
        admit_again(core, admitted, steady_s=STEADY + 3600)
    assert caught.value.code == "manager.unavailable"
