"""Attacks the bus itself refuses: going around access, spoofing subjects and inboxes, reading what is others'.

Not recorded in the audit log, which access writes: the server refuses them before any service hears of them. What is
seen is the server's own error.
"""

import pytest
from support.attack_world import AttackWorld

from aios_proto import subjects
from aios_proto.ids import new_syscall_id

pytestmark = pytest.mark.asyncio(loop_scope="session")

PUBLISH = {
    "ASI03 call in another agent's name": "aios.sys.default.victim.memory.list",
    "ASI03 call in an operator's name": "aios.sys.default.operator.access.agent.list",
    "ASI03 call in another tenant's name": "aios.sys.acme.worker.memory.list",
    "ASI03 call of an agent whose name begins with ours": "aios.sys.default.agent2.memory.list",
    "ASI03 call of a tenant whose name begins with ours": "aios.sys.default2.agent.memory.list",
    "ASI03 call with a wildcard for the agent": "aios.sys.default.*.memory.list",
    "ASI03 call with a wildcard for everything": "aios.sys.>",
    "ASI03 call in upper case": "AIOS.SYS.DEFAULT.AGENT.memory.list",
    "ASI03 around access to memory": "aios.k.memory.list",
    "ASI03 around access to storage": "aios.k.storage.read",
    "ASI03 around access to a tool": "aios.k.tool.call",
    "ASI03 around access to the scheduler": "aios.k.scheduler.state",
    "ASI03 around access to the models": "aios.k.llm.chat",
    "ASI03 around access to access": "aios.k.access.agent.create",
    "ASI03 around access into the queue of calls": "aios.q.llm.chat",
    "ASI07 command to a worker": "aios.k.llm.default.llm-1.run",
    "ASI07 cancel at a worker": "aios.k.llm.default.llm-1.cancel",
    "ASI07 forged report of a worker": "aios.k.scheduler.report.default.llm-1",
    "ASI07 forged presence of a manager": "aios.k.presence.memory.evil",
    "ASI07 forged end of a call": "aios.k.access.ended",
    "ASI09 redeeming an approval": "aios.k.access.redeem",
    "ASI07 forged fact": "aios.evt.default.syscall.completed",
    "ASI07 forged refusal of the scheduler": "aios.evt.default.scheduler.refused",
    "ASI10 forged audit record": "aios.audit.default",
    "ASI10 forged audit record of the kernel": "aios.audit.kernel",
    "ASI03 own identity written into the store": "$KV.AIOS_AGENTS.default.agent",
    "ASI03 new identity written into the store": "$KV.AIOS_AGENTS.default.evil",
    "ASI03 policy written into the store": "$KV.AIOS_POLICIES.default.default",
    "ASI03 quota written into the store": "$KV.AIOS_QUOTAS.default.agent",
    "ASI09 approval written into the store": "$KV.AIOS_APPROVALS.default.000000000000000000000000",
    "ASI06 taint washed off in the store": "$KV.AIOS_TAINT.p.default.agent.run",
    "ASI04 tool declared harmless in the store": "$KV.AIOS_TOOLS.default.wipe",
    "ASI07 forged result of a call": "$KV.AIOS_RESULTS.default.victim.x",
    "ASI07 forged lease of the scheduler": "$KV.AIOS_SCHEDULER.lease",
    "ASI07 forged lease of the memory manager": "$KV.AIOS_LEASES.memory",
    "ASI07 forged lease of the tool manager": "$KV.AIOS_LEASES.tool",
    "ASI03 account info of JetStream": "$JS.API.INFO",
    "ASI03 list of streams": "$JS.API.STREAM.NAMES",
    "ASI03 info on the stream of calls": "$JS.API.STREAM.INFO.AIOS_SYSCALLS",
    "ASI03 reading a stored call": "$JS.API.STREAM.MSG.GET.AIOS_SYSCALLS",
    "ASI03 direct read of identities": "$JS.API.DIRECT.GET.KV_AIOS_AGENTS.$KV.AIOS_AGENTS.default.operator",
    "ASI10 deleting the audit log": "$JS.API.STREAM.DELETE.AIOS_AUDIT",
    "ASI10 purging the audit log": "$JS.API.STREAM.PURGE.AIOS_AUDIT",
    "ASI10 changing the audit log's limits": "$JS.API.STREAM.UPDATE.AIOS_AUDIT",
    "ASI10 deleting an audit record": "$JS.API.STREAM.MSG.DELETE.AIOS_AUDIT",
    "ASI10 making a stream that mirrors all calls": "$JS.API.STREAM.CREATE.EVIL",
    "ASI10 consumer on all events": "$JS.API.CONSUMER.CREATE.AIOS_EVENTS",
    "ASI10 taking calls off the queue": "$JS.API.CONSUMER.MSG.NEXT.AIOS_SYSCALLS.scheduler",
    "ASI10 acknowledging another's call": "$JS.ACK.AIOS_SYSCALLS.scheduler.1.1.1.1.1",
    "ASI10 restoring a stream": "$JS.API.STREAM.RESTORE.AIOS_AUDIT",
    "ASI10 snapshot of the identities": "$JS.API.STREAM.SNAPSHOT.KV_AIOS_AGENTS",
    "ASI10 stepping a leader down": "$JS.API.STREAM.LEADER.STEPDOWN.AIOS_SYSCALLS",
    "ASI03 answering the auth callout": "$SYS.REQ.USER.AUTH",
    "ASI10 cutting a connection": "$SYS.REQ.SERVER.x.KICK",
    "ASI10 reloading the server": "$SYS.REQ.SERVER.x.RELOAD",
    "ASI10 asking the servers": "$SYS.REQ.SERVER.PING",
    "ASI10 connections of the account": "$SYS.REQ.ACCOUNT.AIOS.CONNZ",
    "ASI07 frame into the victim's inbox": "_INBOX.default.victim.0",
    "ASI07 frame into another tenant's inbox": "_INBOX.acme.worker.0",
    "ASI07 frame into a service's inbox": "_INBOX_AIOS.access.call.x.y",
    "ASI07 frame to a tool's owner": "_INBOX.default.victim.r1.tools",
    "ASI07 frame into our own inbox, as if from the kernel": "_INBOX.default.agent.0",
    "ASI07 interaction written for storage": "aios.interactions.default.victim",
    "ASI07 KV written for a worker": "aios.kv.default.victim.1",
    "ASI03 object store": "$O.AIOS_STORAGE.C.x",
}

