"""Calls about calls: where a call is that shall end, and which calls of an agent are open.

A call's id does not say who has it: it may wait for a human or a quota here, or wait or run under the scheduler or in
the tool manager. So access takes these operations itself, asks all of them, and answers once: with what the one says
that knows the call, or, when none does, that it is unknown.
"""

import asyncio
import time
from collections.abc import Coroutine

from aios_access.approval_service import ApprovalService
from aios_access.presence import PresenceTable
from aios_access.waiting_calls import WaitingCalls
from aios_kit.kernel_calls import KernelCalls
from aios_kit.service import Call, Service
from aios_proto import subjects
from aios_proto.errors import AiosError, DeadlineExceeded, ManagerUnavailable, SyscallUnknown
from aios_proto.messages.base import Body
from aios_proto.messages.syscall import (
    CancelCallRequest,
    CancelRequest,
    CancelResult,
    ListRequest,
    ListResult,
)

_ANSWER_S = 5.0


class OpenCalls:
    """Answers `syscall.cancel`, `syscall.list` and `tool.cancel`.

    Args:
        service: the chassis.
        presence: who is there to be asked.
        approvals: the calls that wait for a human.
        waiting: the calls that wait for a quota.
    """

    def __init__(
        self, service: Service, presence: PresenceTable, approvals: ApprovalService, waiting: WaitingCalls
    ) -> None:
        self._calls: KernelCalls = service.kernel_calls
        self._presence = presence
        self._approvals = approvals
        self._waiting = waiting
        service.serve("syscall", "cancel", self._cancel, subject=subjects.about_calls("syscall", "cancel"))
        service.serve("tool", "cancel", self._cancel_tool, subject=subjects.about_calls("tool", "cancel"))
        service.serve("syscall", "list", self._list, subject=subjects.about_calls("syscall", "list"))

    async def _cancel_tool(self, call: Call[CancelRequest]) -> CancelResult:
        return await self._cancel(Call(call.headers, CancelCallRequest(id=call.body.id)))

    async def _cancel(self, call: Call[CancelCallRequest]) -> CancelResult:
        headers, call_id = call.headers, call.body.id
        if (parked := await self._approvals.cancel(headers, call_id, look=False)) is not None:
            return parked
        # Asked first: a call that has just ceased to wait is found by who is asked after that.
        if (waited := await self._waiting.cancel(headers, call.body)) is not None:
            return waited
        asked = [self._cancel_at("syscall", call.body, call)]
        if self._has_tools():
            asked.append(self._cancel_at("tool", CancelRequest(id=call_id), call))
        found, unheard = await _first(asked)
        if found is not None:
            return found
        # It may have been on its way to where it waits, or from there to its manager.
        if (waited := await self._waiting.cancel(headers, call.body)) is not None:
            return waited
        if (parked := await self._approvals.cancel(headers, call_id, look=True)) is not None:
            return parked
        if unheard is not None:
            raise unheard
        raise SyscallUnknown("no call of this id is open", field="id")

    async def _cancel_at(self, manager: str, body: Body, call: Call[CancelCallRequest]) -> CancelResult:
        return await self._calls.call(
            manager, "cancel", body, CancelResult, on_behalf=call.headers, deadline_s=_ANSWER_S
        )

    async def _list(self, call: Call[ListRequest]) -> ListResult:
        headers = call.headers
        asked = [self._list_at("syscall", "list", call)]
        if self._has_tools():
            asked.append(self._list_at("tool", "calls", call))
        found = await self._waiting.open_calls(headers, call.body)
        found += self._approvals.open_calls(headers.tenant, headers.agent)
        for listed in await asyncio.gather(*asked):
            found += listed.calls
        # One that has just gone on is known twice for a moment; whoever has it by now knows more of it.
        known = {info.id: info for info in found}
        return ListResult(calls=sorted(known.values(), key=lambda info: -info.age_s)[: call.body.limit])

    async def _list_at(self, manager: str, operation: str, call: Call[ListRequest]) -> ListResult:
        return await self._calls.call(
            manager, operation, call.body, ListResult, on_behalf=call.headers, deadline_s=_ANSWER_S
        )

    def _has_tools(self) -> bool:
        """Whether a tool manager is there, or was a moment ago. One that is gone for longer has no calls any more.

        The scheduler is asked in any case: its calls outlive it.
        """
        return self._presence.serves("tool", "result", time.monotonic())


async def _first(
    asked: list[Coroutine[None, None, CancelResult]],
) -> tuple[CancelResult | None, AiosError | None]:
    """The first answer of one that knows the call; else why one of them could not be heard, if so it was."""
    tasks = [asyncio.ensure_future(each) for each in asked]
    unheard: AiosError | None = None
    try:
        for answer in asyncio.as_completed(tasks):
            try:
                return await answer, None
            except SyscallUnknown:
                continue
            except (ManagerUnavailable, DeadlineExceeded) as error:
                unheard = ManagerUnavailable(f"not all who may have the call could be asked: {error.message}")
            except AiosError as error:
                unheard = error
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    return None, unheard
