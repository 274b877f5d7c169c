"""A kernel service that only tests run: it answers slowly, or fails, as the call's own content says.

`python -m support.slow_service` serves `memory.add`: `sleep 0.5` waits half a second, `hold` waits until the test lets
it go on, `raise` fails in a way nobody foresaw, `refuse` fails with a typed error, `huge` answers more than the bus
carries, anything else is echoed.
"""

import asyncio
import os

from aios_kit.service import Call, Service, run
from aios_kit.settings import ServiceSettings
from aios_proto.errors import ResourceConflict
from aios_proto.messages.base import Empty
from aios_proto.messages.memory import AddRequest, MemoryIdResult, PoolsResult


class SlowService:
    """The handlers and the service they hang on.

    Attributes:
        go_on: what calls that `hold` wait for.
    """

    def __init__(self, settings: ServiceSettings, concurrency: int = 256) -> None:
        self.service = Service("memory", settings, concurrency=concurrency)
        self.at_once = 0
        self.most_at_once = 0
        self.begun = 0
        self.go_on = asyncio.Event()
        self.service.serve("memory", "add", self._add)
        self.service.serve("memory", "pool.list", self._pools)

    async def _add(self, call: Call[AddRequest]) -> MemoryIdResult:
        verb, _, argument = call.body.content.partition(" ")
        self.begun += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            match verb:
                case "sleep":
                    await asyncio.sleep(float(argument))
                case "hold":
                    await self.go_on.wait()
                case "raise":
                    raise RuntimeError("a secret nobody may see")
                case "timeout":
                    raise TimeoutError
                case "refuse":
                    raise ResourceConflict("as you wish", field="content")
                case "huge":
                    return MemoryIdResult(memory_id="x" * int(argument))
        finally:
            self.at_once -= 1
        return MemoryIdResult(memory_id=call.body.content)

    async def _pools(self, call: Call[Empty]) -> PoolsResult:
        return PoolsResult(pools=[])


if __name__ == "__main__":
    run(lambda: SlowService(ServiceSettings(), int(os.environ.get("SLOW_CONCURRENCY", "256"))).service)
