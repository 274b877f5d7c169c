"""Which of several instances of a service is the active one: whoever holds a key in a bucket, and renews it.

The others watch the key. When it has not changed for `ttl_s` *by their own clock*, one of them replaces it. Only one
can, because each names the revision it replaces (compare and swap); so no clocks are compared. The revision with which
the lease was taken is the fencing token: it only ever grows, and goes with every command to someone who obeys none that
is older than the newest it has seen (Chubby's sequencers; Burrows, OSDI 2006). Where nobody looks at tokens, the holder
asks `still_held` before it acts: by its own clock, counted from before the last renewal was sent, nobody can have taken
the lease yet (Gray and Cheriton, SOSP 1989).
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable

from nats.errors import Error as NatsError
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError
from nats.js.kv import KeyValue
from pydantic import BaseModel, ConfigDict, ValidationError

from aios_kit.logs import Log
from aios_kit.tasks import end
from aios_proto.errors import BusUnavailable

KEY = "lease"

_RETRY_S = 0.2
_RENEWALS = 4
"""In one `ttl_s`."""


class Holder(BaseModel):
    """What stands in the bucket. `process` tells two processes of one instance apart."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    instance: str
    process: str


class Lease:
    """One instance's hold on the key.

    Args:
        bucket: where the key is.
        instance: who wants it. A lease of the same instance's earlier process is taken over at once if it is `gone`.
        ttl_s: without a renewal for so long it may be taken.
        timeout_s: longest wait for one answer of the bus.
        waiting: called when another holds it.
        lost: called when another has taken it.
        key: names the lease.
        gone: whether a process of the same instance is no more; asked once of each. None takes that for granted.
    """

    def __init__(
        self,
        bucket: KeyValue,
        instance: str,
        ttl_s: float,
        timeout_s: float,
        waiting: Callable[[], None],
        lost: Callable[[], None],
        log: Log,
        *,
        key: str = KEY,
        gone: Callable[[Holder], Awaitable[bool]] | None = None,
    ) -> None:
        self._bucket = bucket
        self._key = key
        self._gone = gone
        self._asked: set[str] = set()
        self._valid_until = 0.0
        self._one_renewal = asyncio.Lock()
        self._me = Holder(instance=instance, process=secrets.token_hex(8))
        self._ttl_s = ttl_s
        self._timeout_s = timeout_s
        self._waiting = waiting
        self._lost = lost
        self._log = log
        self._revision = 0
        self._renewing: asyncio.Task[None] | None = None
        self.token = 0
        """The fencing token; 0 while it is not held."""

    @property
    def process(self) -> str:
        """Tells this process from others of the same instance."""
        return self._me.process

    async def still_held(self) -> bool:
        """Whether nobody else can have taken it; asks the bus only where the last renewal is too long ago to know.

        Raises:
            BusUnavailable: the bus does not say.
        """
        if self.token and time.monotonic() < self._valid_until:
            return True
        try:
            return await self._renew_once(only_if_due=True)
        except (NatsError, TimeoutError) as error:
            raise BusUnavailable("the lease cannot be confirmed", retry_after_s=_RETRY_S) from error

    async def acquire(self) -> None:
        """Waits until the lease is held."""
        known: KeyValue.Entry | None = None
        told = ""
        watcher = await self._bucket.watch(self._key)
        try:
            while True:
                if known is None or known.operation is not None or await self._may_succeed(known):
                    if await self._take(0 if known is None or known.revision is None else known.revision):
                        return
                elif (holder := _read(known)) is not None and holder.instance != told:
                    told = holder.instance
                    self._log.info("standing by", active=told)
                    self._waiting()
                try:
                    async with asyncio.timeout(self._ttl_s):
                        changed = await anext(watcher)
                except TimeoutError:
                    # Its holder is gone, or this watcher does not hear it.
                    seen = 0 if known is None else known.revision
                    known = await self._look() or known
                    if known is not None and known.revision == seen and await self._take(known.revision or 0):
                        return
                else:
                    known = changed or known
        finally:
            await _quietly_stop(watcher)

    def keep(self) -> None:
        """Renews it from now on."""
        self._renewing = asyncio.create_task(self._renew(), name="lease")

    async def release(self) -> None:
        """Gives it up, so that a standby takes over at once."""
        if self._renewing is not None:
            await end(self._renewing)
            self._renewing = None
        if not self.token:
            return
        self.token = 0
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._bucket.delete(self._key, last=self._revision)
        except (NatsError, TimeoutError) as error:
            self._log.warning("the lease was not given back; it will expire", error=str(error) or type(error).__name__)

    async def _take(self, revision: int) -> bool:
        begun = time.monotonic()
        try:
            self._revision = await self._write(revision)
        except KeyWrongLastSequenceError:
            return False  # another was faster
        except (NatsError, TimeoutError) as error:
            self._log.warning("the lease could not be taken", error=str(error) or type(error).__name__)
            await asyncio.sleep(_RETRY_S)
            return False
        self.token = self._revision
        self._valid_until = begun + self._ttl_s
        self._log.info("holds the lease", fence=self.token)
        return True

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._ttl_s / _RENEWALS)
            try:
                if not await self._renew_once():
                    return
            except (NatsError, TimeoutError) as error:
                self._log.warning("the lease could not be renewed", error=str(error) or type(error).__name__)

    async def _renew_once(self, *, only_if_due: bool = False) -> bool:
        """Renews it, or only where nobody did while this waited for its turn; False when another has it.

        Raises:
            nats.errors.Error, TimeoutError: the bus does not say.
        """
        async with self._one_renewal:
            if not self.token:
                return False
            begun = time.monotonic()
            if only_if_due and begun < self._valid_until:
                return True
            try:
                self._revision = await self._write(self._revision)
            except KeyWrongLastSequenceError:
                current = await self._look()
                if current is None:
                    raise TimeoutError from None  # the next renewal will fail too
                if current.operation is not None or _read(current) != self._me or current.revision is None:
                    self._log.error("another has taken the lease", holder=_name(current))
                    self.token = 0
                    self._lost()
                    return False
                self._revision = current.revision  # the answer to a renewal was lost
                return True
            self._valid_until = begun + self._ttl_s
            return True

    async def _write(self, revision: int) -> int:
        async with asyncio.timeout(self._timeout_s):
            return await self._bucket.update(self._key, self._me.model_dump_json().encode(), last=revision)

    async def _look(self) -> KeyValue.Entry | None:
        """What stands there now, also that it was given back; None where the bus does not say, or it was never held."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._bucket.get(self._key)
        except KeyNotFoundError as error:
            entry: KeyValue.Entry | None = error.entry
            return entry
        except (NatsError, TimeoutError):
            return None

    async def _may_succeed(self, entry: KeyValue.Entry) -> bool:
        """Whether it is held by an earlier process of this instance that is no more."""
        holder = _read(entry)
        if holder is None or holder.instance != self._me.instance:
            return False
        if self._gone is None:
            return True
        if holder.process in self._asked:
            return False
        self._asked.add(holder.process)
        return await self._gone(holder)


def _read(entry: KeyValue.Entry) -> Holder | None:
    try:
        return Holder.model_validate_json(entry.value or b"")
    except ValidationError:
        return None


def _name(entry: KeyValue.Entry) -> str:
    holder = _read(entry)
    return "nobody" if holder is None else holder.instance


async def _quietly_stop(watcher: "KeyValue.KeyWatcher") -> None:
    try:
        await watcher.stop()  # type: ignore[no-untyped-call]
    except NatsError:
        return  # the connection is gone, and the watcher with it
