"""What holds in each pool: the settings at the start, and what an operator chose since.

What was chosen is one key of a bucket, so that the next scheduler goes on with it.
"""

import asyncio
from collections.abc import Mapping

from nats.errors import Error as NatsError
from nats.js.errors import KeyNotFoundError
from nats.js.kv import KeyValue
from pydantic import Field, ValidationError

from aios_kit.logs import Log
from aios_proto.errors import BusUnavailable
from aios_proto.messages.scheduler import PolicyRequest, PoolSettings
from aios_proto.names import Name
from aios_scheduler.core.configuration import Configuration, PoolConfiguration

KEY = "policy"


class _Chosen(PoolSettings):
    """What an operator said of all pools, and of some."""

    pools: dict[Name, PoolSettings] = Field(default_factory=dict)


class ConfigurationStore:
    """Settings, and what was chosen.

    Args:
        base: what holds where nobody says otherwise.
        pools: what the settings say of some pools.
        timeout_s: longest wait for one answer of the bus.
    """

    def __init__(self, base: PoolConfiguration, pools: Mapping[str, PoolSettings], timeout_s: float, log: Log) -> None:
        self._base = base
        self._pools = dict(pools)
        self._timeout_s = timeout_s
        self._log = log
        self._bucket: KeyValue | None = None
        self._chosen = _Chosen()

    @property
    def current(self) -> Configuration:
        """What holds now."""
        return self._made(self._chosen)

    async def open(self, bucket: KeyValue) -> Configuration:
        """Reads what was chosen before; what nobody chose is as the settings say."""
        self._bucket = bucket
        try:
            async with asyncio.timeout(self._timeout_s):
                entry = await bucket.get(KEY)
            self._chosen = _Chosen.model_validate_json(entry.value or b"{}")
        except KeyNotFoundError:
            pass
        except ValidationError as error:
            self._log.warning("the stored policy is of another version and is left aside", error=str(error))
        except (NatsError, TimeoutError) as error:
            self._log.warning("the stored policy could not be read", error=str(error) or type(error).__name__)
        return self.current

    async def choose(self, request: PolicyRequest) -> Configuration:
        """Stores what an operator chose, with what was chosen before.

        Raises:
            BusUnavailable: JetStream did not answer; all stays as it was.
        """
        if self._bucket is None:
            raise BusUnavailable("the scheduler has not begun yet", retry_after_s=1)
        chosen = _with(self._chosen, request)
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._bucket.put(KEY, chosen.model_dump_json(exclude_none=True).encode())
        except (NatsError, TimeoutError) as error:
            raise BusUnavailable("the policy could not be stored, and stays as it was", retry_after_s=1) from error
        self._chosen = chosen
        return self.current

    def _made(self, chosen: _Chosen) -> Configuration:
        default = self._base.with_settings(chosen)
        named = {*self._pools, *chosen.pools}
        nothing = PoolSettings()
        return Configuration(
            default,
            {
                name: default.with_settings(self._pools.get(name, nothing)).with_settings(
                    chosen.pools.get(name, nothing)
                )
                for name in named
            },
        )


def _with(chosen: _Chosen, request: PolicyRequest) -> _Chosen:
    given = request.model_dump(exclude_none=True, exclude={"pool", "reset"})
    pools = dict(chosen.pools)
    if request.pool is None:
        before = {} if request.reset else chosen.model_dump(exclude_none=True, exclude={"pools"})
        return _Chosen.model_validate({**before, **given, "pools": pools})
    known = pools.pop(request.pool, None)
    before = {} if request.reset or known is None else known.model_dump(exclude_none=True)
    if before or given:
        pools[request.pool] = PoolSettings.model_validate({**before, **given})
    return chosen.model_copy(update={"pools": pools})
