"""A provisioned bus with a real access process on it, and the agents that are connected to it."""

from dataclasses import dataclass, field
from itertools import count
from typing import Any

from support.frame_inbox import RawAgent
from support.nats_server import NatsServer
from support.otlp_sink import OtlpSink
from support.running_service import ServiceProcess

_numbers = count(1)


@dataclass
class Installation:
    """A bus, access on it, and who is connected."""

    server: NatsServer
    access: ServiceProcess
    operator: RawAgent
    sink: OtlpSink
    _connected: list[RawAgent] = field(default_factory=list)

    async def create(self, agent: str | None = None, **fields: str) -> str:
        """A new agent's token."""
        name = agent or f"agent-{next(_numbers)}"
        made = await self.operator.result("access", "agent.create", {"agent": name, **fields})
        token: str = made["token"]
        return token

    async def connect(self, token: str, **options: Any) -> RawAgent:
        """The agent of that token on the bus; it leaves when the module ends."""
        agent = await RawAgent.connect(self.server.url, token, **options)
        self._connected.append(agent)
        return agent

    async def agent(self, group: str = "agent", tenant: str = "default") -> RawAgent:
        """A new agent, created and connected."""
        return await self.connect(await self.create(group=group, tenant=tenant))

    async def close(self) -> None:
        for agent in self._connected:
            await agent.close()
