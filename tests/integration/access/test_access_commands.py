"""`aios audit` and `aios approvals` as an operator types them."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from click.testing import CliRunner, Result
from support.access_installation import Installation
from support.kernel_peer import KernelPeer, kernel_peer

from aios_proto import headers as wire
from aios_stack.cli import commands
from aios_stack.keys import from_seed

pytestmark = pytest.mark.asyncio(loop_scope="module")

Aios = Callable[..., "asyncio.Future[Result]"]


@pytest.fixture
def aios(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> Aios:
    monkeypatch.setenv("AIOS_URL", installation.server.url)
    monkeypatch.setenv("AIOS_TOKEN", installation.server.operator_token)
    known = {command.name: command for command in commands}

    def run(name: str, *arguments: str) -> "asyncio.Future[Result]":
        return asyncio.ensure_future(asyncio.to_thread(CliRunner().invoke, known[name], arguments))

    return run


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tools(installation: Installation) -> AsyncIterator[KernelPeer]:
    async with kernel_peer(installation.server, "tool", "tool") as peer:
        policy = '@ask("always")\npermit(principal, action == Action::"tool.call", resource);'
        await installation.operator.result("access", "policy.put", {"name": "strict", "text": policy})
        yield peer


async def test_a_log_verifies_from_the_terminal_and_so_does_its_export(
    installation: Installation, aios: Aios, tmp_path: Path
) -> None:
    verified = await aios("audit", "verify")
    assert verified.exit_code == 0, verified.output
    assert "intact, seals checked" in verified.output
    head = verified.output.split("head ")[1].strip()
    assert (await aios("audit", "verify", "--anchor", head)).exit_code == 0

    exported = tmp_path / "audit.jsonl"
    assert (await aios("audit", "export", "-o", str(exported))).exit_code == 0
    assert all(json.loads(line) for line in exported.read_text().splitlines())
    assert installation.server.credentials is not None
    key = from_seed(installation.server.credentials.issuer_seed.read_text()).public
    offline = await aios("audit", "verify", "--file", str(exported), "--key", key, "--anchor", head)
    assert offline.exit_code == 0, offline.output

    exported.write_text(exported.read_text().replace("access.audit.verify", "access.audit.export", 1))
    changed = await aios("audit", "verify", "--file", str(exported), "--key", key)
    assert changed.exit_code == 2
    assert "NOT intact" in changed.output
    assert ": changed: " in changed.output


async def test_a_wrong_anchor_or_file_is_said_to_be_wrong(aios: Aios, tmp_path: Path) -> None:
    assert (await aios("audit", "verify", "--anchor", "5")).exception is not None
    other = tmp_path / "other.txt"
    other.write_text("nothing of ours\n")
    assert "does not begin with a record" in str((await aios("audit", "verify", "--file", str(other))).exception)


async def test_a_human_sees_what_waits_and_decides(installation: Installation, aios: Aios, tools: KernelPeer) -> None:
    agent = await installation.agent()
    replies = [
        await agent.send("tool", "call", {"name": "mail", "arguments": {"to": to}}, headers={wire.PROGRAM: "p"})
        for to in ("a@example.org", "b@example.org")
    ]
    ids = [(await agent.inbox.next(reply))["approval_id"] for reply in replies]
    shown = (await aios("approvals", "list")).output
    for approval_id, to in zip(ids, ("a@example.org", "b@example.org"), strict=True):
        line = next(line for line in shown.splitlines() if approval_id in line)
        assert f"default.{agent.agent}" in line
        assert to in line
    approved = await aios("approvals", "approve", ids[0], "--reason", "fine")
    assert approved.output.startswith(f"{ids[0]} is approved: tool.call")
    denied = await aios("approvals", "deny", ids[1], "--reason", "not him")
    assert denied.output.startswith(f"{ids[1]} is denied")
    assert (await agent.inbox.until_end(replies[0]))[-1]["type"] == "done"
    assert "not him" in (await agent.inbox.until_end(replies[1]))[-1]["error"]["message"]
    assert ids[0] not in (await aios("approvals", "list")).output
    states = (await aios("approvals", "list", "--all")).output
    assert "denied" in states
    assert (await aios("approvals", "approve", "nonsense")).exception is not None
