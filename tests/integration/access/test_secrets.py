"""Nothing secret in logs, traces, events, metrics, the audit log, error messages or process arguments.

Every service is a process of its own and logs all it can. Secrets and contents are planted wherever a caller can put
them, in sound calls and in calls that fail, and everything that is written down anywhere is searched for them.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from nats.errors import Error as NatsError
from nats.js.api import ConsumerConfig, DeliverPolicy
from support.audit_reader import AuditReader
from support.frame_inbox import RawAgent, connect_once
from support.kernel_peer import kernel_peer
from support.nats_server import NatsServer, running_nats
from support.otlp_sink import OtlpSink
from support.running_service import ServiceProcess, access_env, running_process

from aios_proto import headers as wire
from aios_proto import subjects, telemetry
from aios_proto.tokens import AgentToken

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

PROMPT = f"prompt-{secrets.token_hex(8)}"
KEY = f"sk-live-{secrets.token_hex(16)}"
NOTE = f"note-{secrets.token_hex(8)}"
FIELD = f"field-{secrets.token_hex(8)}"


@dataclass
class Place:
    """A whole system in processes, and what was written down by it."""

    server: NatsServer
    sink: OtlpSink
    services: list[ServiceProcess]
    errors: list[str] = field(default_factory=list)
    planted: dict[str, str] = field(default_factory=dict)

    async def written_down(self) -> dict[str, str]:
        """All text, by where it stands."""
        found = {f"log of {service.name}": service.text() for service in self.services}
        found |= {f"metrics of {service.name}": (await service.get("/metrics"))[1] for service in self.services}
        found |= {f"health of {service.name}": str(await service.readiness()) for service in self.services}
        found["log of the bus"] = self.server.log
        configuration = self.server.folder / "server.conf"
        found["configuration of the bus"] = await asyncio.to_thread(configuration.read_text)
        for name, pid in [("the bus", self.server.pid), *((each.name, each.pid) for each in self.services)]:
            found[f"arguments of {name}"] = " ".join(psutil.Process(pid).cmdline())
        found["spans"] = repr(self.sink.spans)
        found["errors"] = "\n".join(self.errors)
        found["events"] = await self.stored(subjects.EVENTS_STREAM)
        for bucket in (subjects.AGENTS_BUCKET, subjects.TAINT_BUCKET, subjects.TOOLS_BUCKET):
            found[bucket] = await self.stored(f"KV_{bucket}")
        reader = await AuditReader.connect(self.server)
        found["audit log"] = repr([await reader.records(tenant) for tenant in ("default", "kernel")])
        await reader.close()
        return found

    async def stored(self, stream: str) -> str:
        """Every message of a stream with its headers."""
        nc = await self.server.connect("access")
        try:
            js = nc.jetstream()
            config = ConsumerConfig(deliver_policy=DeliverPolicy.ALL, inactive_threshold=10)
            subscription = await js.pull_subscribe(">", stream=stream, config=config)
            left = (await subscription.consumer_info()).num_pending or 0
            messages = await subscription.fetch(left, timeout=5) if left else []
            return "\n".join(f"{each.subject} {each.headers} {each.data!r}" for each in messages)
        finally:
            await nc.close()


@contextlib.asynccontextmanager
async def place(folder: Path) -> AsyncIterator[Place]:
    with running_nats(folder) as server, OtlpSink() as sink:
        shared = {"OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint, "AIOS_LOG_LEVEL": "debug"}
        async with contextlib.AsyncExitStack() as stack:

            async def start(module: str, role: object, **env: str) -> ServiceProcess:
                running = running_process(module, server, role, shared | env, wait_ready=False)  # type: ignore[arg-type]
                return await stack.enter_async_context(running)

            access = await start("aios_access", "access", **access_env(server))
            scheduler = await start("aios_scheduler", "scheduler")
            worker = await start("aios_llm", "llm", AIOS_ENGINE_KIND="instant", AIOS_ENGINE_API_KEY=KEY)
            for service in (access, scheduler, worker):
                await service.logged("ready")
                await service.wait_ready()
            yield Place(server, sink, [access, scheduler, worker])


async def plant(made: Place) -> None:
    """Puts secrets and contents wherever a caller can, in sound calls and in others."""
    server = made.server
    assert server.credentials is not None
    operator = await RawAgent.connect(server.url, server.operator_token)
    created = await operator.result("access", "agent.create", {"agent": "keeper"})
    rotated = await operator.result("access", "agent.rotate", {"agent": "keeper"})
    stranger = f"default.keeper.{secrets.token_urlsafe(32)}"
    made.planted |= {
        "operator's secret": AgentToken.parse(server.operator_token).secret,
        "agent's first secret": AgentToken.parse(created["token"]).secret,
        "agent's secret": AgentToken.parse(rotated["token"]).secret,
        "stranger's guess": AgentToken.parse(stranger).secret,
        "issuer's seed": server.credentials.issuer_seed.read_text().strip(),
        "xkey's seed": server.credentials.xkey_seed.read_text().strip(),
        "engine's key": KEY,
        "prompt": PROMPT,
        "note": NOTE,
        "field": FIELD,
    }
    made.planted |= {f"{role}'s seed": path.read_text().strip() for role, path in server.credentials.seeds.items()}
    agent = await RawAgent.connect(server.url, rotated["token"])
    chat = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 3}
    for durability in ("durable", "volatile"):
        assert (await agent.call("llm", "chat", chat, headers={wire.DURABILITY: durability}))["type"] == "done"
    async with kernel_peer(server, "memory", "memory"), kernel_peer(server, "tool", "tool"):
        await agent.call("memory", "add", {"content": NOTE, "tags": [KEY]})
        await agent.call("memory", "search", {"query": NOTE, "pool": "news"})
        await agent.call("tool", "call", {"name": "fetch", "arguments": {"authorization": KEY, "body": NOTE}})
    wrong: list[tuple[str, str, object]] = [
        ("llm", "chat", {"messages": [{"role": FIELD, "content": PROMPT}]}),
        ("llm", "chat", {"messages": PROMPT}),
        ("llm", "chat", {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": FIELD}),
        ("llm", "chat", {"messages": [{"role": "user", "content": PROMPT}], "model": "none"}),
        ("llm", "chat", f'{{"messages": [{{"role": "user", "content": "{PROMPT}'.encode()),
        ("scheduler", "state", {"note": NOTE}),
        ("access", "whoami", {"note": NOTE}),
        ("syscall", "cancel", {"id": [NOTE]}),
        ("syscall", "attach", NOTE.encode()),
    ]
    for manager, operation, body in wrong:
        frame = await agent.call(manager, operation, body)
        assert frame["type"] == "error", frame
        made.errors.append(str(frame["error"]))
    for token in (stranger, created["token"], f"{rotated['token']}x", KEY, f"default.{KEY}"):

        async def note(error: Exception) -> None:
            made.errors.append(str(error))

        with contextlib.suppress(NatsError):
            await connect_once(server.url, token=token, error_cb=note)
            raise AssertionError("a stranger was let in")
    await operator.result("access", "agent.revoke", {"agent": "keeper"})
    await agent.close()
    await operator.close()


async def test_nothing_that_was_planted_is_written_down_anywhere(tmp_path: Path) -> None:
    async with place(tmp_path / "bus") as made:
        await plant(made)
        await made.sink.wait(
            lambda spans: (
                "worker.run" in {span.name for span in spans}
                and "keeper" in {span.attributes.get(telemetry.AGENT) for span in spans}
            )
        )
        found = await made.written_down()
        assert PROMPT not in found["errors"]
        for what, secret in made.planted.items():
            for where, text in found.items():
                assert secret not in text, f"the {what} stands in the {where}"
        # The search would find something: who called what is written down.
        assert "keeper" in found["audit log"]
        assert "llm.chat" in found["audit log"]
        assert "keeper" in found["spans"]
