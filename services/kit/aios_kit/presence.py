"""How a service says that it lives and what it serves: a heartbeat a manager, once a second.

Access passes a call's reply subject on, so the bus's own "no responders" answer would reach nobody; the heartbeat is
what lets access answer `manager.unavailable` at once where a manager is not running.
"""

import asyncio

import orjson

from aios_kit.lane import Lane
from aios_proto import subjects
from aios_proto.kernel import PRESENCE_INTERVAL_S


class Heartbeat:
    """Sends one instance's heartbeats until it is told to leave."""

    def __init__(self, lane: Lane, instance: str, operations: dict[str, list[str]]) -> None:
        """Takes the operations served, by manager."""
        self._lane = lane
        self._instance = instance
        self._operations = operations

    async def beat(self, *, leaving: bool = False) -> None:
        """Sends one heartbeat for each manager."""
        for manager, operations in self._operations.items():
            body = {"manager": manager, "instance": self._instance, "operations": operations, "leaving": leaving}
            await self._lane.reply(subjects.presence(manager, self._instance), orjson.dumps(body))

    async def run(self) -> None:
        """Beats for ever; cancel it to stop."""
        while True:
            await self.beat()
            await asyncio.sleep(PRESENCE_INTERVAL_S)
