"""`aios pool`: an operator looks at pools and changes them while the system runs."""

import pytest
from support.stack import Stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def done(stack: Stack, *arguments: str) -> str:
    ran = stack.aios("pool", *arguments)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def row(stack: Stack, pool: str) -> list[str]:
    return next(line.split() for line in done(stack, "ls").splitlines() if line.startswith(f"{pool} "))


def test_a_pool_is_set_shown_and_set_back(stack: Stack) -> None:
    assert row(stack, "default")[1:3] == ["aios", "2"]
    said = done(stack, "set", "default", "--policy", "fair", "--weight", "acme=3", "--queue-per-tenant", "50")
    assert said.strip() == "pool default: policy fair (was aios), 10000 may wait, 50 of a tenant, acme has 3"
    assert row(stack, "default")[1] == "fair"
    assert "acme 3" in done(stack, "ls")
    assert "policy aios (was fair)" in done(stack, "set", "default", "--reset")


def test_rules_for_all_pools_leave_one_with_its_own_alone(stack: Stack) -> None:
    done(stack, "set", "night", "--policy", "fifo")
    assert "(was aios)" in done(stack, "set", "--policy", "las", "--flood-share", "1")
    assert "policy fifo" in done(stack, "set", "night", "--queue-total", "5")
    assert row(stack, "default")[1] == "las"
    done(stack, "set", "night", "--reset")
    assert "policy aios (was las)" in done(stack, "set", "--reset")


def test_a_worker_is_drained_and_taken_back(stack: Stack) -> None:
    assert done(stack, "drain", "llm-1").startswith("default/llm-1 is draining")
    assert done(stack, "drain", "default/llm-1", "--undo").startswith("default/llm-1 is ready")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("set", "a b", "--policy", "fifo"), "pool"),
        (("set", "--weight", "acme"), "TENANT=SHARE"),
        (("set", "--weight", "acme=-1"), "tenant_weights.acme"),
        (("set", "--queue-total", "0"), "queue_total"),
        (("drain", "nobody"), "no worker nobody"),
    ],
)
def test_what_cannot_be_is_refused_by_name(stack: Stack, arguments: tuple[str, ...], said: str) -> None:
    ran = stack.aios("pool", *arguments)
    assert ran.returncode != 0
    assert said in ran.stderr
