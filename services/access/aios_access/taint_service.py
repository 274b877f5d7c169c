"""Taint on the bus: marks in the bucket `AIOS_TAINT`, seen by all replicas, and what tools declare in `AIOS_TOOLS`."""

import time
from dataclasses import replace

from nats.js.api import KeyValueConfig
from pydantic import ValidationError

from aios_access.adapters.kv_table import Entry, KvTable, Taken
from aios_access.core import AccessCore
from aios_access.resources import parse_body
from aios_access.settings import AccessSettings
from aios_access.taint import Mark, Taint, write_mark
from aios_kit.service import Service
from aios_kit.streams import ensure_bucket
from aios_proto import headers as wire
from aios_proto import subjects
from aios_proto.errors import MalformedRequest
from aios_proto.headers import CallHeaders
from aios_proto.messages.tool import ToolRecord
from aios_proto.names import is_name, is_syscall_id
from aios_proto.operations import Operation
from aios_proto.subjects import SyscallSubject

IRREVERSIBLE = "irreversible"


class TaintService:
    """Keeps marks and tools' effects as the buckets have them.

    Attributes:
        taint: the marks.
    """

    def __init__(self, service: Service, settings: AccessSettings, core: AccessCore) -> None:
        self._service = service
        self._settings = settings
        self._core = core
        self.taint = Taint(frozenset(settings.access_trusted_tools), settings.access_taint_lifetime_s)
        core.is_tainted = self._is_tainted
        self._marks: KvTable | None = None
        self._tools: KvTable | None = None

    async def open(self) -> None:
        """Reads both buckets and begins to watch them."""
        settings = self._settings
        replicas = settings.jetstream_replicas
        marks = KeyValueConfig(
            bucket=subjects.TAINT_BUCKET,
            history=1,
            ttl=settings.access_taint_lifetime_s,
            replicas=replicas,
            direct=True,
        )
        # As the tool manager makes it; whoever comes first does.
        tools = KeyValueConfig(bucket=subjects.TOOLS_BUCKET, history=5, replicas=replicas, direct=True)
        self._marks = await self._watched(marks, self._take_mark)
        self._tools = await self._watched(tools, self._take_tool)

    async def restart(self) -> None:
        """Watches anew, as after a lost connection."""
        for table in (self._marks, self._tools):
            if table is not None:
                await table.restart()

    async def close(self) -> None:
        """Watches no more."""
        for table in (self._marks, self._tools):
            if table is not None:
                await table.stop()

    async def store(self, marks: list[Mark]) -> None:
        """Puts marks where every replica sees them.

        Raises:
            BusUnavailable: they could not be stored; the call that makes them must not go on.
        """
        if self._marks is not None:
            for mark in marks:
                await self._marks.put(mark.key, write_mark(mark.labels, time.time()))

    async def passed(self, headers: CallHeaders, operation: Operation, body: bytes) -> CallHeaders:
        """Stores what a call taints that goes on now; gives its headers with all labels of its program.

        Raises:
            BusUnavailable: the marks could not be stored.
        """
        labels, marks = self.taint.marks_of(headers, operation, body)
        await self.store(marks)
        return replace(headers, taint=labels)

    def must_look(self, subject: SyscallSubject, raw: dict[str, str] | None, body: bytes) -> list[str]:
        """What must be read anew before a call on a tool is decided: another replica, or the tool manager, may have
        written it a moment ago.

        Returns:
            Keys: `<tenant>.<tool>` in the tools' bucket, `p.<...>` among the marks. Empty for nearly every call.
        """
        if subject.manager != "tool" or subject.operation != "call":
            return []
        try:
            name = parse_body(body).get("name")
        except MalformedRequest:
            return []
        if not isinstance(name, str) or not is_name(name):
            return []
        keys = [f"{subject.tenant}.{name}", f"{subjects.KERNEL_TENANT}.{name}"]
        known = [self._core.tool_effects[key] for key in keys if key in self._core.tool_effects]
        if known and not any(IRREVERSIBLE in effects for effects in known):
            return []
        program = (raw or {}).get(wire.PROGRAM) or subject.agent
        wanted = [] if known else keys
        if is_syscall_id(program) and not self.taint.of_program(subject.tenant, subject.agent, program):
            wanted.append(f"p.{subject.tenant}.{subject.agent}.{program}")
        return wanted

    async def look(self, keys: list[str]) -> None:
        """Reads these from the streams' leaders.

        Raises:
            BusUnavailable: they cannot be read; then nothing irreversible may pass.
        """
        for key in keys:
            table = self._marks if key.startswith("p.") else self._tools
            if table is not None:
                await table.read(key)

    async def _watched(self, config: KeyValueConfig, taken: Taken) -> KvTable:
        bucket = await ensure_bucket(self._service.js, config)
        name = config.bucket or ""
        table = KvTable(self._service.js, bucket, name, taken, self._service.log)
        await table.start(self._settings.request_timeout_s)
        return table

    def _take_mark(self, entry: Entry) -> None:
        self.taint.take(entry.key, entry.value)

    def _take_tool(self, entry: Entry) -> None:
        if entry.value is None:
            self._core.tool_effects.pop(entry.key, None)
            return
        try:
            effects = frozenset[str](ToolRecord.model_validate_json(entry.value).tool.effects)
        except ValidationError:
            # What cannot be read may do anything.
            self._service.log.warning("a tool's record cannot be read; its calls need consent", key=entry.key)
            effects = frozenset({IRREVERSIBLE})
        self._core.tool_effects[entry.key] = effects

    def _is_tainted(self, tenant: str, agent: str, program: str, context: str | None) -> bool:
        return bool(self.taint.of_program(tenant, agent, program, context))
