"""`aios policy`, `aios quota` and `aios tenant` as an operator types them."""

import asyncio
import os
import sys

import pytest
from support.access_installation import Installation

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow, pytest.mark.timeout(120)]

NO_WIPE = """@id("no-wipe")
forbid(principal, action == Action::"tool.call", resource is Tool) when { resource.name == "wipe" };
"""


async def aios(installation: Installation, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aios._cli", *arguments),
        env={**os.environ, "AIOS_URL": installation.server.url, "AIOS_TOKEN": installation.server.operator_token},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await process.communicate(stdin.encode())
    assert process.returncode is not None
    return process.returncode, out.decode(), error.decode()


async def test_a_policy_is_put_listed_read_and_checked(installation: Installation) -> None:
    await installation.create("scout")
    assert (await aios(installation, "policy", "put", "-", "--name", "tools", stdin=NO_WIPE))[1].strip() == (
        "default: tools version 1, 1 policies"
    )
    listed = (await aios(installation, "policy", "list"))[1]
    assert "built in" in listed
    assert "default.operator" in listed
    assert (await aios(installation, "policy", "get", "tools"))[1] == NO_WIPE
    denied = await aios(installation, "policy", "check", "scout", "tool.call", 'Tool::"wipe"')
    assert denied[:2] == (2, "deny: tools:no-wipe\n")
    allowed = await aios(installation, "policy", "check", "scout", "tool.call", 'Tool::"look"')
    assert allowed[:2] == (0, "allow: default:agent\n")
    nobody = await aios(installation, "policy", "check", "scout", "scheduler.drain")
    assert nobody[:2] == (2, "deny: no policy permits it\n")
    code, _, error = await aios(installation, "policy", "put", "-", "--name", "bad", stdin="permit(")
    assert code == 1
    assert "bad is not Cedar" in error
    assert "Traceback" not in error


async def test_quotas_are_set_shown_and_removed(installation: Installation) -> None:
    await installation.create("spender")
    command = ("quota", "set", "agent", "spender", "--calls-per-s", "50", "--tokens", "1000", "--budget", "0.5")
    assert (await aios(installation, *command))[1].strip() == (
        "agent spender: 50 calls/s, 1000 tokens in 3600 s, 0.5 in 86400 s"
    )
    assert (await aios(installation, "quota", "set", "tenant", "--calls-per-s", "1000", "--wait-s", "2"))[
        1
    ].strip() == ("tenant: 1000 calls/s, wait 2 s")
    shown = (await aios(installation, "quota", "show"))[1]
    assert "spender" in shown
    assert "1000 calls/s" in shown
    assert (await aios(installation, "quota", "set", "agent", "spender"))[1].strip() == "agent spender: no limit"
    assert "spender" not in (await aios(installation, "quota", "show"))[1]
    await aios(installation, "quota", "set", "tenant")


async def test_a_tenant_is_made_listed_and_deleted(installation: Installation) -> None:
    token = (await aios(installation, "tenant", "create", "bazaar"))[1].strip()
    assert token.startswith("bazaar.operator.")
    assert "bazaar" in (await aios(installation, "tenant", "list"))[1]
    assert (await aios(installation, "tenant", "delete", "bazaar", stdin="n\n"))[0] == 1
    assert "1 agents are revoked" in (await aios(installation, "tenant", "delete", "bazaar", "--yes"))[1]
    assert "bazaar" not in (await aios(installation, "tenant", "list"))[1]
