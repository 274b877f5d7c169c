"""Brings the registry in line with the tools the kernel itself offers: built-in ones, and those of mounted servers."""

import time
from collections.abc import Sequence

from aios_proto import subjects
from aios_proto.errors import InvalidRequest, ResourceConflict
from aios_proto.messages.tool import ToolRecord, ToolSource, ToolSpec
from aios_tool.adapters.kv_registry import KvRegistry
from aios_tool.core.registry import Registry


class KernelTools:
    """Writes and removes the records under `kernel.`."""

    def __init__(self, registry: Registry, store: KvRegistry) -> None:
        self._registry = registry
        self._store = store

    async def set(self, owner: str, specs: Sequence[ToolSpec]) -> list[str]:
        """Makes these the tools of `owner`: `builtin`, or `mcp:<server>`. Returns why some are not offered.

        Raises:
            BusUnavailable: the store cannot be reached.
        """
        source: ToolSource = "builtin" if owner == "builtin" else "mcp"
        wanted = {spec.name: spec for spec in specs}
        refused: list[str] = []
        for tool in self._registry.all():
            if tool.record.owner == owner and tool.record.source == source and tool.spec.name not in wanted:
                await self._store.delete(tool)
        for spec in wanted.values():
            known = self._registry.get(f"{subjects.KERNEL_TENANT}.{spec.name}")
            if known is not None and known.spec == spec and known.record.owner == owner:
                continue
            if known is not None and known.record.owner != owner:
                refused.append(f"{spec.name}: it is a tool of {known.record.owner} already")
                continue
            record = ToolRecord(
                tool=spec,
                tenant=subjects.KERNEL_TENANT,
                owner=owner,
                source=source,
                registered_ms=time.time_ns() // 1_000_000,
            )
            try:
                await self._store.put(record)
            except (InvalidRequest, ResourceConflict) as error:
                refused.append(f"{spec.name}: {error.message}")
        return refused
