"""The policy that an operator chose while the scheduler ran, kept so that the next scheduler goes on with it."""

import asyncio

from nats.errors import Error as NatsError
from nats.js.errors import KeyNotFoundError
from nats.js.kv import KeyValue
from pydantic import ValidationError

from aios_kit.logs import Log
from aios_proto.errors import BusUnavailable
from aios_proto.messages.scheduler import PolicyRequest
from aios_scheduler.core import SchedulerCore

KEY = "policy"


class PolicyStore:
    """One key of a bucket.

    Args:
        bucket: where the key is.
        timeout_s: longest wait for one answer of the bus.
    """

    def __init__(self, bucket: KeyValue, timeout_s: float, log: Log) -> None:
        self._bucket = bucket
        self._timeout_s = timeout_s
        self._log = log
        self._kept = PolicyRequest()

    async def restore(self, core: SchedulerCore) -> None:
        """Gives the core what was chosen before; what nobody chose stays as the settings say."""
        try:
            async with asyncio.timeout(self._timeout_s):
                entry = await self._bucket.get(KEY)
            self._kept = PolicyRequest.model_validate_json(entry.value or b"{}")
        except KeyNotFoundError:
            return
        except ValidationError as error:
            self._log.warning("the stored policy is of another version and is left aside", error=str(error))
        except (NatsError, TimeoutError) as error:
            self._log.warning("the stored policy could not be read", error=str(error) or type(error).__name__)
        apply(self._kept, core)

    async def keep(self, chosen: PolicyRequest) -> None:
        """Stores what an operator chose, with what was chosen before.

        Raises:
            BusUnavailable: JetStream did not answer.
        """
        merged = self._kept.model_copy(update=chosen.model_dump(exclude_none=True))
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._bucket.put(KEY, merged.model_dump_json(exclude_none=True).encode())
        except (NatsError, TimeoutError) as error:
            raise BusUnavailable("the policy could not be stored, and stays as it was", retry_after_s=1) from error
        self._kept = merged


def apply(chosen: PolicyRequest, core: SchedulerCore) -> None:
    """Lets the core decide by it from now on.

    Raises:
        InvalidRequest: there is no policy of that name.
    """
    if chosen.policy is not None:
        core.use_policy(chosen.policy)
    if chosen.tenant_weights is not None:
        core.use_weights(chosen.tenant_weights)
    if chosen.flood_share is not None:
        core.use_flood_share(chosen.flood_share or None)
