"""Calls about calls: `agent.calls`."""

from typing import Unpack

from aios._call import Call
from aios._exchange import Exchange
from aios._reply import Reply, attached_reply, result_of
from aios._request import CallOptions
from aios_proto.frames import Done
from aios_proto.messages.syscall import CancelResult, ListResult, SyscallInfo

_list_result = result_of(ListResult)


class Calls:
    """The open calls of one agent, also those made by other processes under the same identity."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def list(self, limit: int = 100, **options: Unpack[CallOptions]) -> "Call[list[SyscallInfo]]":
        """Asks which calls have not ended; the oldest first."""
        return self._exchange.call("syscall", "list", {"limit": limit}, _calls, options, check=True)

    def attach(self, call_id: str, *, text_offset: int = 0, **options: Unpack[CallOptions]) -> Call[Reply]:
        """Takes up a call that was made before: its text from `text_offset` on, and its reply.

        Args:
            call_id: the call's id.
            text_offset: how many characters of the answer are known already.
            **options: `deadline_s` says how long to wait here; the call keeps its own deadline.
        """
        return self._exchange.attach(call_id, text_offset, attached_reply, options)

    async def cancel(self, call_id: str) -> CancelResult:
        """Ends a call; who waits for it gets `SyscallCancelled`.

        Raises:
            SyscallUnknown: no such call of this agent is known (any more).
        """
        return await self._exchange.cancel(call_id)


def _calls(done: Done, trace_id: str | None) -> "list[SyscallInfo]":
    return _list_result(done, trace_id).calls