SUBSCRIBE = {
    "ASI07 all calls": "aios.sys.>",
    "ASI07 the victim's calls": "aios.sys.default.victim.>",
    "ASI07 our own calls, before access": "aios.sys.default.agent.>",
    "ASI07 another tenant's calls": "aios.sys.acme.>",
    "ASI07 all kernel calls": "aios.k.>",
    "ASI07 memory's calls": "aios.k.memory.>",
    "ASI07 tools' calls": "aios.k.tool.>",
    "ASI07 stored calls": "aios.q.>",
    "ASI07 events of our tenant": "aios.evt.default.>",
    "ASI07 all events": "aios.evt.>",
    "ASI07 the audit log": "aios.audit.*",
    "ASI07 presence": "aios.k.presence.*.*",
    "ASI07 workers' reports": "aios.k.scheduler.report.*.*",
    "ASI07 the victim's inbox": "_INBOX.default.victim.>",
    "ASI07 everyone's inboxes": "_INBOX.>",
    "ASI07 inboxes of our tenant": "_INBOX.default.>",
    "ASI07 inboxes of agents of one name": "_INBOX.*.agent.>",
    "ASI07 another tenant's inboxes": "_INBOX.acme.worker.>",
    "ASI07 services' inboxes": "_INBOX_AIOS.>",
    "ASI07 access' inbox": "_INBOX_AIOS.access.>",
    "ASI07 KV of calls": "aios.kv.>",
    "ASI07 everything": ">",
    "ASI07 every subject of three tokens": "*.*.*",
    "ASI07 identities as they change": "$KV.AIOS_AGENTS.>",
    "ASI07 approvals as they change": "$KV.AIOS_APPROVALS.>",
    "ASI07 JetStream's API": "$JS.API.>",
    "ASI07 JetStream's advisories": "$JS.EVENT.>",
    "ASI07 acknowledgements": "$JS.ACK.>",
    "ASI07 the system account": "$SYS.>",
    "ASI03 the auth callout": "$SYS.REQ.USER.AUTH",
    "ASI07 connections as they come": "$SYS.ACCOUNT.AIOS.CONNECT",
}

QUEUES = {
    "ASI10 taking access' place in its queue": (subjects.ALL_SYSCALLS, "access"),
    "ASI10 taking access' place at the callout": (subjects.AUTH_CALLOUT, "access-callout"),
    "ASI10 taking memory's place in its queue": ("aios.k.memory.add", "memory"),
    "ASI10 taking the scheduler's place": ("aios.k.llm.chat", "scheduler"),
    "ASI10 hiding ends of calls from the audit": (subjects.CALL_ENDED, "access-audit"),
}


@pytest.mark.parametrize("name", PUBLISH)
async def test_nothing_can_be_published_there(world: AttackWorld, name: str) -> None:
    await world.refused_publish(PUBLISH[name], reply=f"_INBOX.default.agent.{new_syscall_id()}")


@pytest.mark.parametrize("name", SUBSCRIBE)
async def test_nothing_can_be_heard_there(world: AttackWorld, name: str) -> None:
    await world.refused_subscription(SUBSCRIBE[name])


@pytest.mark.parametrize("name", QUEUES)
async def test_no_services_place_can_be_taken(world: AttackWorld, name: str) -> None:
    subject, queue = QUEUES[name]
    await world.refused_subscription(subject, queue)
