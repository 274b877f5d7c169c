"""What is remembered of a call's way is forgotten when the policies, or the caller's rights, change."""

from dataclasses import replace

from aios_access.directory import Identity
from aios_access.policies import Policies, PolicyDocument
from aios_access.routes import Routes
from aios_access.settings import DEFAULT_GROUPS

ALICE = Identity("acme", "alice", "agent", "0" * 64, 0)
SUBJECT = "aios.sys.acme.alice.memory.add"


def effect(routes: Routes, policies: Policies, identity: Identity) -> str:
    route = routes.find(SUBJECT)
    assert route is not None
    assert route.operation is not None
    decision = route.early_decision(policies.of_tenant("acme"), identity, route.operation)
    assert decision is not None
    return decision.effect


def test_a_change_of_policies_is_seen_by_the_next_call() -> None:
    routes, policies = Routes(), Policies(DEFAULT_GROUPS)
    assert effect(routes, policies, ALICE) == "allow"
    for version, (text, expected) in enumerate(
        [('forbid(principal, action == Action::"memory.add", resource);', "deny"), ("", "allow")] * 2
    ):
        policies.put(PolicyDocument("acme", "own", version, text))
        policies.refresh()
        assert effect(routes, policies, ALICE) == expected
        assert effect(routes, policies, ALICE) == expected


def test_an_agent_that_changed_its_group_has_the_rights_of_the_new_one() -> None:
    routes, policies = Routes(), Policies(DEFAULT_GROUPS)
    assert effect(routes, policies, ALICE) == "allow"
    assert effect(routes, policies, replace(ALICE, group="guest")) == "deny"
    assert effect(routes, policies, ALICE) == "allow"


def test_a_route_is_found_once_and_what_is_made_up_is_not_remembered() -> None:
    routes = Routes()
    assert routes.find(SUBJECT) is routes.find(SUBJECT)
    made_up = routes.find("aios.sys.acme.alice.memory.conquer")
    assert made_up is not None
    assert (made_up.operation, made_up.target, made_up.name) == (None, "", "unknown")
    assert routes.find("aios.sys.acme.alice.memory.conquer") is not made_up
    assert routes.find("aios.sys.acme") is None
    assert routes.find("aios.evt.acme.alice.memory.add") is None


def test_operations_on_calls_that_may_be_anywhere_stay_at_access() -> None:
    routes = Routes()
    for name, target, here in (
        ("syscall.cancel", "aios.k.access.syscall.cancel", True),
        ("syscall.list", "aios.k.access.syscall.list", True),
        ("tool.cancel", "aios.k.access.tool.cancel", True),
        ("syscall.attach", "aios.k.access.syscall.attach", True),
    ):
        route = routes.find(f"aios.sys.acme.alice.{name}")
        assert route is not None
        assert (route.target, route.served_here) == (target, here)
