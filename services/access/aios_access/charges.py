"""What one call takes of its quotas, and what it waits for meanwhile."""

from dataclasses import dataclass, field

from aios_access.quota_meter import SlotMeter, WindowMeter
from aios_access.quotas import Price


@dataclass(slots=True)
class Claim:
    """One meter and what a call takes of it.

    Attributes:
        key: names the meter's records in KV.
        says: names it for a human.
        wait_s: how long the call may wait for it.
        priced: whether the amount is money, in millionths.
        limits_tokens: whether it bounds what the call may generate.
        window: of which the amount was taken.
    """

    key: str
    says: str
    wait_s: float
    meter: WindowMeter | SlotMeter
    amount: int = 1
    priced: bool = False
    limits_tokens: bool = False
    window: int = 0


@dataclass(frozen=True, slots=True)
class Pause:
    """Why a call waits now. Times are Unix seconds.

    Attributes:
        says: the quota that is used up.
        again_s: when there is more of it; None where that is not known, since it depends on when other calls end.
        until_s: when the call gives up.
    """

    says: str
    again_s: float | None
    until_s: float

    def why(self, now: float) -> str:
        """The same, for humans."""
        again = "when a call ends" if self.again_s is None else f"in {max(0.0, self.again_s - now):.1f} s"
        left_s = max(0.0, self.until_s - now)
        return f"the quota of {self.says} is used up; there is more {again}, and it waits for {left_s:.1f} s at most"


@dataclass(slots=True)
class Charge:
    """What one call has taken.

    Attributes:
        call: the call's key; empty where nothing is to be settled at its end.
        complete: whether all is taken.
        tokens: of prompt and answer, as estimated.
        budget_tokens: what it may use at most; None where neither tokens nor cost are limited. Only when complete.
        pause: what it waits for; None before it has to.
    """

    call: str
    price: Price
    expires_s: float
    claims: list[Claim] = field(default_factory=list)
    complete: bool = False
    tokens: int = 0
    budget_tokens: int | None = None
    pause: Pause | None = None

    def completed(self) -> None:
        """All is taken."""
        self.complete = True
        self.budget_tokens = self._budget()

    def _budget(self) -> int | None:
        """What the call may use: what it has taken, and what is left of the tightest limit."""
        left: list[int] = []
        for claim in self.claims:
            if isinstance(claim.meter, WindowMeter) and claim.limits_tokens:
                tokens = self.price.tokens(claim.meter.left()) if claim.priced else claim.meter.left()
                left += [] if tokens is None else [tokens]
        return self.tokens + min(left) if left else None
