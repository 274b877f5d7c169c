"""Who may run a call that a human approved: whoever redeems the approval first; everyone else leaves it alone.

Access sends an approved call again until it was redeemed, so that none is lost with a process or a connection. That it
runs once is decided in one place, the bucket of approvals, by compare-and-set.
"""

import asyncio
import secrets
import time

from aios_kit.kernel_calls import KernelCalls
from aios_proto.errors import BusUnavailable, DeadlineExceeded, ManagerUnavailable
from aios_proto.headers import CallHeaders
from aios_proto.kernel import RedeemRequest, RedeemResult

_TRY_S = 2.0
_AGAIN_S = 0.2


class Redeeming:
    """Asks access.

    Args:
        calls: the service's calls to others.
    """

    def __init__(self, calls: KernelCalls) -> None:
        self._calls = calls

    async def first(self, headers: CallHeaders) -> bool:
        """Whether this delivery of an approved call is the one that runs.

        Raises:
            DeadlineExceeded: access could not be asked before the call's deadline; it must not run.
            AiosError: access refused to say.
        """
        request = RedeemRequest(approval_id=headers.approval, holder=secrets.token_hex(8))
        while True:
            try:
                answer = await self._calls.call(
                    "access", "redeem", request, RedeemResult, on_behalf=headers, deadline_s=_TRY_S
                )
            except (BusUnavailable, ManagerUnavailable, DeadlineExceeded):
                if headers.deadline_ms is not None and time.time() * 1000 >= headers.deadline_ms:
                    raise
                await asyncio.sleep(_AGAIN_S)
                continue
            return answer.first
