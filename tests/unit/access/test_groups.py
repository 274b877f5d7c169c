"""Which operations a group may perform where no tenant says otherwise."""

import pytest

from aios_access.directory import Identity
from aios_access.policies import Policies
from aios_access.policy_set import Circumstances
from aios_access.resources import Resource
from aios_access.settings import DEFAULT_GROUPS
from aios_proto.operations import OPERATIONS


def allowed(groups: dict[str, list[str]], group: str, operation: str) -> bool:
    manager, _, name = operation.partition(".")
    caller = Identity("acme", "alice", group, "0" * 64, 0)
    policies = Policies(groups)
    decision = policies.decide_early(caller, OPERATIONS[manager, name])
    if decision is None:
        harmless = Resource("Tool", "acme", "clock", "alice")
        decision = policies.decide(caller, OPERATIONS[manager, name], (harmless,), Circumstances())
    return decision.effect == "allow"


@pytest.mark.parametrize(
    ("pattern", "operation", "expected"),
    [
        ("*", "llm.chat", True),
        ("*", "access.agent.create", True),
        ("llm.*", "llm.chat", True),
        ("llm.*", "memory.add", False),
        ("memory.*", "memory.pool.create", True),
        ("memory.pool.*", "memory.pool.create", True),
        ("memory.pool.*", "memory.add", False),
        ("memory.add", "memory.add", True),
        ("memory.add", "memory.get", False),
    ],
)
def test_a_pattern_covers_what_it_says_and_no_more(pattern: str, operation: str, *, expected: bool) -> None:
    assert allowed({"g": [pattern]}, "g", operation) is expected


def test_an_unknown_group_and_an_empty_one_may_do_nothing() -> None:
    policies = Policies({"empty": []})
    for group in ("empty", "?"):
        caller = Identity("acme", "alice", group, "0" * 64, 0)
        for operation in OPERATIONS.values():
            decision = policies.decide_early(caller, operation)
            assert decision is not None
            assert decision.effect == "deny"
    assert policies.knows_group("acme", "empty")
    assert not policies.knows_group("acme", "?")


@pytest.mark.parametrize("pattern", ["*.chat", "llm.c*", "**", ".*", "l*m.*", "*.*", "llmx.*", "llm.chatter", "memory"])
def test_a_pattern_that_is_not_what_it_looks_like_is_refused_at_the_start(pattern: str) -> None:
    with pytest.raises(ValueError, match="group g"):
        Policies({"g": [pattern]})


def test_agents_may_use_the_managers_but_not_manage_identities_or_the_scheduler() -> None:
    assert Policies(DEFAULT_GROUPS).group_names("acme") == ["agent", "guest", "operator"]
    for operation in OPERATIONS.values():
        own = operation.manager not in ("access", "scheduler") or operation.full_name == "access.whoami"
        assert allowed(DEFAULT_GROUPS, "agent", operation.full_name) is own
        assert allowed(DEFAULT_GROUPS, "operator", operation.full_name)
