"""What becomes of a call's quota where one delivery of it cannot go on, and another runs."""

from dataclasses import replace
from pathlib import Path

from aios_access.core import AccessCore, Admitted
from aios_access.directory import Directory, Identity
from aios_access.policies import Policies
from aios_access.presence import PresenceTable
from aios_access.quota_service import QuotaService
from aios_access.settings import DEFAULT_GROUPS, AccessSettings
from aios_access.stores import Stores
from aios_kit.service import Service
from aios_proto.headers import CallHeaders
from aios_proto.messages.access import QuotaLimits
from aios_proto.operations import OPERATIONS

ALICE = Identity("acme", "alice", "agent", "0" * 64, 0)


def quotas(folder: Path) -> QuotaService:
    async def caller(_: CallHeaders) -> Identity:
        return ALICE

    def stores() -> Stores:
        raise AssertionError

    settings = AccessSettings(instance="access-1", nats_nkey_file=folder / "none")
    core = AccessCore(
        Directory(),
        Policies(DEFAULT_GROUPS),
        PresenceTable(),
        default_deadline_s=600,
        max_deadline_s=3600,
        root_tenant="default",
    )
    return QuotaService(Service("access", settings), settings, core, caller, stores)


async def test_a_copy_that_cannot_go_on_gives_nothing_of_the_running_call_back(tmp_path: Path) -> None:
    service = quotas(tmp_path)
    service.quotas.put(("acme", "agent", "alice"), QuotaLimits(concurrent_calls=64))
    headers = CallHeaders("c1", tenant="acme", agent="alice", group="agent", reply="_INBOX.acme.alice.0")
    operation = OPERATIONS["llm", "chat"]
    call = Admitted(ALICE, headers, operation, "llm.chat", "aios.k.llm.chat", durable=True)
    charge = service.guard.charge(ALICE, operation, headers, b"{}", 1000.0)
    assert charge is not None
    assert charge.complete
    service.not_passed(replace(call, is_copy=True))
    assert service.guard.is_open(headers.key)
    service.not_passed(call)
    assert not service.guard.is_open(headers.key)
