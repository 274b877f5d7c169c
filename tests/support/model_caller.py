"""Calls models where access would: straight at the scheduler, and through the durable queue as well."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import orjson
from support.frame_inbox import Frame, KernelCaller
from support.running_service import InProcess

from aios_proto import headers as wire
from aios_proto import subjects
from aios_proto.ids import new_syscall_id

StartScheduler = Callable[..., AbstractAsyncContextManager[InProcess]]


class ModelCaller(KernelCaller):
    """Also sends durable calls, and model calls with all their headers."""

    async def model_call(
        self,
        body: object = None,
        *,
        durable: bool = True,
        ahead: bool = True,
        operation: str = "complete",
        deadline_s: float = 20,
        priority: int = 5,
        call_id: str | None = None,
        after: tuple[str, ...] = (),
        budget_tokens: int | None = None,
    ) -> wire.CallHeaders:
        """Sends one, a durable one `ahead` of the queue too; the headers name it."""
        headers = wire.CallHeaders(
            id=call_id or new_syscall_id(),
            tenant=self.tenant,
            agent=self.agent,
            group="agent",
            reply=self.inbox.new_subject(),
            priority=priority,
            after=after,
            budget_tokens=budget_tokens,
            deadline_ms=int((time.time() + deadline_s) * 1000),
            times_us=(time.time_ns() // 1000,),
        )
        data = body if isinstance(body, bytes) else orjson.dumps({"prompt": "Hi"} if body is None else body)
        direct = subjects.kernel("llm", operation)
        if durable:
            if ahead:
                await self.nc.publish(direct, data, headers=headers.to_wire() | {wire.DURABILITY: "durable"})
            out = headers.to_wire() | {wire.MSG_ID: headers.key}
            await self.nc.jetstream().publish(subjects.durable("llm", operation), data, headers=out)
        else:
            await self.nc.publish(direct, data, headers=headers.to_wire())
        return headers

    async def end(self, call: wire.CallHeaders, timeout_s: float = 10) -> Frame:
        """The last frame of a call."""
        return (await self.inbox.until_end(call.reply, timeout_s))[-1]

    async def error(self, call: wire.CallHeaders, timeout_s: float = 10) -> dict[str, Any]:
        """The error of a call that must fail."""
        frame = await self.end(call, timeout_s)
        assert frame["type"] == "error", frame
        error: dict[str, Any] = frame["error"]
        return error

    async def queue_is_empty(self) -> None:
        """Returns when no message is left in the durable queue."""
        await self.queue_has(0)

    async def queue_has(self, messages: int) -> None:
        """Returns when the durable queue has so many; what has ended leaves it a moment after its answer."""
        async with asyncio.timeout(10):
            while await self.queued() != messages:
                await asyncio.sleep(0.01)

    async def queued(self) -> int:
        """Messages in the durable queue."""
        return (await self.nc.jetstream().stream_info(subjects.SYSCALLS_STREAM)).state.messages
