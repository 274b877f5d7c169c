"""After all attacks: how many there were, that the log of them is whole, and what this suite does not cover."""

import pytest
from support.attack_world import TENANT, AttackWorld

NOT_COVERED = {
    "ASI01": "whether a model follows injected text: only what its calls may do afterwards is tested",
    "ASI02": "harm done by reversible tools, or by an irreversible one that declares itself harmless",
    "ASI04": "a tool or MCP server whose code is malicious; packages; images",
    "ASI05": "escapes from the sandbox: they have a corpus of their own with the tool manager",
    "ASI06": "poisoning within what an agent may write; paths of storage and ids of memory, tested with their managers",
    "ASI08": "exhaustion of the bus's own disk, memory and connections",
    "ASI09": "a human who approves without reading",
    "bus": "TLS, routes between servers, the monitoring port, files on the machine's disk, a stolen nkey of a service",
    "timing": "side channels: how long an answer takes, sizes of messages",
}


async def test_the_suite_names_at_least_two_hundred_attacks(request: pytest.FixtureRequest) -> None:
    attacks = [item for item in request.session.items if "tests/attack/" in item.nodeid.replace("\\", "/")]
    chosen = {item.path.name for item in attacks}
    if len(chosen) < 4:
        pytest.skip("only a part of the suite was chosen")
    assert len(attacks) >= 200, len(attacks)
    assert NOT_COVERED


@pytest.mark.asyncio(loop_scope="session")
async def test_the_log_of_all_attacks_is_whole(world: AttackWorld) -> None:
    for tenant in (TENANT, "kernel", "acme"):
        verdict = await world.operator.result("access", "audit.verify", {"tenant": tenant})
        assert verdict["intact"], verdict


@pytest.mark.asyncio(loop_scope="session")
async def test_access_lives_and_reported_no_fault_of_its_own(world: AttackWorld) -> None:
    assert world.access.returncode is None
    assert (await world.victim.result("access", "whoami"))["agent"] == "victim"
    assert [line for line in world.access.log if line.get("level") == "error"] == []
