"""What the bus lets one agent do never reaches another agent or the kernel."""

import itertools

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aios_proto import subjects
from aios_proto.permissions import ROLES, agent_permissions, service_permissions

names = st.from_regex(r"[A-Za-z0-9_-]{1,12}", fullmatch=True)


def overlaps(first: str, second: str) -> bool:
    """Whether some subject matches both patterns, by NATS' rules: `*` is one token, a last `>` one or more."""
    for a, b in itertools.zip_longest(first.split("."), second.split(".")):
        if a is None or b is None:
            return False
        if ">" in (a, b):
            return True
        if a != b and "*" not in (a, b):
            return False
    return True


@given(names, names, names, names)
def test_two_agents_share_no_subject(tenant: str, agent: str, other_tenant: str, other_agent: str) -> None:
    assume((tenant, agent) != (other_tenant, other_agent))
    mine, theirs = agent_permissions(tenant, agent), agent_permissions(other_tenant, other_agent)
    for first, second in itertools.product(mine.publish, theirs.publish):
        assert not overlaps(first, second)
    for first, second in itertools.product(mine.subscribe, theirs.subscribe):
        assert not overlaps(first, second)


@given(names, names)
def test_an_agent_can_call_and_hear_its_answers_and_nothing_of_the_kernel(tenant: str, agent: str) -> None:
    permissions = agent_permissions(tenant, agent)
    assert any(overlaps(pattern, subjects.syscall(tenant, agent, "llm", "chat")) for pattern in permissions.publish)
    inbox = f"{subjects.inbox_prefix(tenant, agent)}.token"
    assert any(overlaps(pattern, inbox) for pattern in permissions.subscribe)
    for forbidden in ("aios.k.>", "aios.q.>", "aios.evt.>", "$JS.>", "$KV.>", "$SYS.>", "_INBOX_AIOS.>", "_INBOX.>"):
        assert not any(overlaps(pattern, forbidden) for pattern in permissions.publish)
    for forbidden in ("aios.>", "$JS.>", "$KV.>", "$SYS.>", "_INBOX_AIOS.>"):
        assert not any(overlaps(pattern, forbidden) for pattern in permissions.subscribe)


@pytest.mark.parametrize("hostile", ["*", ">", "a.b", "", "a b", "a.>", "x" * 65, "a\n"])
def test_a_hostile_name_gets_no_permissions_at_all(hostile: str) -> None:
    with pytest.raises(ValueError, match="not a legal name"):
        agent_permissions(hostile, "a")
    with pytest.raises(ValueError, match="not a legal name"):
        agent_permissions("t", hostile)


@pytest.mark.parametrize("role", ROLES)
def test_a_service_hears_no_replies_of_agents_or_of_other_services(role: str) -> None:
    permissions = service_permissions(role)  # type: ignore[arg-type]
    for pattern in permissions.subscribe:
        assert not overlaps(pattern, "_INBOX.tenant.agent.token"), pattern
        for other in ROLES:
            if other != role:
                assert not overlaps(pattern, f"{subjects.service_inbox_prefix(other)}.token"), pattern


@pytest.mark.parametrize("role", [role for role in ROLES if role != "access"])
def test_only_access_takes_calls_of_agents_and_feeds_the_kernel_durably(role: str) -> None:
    permissions = service_permissions(role)  # type: ignore[arg-type]
    assert not any(overlaps(pattern, subjects.ALL_SYSCALLS) for pattern in permissions.subscribe)
    assert not any(overlaps(pattern, subjects.AUTH_CALLOUT) for pattern in permissions.subscribe)
    for forbidden in (subjects.ALL_SYSCALLS, subjects.ALL_DURABLE, "$SYS.>", f"$KV.{subjects.AGENTS_BUCKET}.>"):
        assert not any(overlaps(pattern, forbidden) for pattern in permissions.publish), forbidden


@pytest.mark.parametrize("role", ROLES)
def test_no_service_can_shorten_or_change_the_audit_log(role: str) -> None:
    permissions = service_permissions(role)  # type: ignore[arg-type]
    for request in ("DELETE", "PURGE", "UPDATE", "MSG.DELETE", "RESTORE"):
        forbidden = f"$JS.API.STREAM.{request}.{subjects.AUDIT_STREAM}"
        assert not any(overlaps(pattern, forbidden) for pattern in permissions.publish), forbidden
    if role != "access":
        assert not any(overlaps(pattern, subjects.ALL_AUDIT) for pattern in permissions.publish)
