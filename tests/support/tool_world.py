"""A bus with access and the tool manager on it, and how agents come to it."""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from support.access_installation import Installation
from support.running_service import ServiceProcess, running_process

from aios import Agent


@dataclass
class ToolWorld:
    """A bus, access and the tool manager on it.

    Attributes:
        env: what the tool manager is started with.
    """

    installation: Installation
    manager: ServiceProcess
    env: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return self.installation.server.url

    async def token(self, name: str | None = None, **fields: str) -> str:
        """A new agent's token."""
        return await self.installation.create(name, **fields)

    async def agent(self, name: str | None = None, **fields: str) -> Agent:
        """A new agent, not connected yet."""
        return Agent(token=await self.token(name, **fields), url=self.url, connect_timeout_s=15)

    def restarted(self) -> AbstractAsyncContextManager[ServiceProcess]:
        """Another tool manager, for after the first was killed."""
        return running_process("aios_tool", self.installation.server, "tool", self.env)
