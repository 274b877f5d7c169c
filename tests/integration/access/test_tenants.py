"""How tenants come and go."""

import asyncio

import pytest
from support.access_installation import Installation

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_tenant_is_made_with_its_operator_and_gone_with_all_its_agents(installation: Installation) -> None:
    root = installation.operator
    token = (await root.result("access", "tenant.create", {"tenant": "shop"}))["token"]
    operator = await installation.connect(token)
    assert (await operator.result("access", "whoami")) == {"tenant": "shop", "agent": "operator", "group": "operator"}
    clerk = await installation.connect((await operator.result("access", "agent.create", {"agent": "clerk"}))["token"])
    await operator.result("access", "policy.put", {"name": "own", "text": ""})
    assert [t["tenant"] for t in (await operator.result("access", "tenant.list"))["tenants"]] == ["shop"]
    assert "shop" in [t["tenant"] for t in (await root.result("access", "tenant.list"))["tenants"]]
    for operation in ("tenant.create", "tenant.delete"):
        assert (await operator.error("access", operation, {"tenant": "other"}))["code"] == "access.denied"
        assert (await operator.error("access", operation, {"tenant": "shop"}))["code"] == "access.denied"
        assert (await root.error("access", operation, {"tenant": "default"}))["field"] == "tenant"
    assert (await root.error("access", "tenant.create", {"tenant": "shop"}))["code"] == "resource.conflict"
    assert (await root.result("access", "tenant.delete", {"tenant": "shop"}))["agents"] == 2
    async with asyncio.timeout(10):
        while not (operator.nc.is_closed and clerk.nc.is_closed):
            await asyncio.sleep(0.01)
    assert (await root.error("access", "tenant.delete", {"tenant": "shop"}))["code"] == "resource.not_found"
    documents = (await root.result("access", "policy.list", {"tenant": "shop"}))["documents"]
    assert [document["name"] for document in documents] == ["default"]
