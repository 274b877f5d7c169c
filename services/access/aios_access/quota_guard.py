"""Whether a call is within its quotas now, must wait for its turn, or is refused; and what it used in the end."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from aios_access.adapters.kv_allowances import KvAllowances
from aios_access.charges import Charge, Claim, Pause
from aios_access.directory import Identity
from aios_access.quota_meter import Exhausted, NeedsLease, SlotMeter, WindowMeter
from aios_access.quotas import Meters, Price, QuotaKey, Quotas
from aios_access.resources import parse_body
from aios_kit.logs import Log
from aios_kit.tasks import end
from aios_proto.errors import AiosError, QuotaExhausted
from aios_proto.frames import Usage
from aios_proto.headers import CallHeaders
from aios_proto.operations import Operation
from aios_proto.subjects import ABOUT_CALLS

ANY_MODEL = "*"

_CHARACTERS_PER_TOKEN = 4
_SLOT_RETRY_S = 0.25
_GRACE_S = 30.0
_SWEEP_S = 5.0
_MAX_WAITING = 256


class QuotaGuard:
    """Takes calls' shares of their quotas.

    Args:
        quotas: what is limited.
        prices: by model, in money for a million tokens; `*` for all others.
        reserve_tokens: tokens reserved for the answer of a call that names no `max_tokens`.
        log: gets failures in the background.
    """

    def __init__(self, quotas: Quotas, prices: Mapping[str, Price], reserve_tokens: int, log: Log) -> None:
        self.quotas = quotas
        self._prices = prices
        self._reserve_tokens = reserve_tokens
        self._log = log
        self._open: dict[str, Charge] = {}
        self._allowances: KvAllowances | None = None
        self._locks: dict[str, asyncio.Lock] = {}
        self._freed: dict[str, asyncio.Event] = {}
        self._returning: set[asyncio.Task[None]] = set()
        self._leasing: set[asyncio.Task[bool]] = set()
        self._waiting: dict[str, int] = {}
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def allowances(self) -> KvAllowances:
        """The pools; only after `open`."""
        if self._allowances is None:
            msg = "the quotas' pools are not open yet"
            raise RuntimeError(msg)
        return self._allowances

    def is_open(self, key: str) -> bool:
        """Whether a call that was charged here has begun and not ended."""
        return key in self._open

    @property
    def has_open(self) -> bool:
        """Whether the end of any call is waited for."""
        return bool(self._open)

    def open(self, allowances: KvAllowances) -> None:
        """Begins to lease from these pools."""
        self._allowances = allowances
        self._sweeper = asyncio.create_task(self._sweep(), name="forget open calls")

    async def close(self, timeout_s: float) -> None:
        """Returns what is leased and not used."""
        if self._sweeper is None:
            return
        await end(self._sweeper)
        try:
            async with asyncio.timeout(timeout_s):
                for meters in self.quotas.all_meters():
                    for kind, meter in (("tokens", meters.tokens), ("budget", meters.budget)):
                        if meter is not None:
                            await self.allowances.return_unused(f"{meters.key}.{kind}", meter)
        except (AiosError, TimeoutError) as error:
            self._log.warning("leased quota could not be returned; it counts as used", error=str(error))
        await end(*self._returning, *self._leasing)

    def charge(
        self, identity: Identity, operation: Operation, headers: CallHeaders, body: bytes, now: float
    ) -> Charge | None:
        """Takes a call's share at once, where this replica holds enough of it.

        Returns:
            None where nothing limits the call; a charge that is not `complete` where `wait` has to say.

        Raises:
            QuotaExhausted: a limit is used up and the call may not wait.
        """
        meters = self.quotas.meters(identity, headers.program or identity.agent)
        if not meters:
            return None
        if operation.durability != "durable" and self._take_quickly(meters, now):
            return None
        if operation.full_name in ABOUT_CALLS and self._take_ahead(meters, now):
            return None
        charge = self._claims(meters, operation, headers, body)
        missing = self._take(charge, now)
        if missing is None:
            self._keep(charge)
            return charge
        claim, why = missing
        if isinstance(why, Exhausted) and claim.wait_s <= 0 and not _may_be_leased(claim):
            raise _exhausted(claim, why.retry_after_s)
        return charge

    async def wait(self, charge: Charge, paused: Callable[[], Awaitable[None]]) -> None:
        """Takes what `charge` could not: leases it, or waits for it as long as the quota's soft limit says.

        All is taken in the step in which this returns, and nothing where it is cancelled.

        Args:
            charge: what the call takes; its `pause` says what it waits for.
            paused: awaited when it first has to wait for more than a lease.

        Raises:
            QuotaExhausted: a limit is used up.
            BusUnavailable: the pools cannot be reached.
        """
        started = time.monotonic()
        while True:
            missing = self._take(charge, time.time())
            if missing is None:
                self._keep(charge)
                return
            claim, why = missing
            if await self._lease(claim, why):
                continue
            if isinstance(why, NeedsLease):
                continue  # the meter knows now how much is left, and says so
            retry_s = why.retry_after_s
            left_s = claim.wait_s - (time.monotonic() - started)
            waiting = self._waiting.get(claim.key, 0)
            if left_s <= 0 or waiting >= _MAX_WAITING or (isinstance(claim.meter, WindowMeter) and retry_s > left_s):
                raise _exhausted(claim, retry_s)
            self._waiting[claim.key] = waiting + 1
            try:
                first, now = charge.pause is None, time.time()
                again_s = now + retry_s if isinstance(claim.meter, WindowMeter) else None
                charge.pause = Pause(claim.says, again_s, now + left_s)
                if first:
                    await paused()
                await self._pause(claim, min(retry_s, left_s))
            finally:
                self._waiting[claim.key] -= 1

    def ended(self, call: str, usage: Usage | None) -> None:
        """A call has ended and used this; None says nothing was used."""
        charge = self._open.pop(call, None)
        if charge is None:
            return
        prompt = 0 if usage is None else usage.prompt_tokens
        completion = 0 if usage is None else usage.completion_tokens
        for claim in charge.claims:
            if isinstance(claim.meter, SlotMeter):
                self._release(claim)
            elif claim.limits_tokens:
                used = charge.price.micro(prompt, completion) if claim.priced else prompt + completion
                claim.meter.give_back(claim.amount - used, claim.window)
            elif usage is None:
                claim.meter.give_back(claim.amount, claim.window)

    async def used(self, key: QuotaKey) -> tuple[int | None, int | None]:
        """Tokens and millionths of money that all replicas hold of a quota in this window; None where it has no limit.

        Raises:
            BusUnavailable: the pools cannot be reached.
        """
        found = self.quotas.named(key)
        if found is None:
            return None, None
        now = time.time()
        return (
            None if found.tokens is None else await self.allowances.granted(f"{found.key}.tokens", found.tokens, now),
            None if found.budget is None else await self.allowances.granted(f"{found.key}.budget", found.budget, now),
        )

    def cancel(self, charge: Charge) -> None:
        """The call was not let pass after all."""
        self._open.pop(charge.call, None)
        self._undo(charge.claims)

    def _claims(self, meters: tuple[Meters, ...], operation: Operation, headers: CallHeaders, body: bytes) -> Charge:
        claims: list[Claim] = []
        is_model_call = operation.durability == "durable"
        new = is_model_call and headers.key not in self._open  # the same id again is the same call
        charge = Charge(headers.key if new else "", _FREE, (headers.deadline_ms or 0) / 1000 + _GRACE_S, claims)
        for each in meters:
            if each.calls is not None:
                claims.append(Claim(f"{each.key}.calls", f"calls of {each.says}", each.wait_s, each.calls))
        if not new:
            return charge
        estimate: tuple[int, int] | None = None
        for each in meters:
            if each.slots is not None:
                claims.append(Claim(f"{each.key}.open", f"open calls of {each.says}", each.wait_s, each.slots))
            if each.tokens is None and each.budget is None:
                continue
            if estimate is None:
                prompt, completion, model = self._estimate(body)
                estimate = prompt, completion
                charge.tokens = prompt + completion
                charge.price = self._prices.get(model) or self._prices.get(ANY_MODEL) or _FREE
            if each.tokens is not None:
                amount = sum(estimate)
                says = f"tokens of {each.says}"
                claims.append(Claim(f"{each.key}.tokens", says, each.wait_s, each.tokens, amount, limits_tokens=True))
            if each.budget is not None:
                cost = charge.price.micro(*estimate)
                says = f"budget of {each.says}"
                claims.append(
                    Claim(f"{each.key}.budget", says, each.wait_s, each.budget, cost, priced=True, limits_tokens=True)
                )
        return charge

    def _estimate(self, body: bytes) -> tuple[int, int, str]:
        """Tokens of the prompt and of the answer to reserve, and the model."""
        parsed = parse_body(body)
        wanted, model = parsed.get("max_tokens"), parsed.get("model")
        completion = wanted if isinstance(wanted, int) and wanted > 0 else self._reserve_tokens
        return len(body) // _CHARACTERS_PER_TOKEN, completion, model if isinstance(model, str) else ANY_MODEL

    def _take(self, charge: Charge, now: float) -> tuple[Claim, Exhausted | NeedsLease] | None:
        """Takes all of a call's claims, or none and returns the first that is missing."""
        for number, claim in enumerate(charge.claims):
            if isinstance(claim.meter, SlotMeter):
                refused: Exhausted | NeedsLease | None = None if claim.meter.take() else Exhausted(_SLOT_RETRY_S)
            else:
                refused = claim.meter.take(claim.amount, now)
                claim.window = claim.meter.window
            if refused is not None:
                self._undo(charge.claims[:number])
                return claim, refused
        return None

    def _take_quickly(self, meters: tuple[Meters, ...], now: float) -> bool:
        """The common case: nothing is limited but calls a second, and this replica holds enough of it."""
        return _each_gives_one(meters, lambda calls: calls.take(1, now) is None)

    def _take_ahead(self, meters: tuple[Meters, ...], now: float) -> bool:
        """For calls about calls, which must not wait behind those they shall end: they use the next second's share."""
        return _each_gives_one(meters, lambda calls: calls.take_ahead(1, now))

    def _undo(self, claims: list[Claim]) -> None:
        for claim in claims:
            if isinstance(claim.meter, SlotMeter):
                self._release(claim)
            else:
                claim.meter.give_back(claim.amount, claim.window)

    async def _lease(self, claim: Claim, why: Exhausted | NeedsLease) -> bool:
        """Asks the pool; whether it is worth to try again at once.

        The asking goes on where the call that waits for it is given up: what the pool grants must be known here.
        """
        if not isinstance(claim.meter, SlotMeter) and not isinstance(why, NeedsLease):
            return False
        leasing = asyncio.create_task(self._ask_pool(claim, why), name="lease")
        self._leasing.add(leasing)
        leasing.add_done_callback(partial(self._leased, claim))
        return await asyncio.shield(leasing)

    def _leased(self, claim: Claim, leasing: asyncio.Task[bool]) -> None:
        self._leasing.discard(leasing)
        if leasing.cancelled():
            return
        if (error := leasing.exception()) is not None:
            self._log.debug("a lease failed", error=str(error))
        elif isinstance(claim.meter, SlotMeter):
            self._return_soon(claim.key, claim.meter)  # where the call it was for has been given up

    async def _ask_pool(self, claim: Claim, why: Exhausted | NeedsLease) -> bool:
        lock = self._locks.setdefault(claim.key, asyncio.Lock())
        async with lock:
            if isinstance(claim.meter, SlotMeter):
                if claim.meter.used < claim.meter.base + claim.meter.leased:
                    return True  # another call has leased one meanwhile, or one has ended
                if not _may_be_leased(claim):
                    return False
                if await self.allowances.hold_slots(claim.key, claim.meter, claim.meter.leased + 1):
                    return True
                claim.meter.full_until = time.monotonic() + _SLOT_RETRY_S / 2
                return False
            if not isinstance(why, NeedsLease):
                return False
            now = time.time()
            again = claim.meter.take(claim.amount, now)
            if again is None:
                claim.meter.give_back(claim.amount, claim.meter.window)
                return True
            if isinstance(again, Exhausted):
                return False
            await self.allowances.lease(claim.key, claim.meter, again, now)
            return True

    async def _pause(self, claim: Claim, seconds: float) -> None:
        if not isinstance(claim.meter, SlotMeter):
            await asyncio.sleep(seconds)
            return
        freed = self._freed.setdefault(claim.key, asyncio.Event())
        freed.clear()
        try:
            # A slot that another replica returns wakes nobody here. Not `wait_for`: it may swallow a cancellation.
            async with asyncio.timeout(seconds):
                await freed.wait()
        except TimeoutError:
            return

    def _release(self, claim: Claim) -> None:
        assert isinstance(claim.meter, SlotMeter)
        claim.meter.release()
        if (freed := self._freed.get(claim.key)) is not None:
            freed.set()
        if claim.meter.idle() and self._allowances is not None:
            self._return_soon(claim.key, claim.meter)

    def _return_soon(self, key: str, meter: SlotMeter) -> None:
        asyncio.get_running_loop().call_later(_SLOT_RETRY_S / 2, self._return_idle, key, meter)

    def _return_idle(self, key: str, meter: SlotMeter) -> None:
        if meter.idle():
            task = asyncio.create_task(self._return_slots(key, meter), name="return slots")
            self._returning.add(task)
            task.add_done_callback(self._returning.discard)

    async def _return_slots(self, key: str, meter: SlotMeter) -> None:
        async with self._locks.setdefault(key, asyncio.Lock()):
            idle = meter.idle()
            if not idle:
                return
            try:
                await self.allowances.hold_slots(key, meter, meter.leased - idle)
            except AiosError as error:
                self._log.warning("leased slots could not be returned", error=str(error))

    def _keep(self, charge: Charge) -> None:
        charge.completed()
        if charge.call:
            self._open[charge.call] = charge

    async def _sweep(self) -> None:
        """Frees the slots of calls whose end was never heard; what they reserved stays used."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = time.time()
            for call in [call for call, charge in self._open.items() if charge.expires_s < now]:
                for claim in self._open.pop(call).claims:
                    if isinstance(claim.meter, SlotMeter):
                        self._release(claim)


_FREE = Price(0, 0)


def _may_be_leased(claim: Claim) -> bool:
    return isinstance(claim.meter, SlotMeter) and time.monotonic() >= claim.meter.full_until


def _each_gives_one(meters: tuple[Meters, ...], takes: Callable[[WindowMeter], bool]) -> bool:
    """Takes one call of all that limit calls a second, or of none of them; whether it did."""
    taken: list[WindowMeter] = []
    for each in meters:
        if each.calls is None:
            continue
        if not takes(each.calls):
            for calls in taken:
                calls.give_back(1, calls.window)
            return False
        taken.append(each.calls)
    return True


def _exhausted(claim: Claim, retry_after_s: float) -> QuotaExhausted:
    return QuotaExhausted(f"the quota of {claim.says} is used up", retry_after_s=round(max(0.001, retry_after_s), 3))
