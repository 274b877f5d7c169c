"""Which deadlines can be met: how long calls take, when one must start at the latest, and what is promised already."""

import math
from collections import defaultdict

from aios_scheduler.core.call import ModelCall

PROMPT_TOKENS_PER_OUTPUT_TOKEN = 400.0
"""Prompt tokens that take as long to compute as one token of an answer, roughly, on any GPU."""

HORIZON_S = 120
"""Later deadlines are not tested at arrival: too much will have changed by then."""

_SAFETY = 1.3
_SLACK_S = 0.25
_HEADROOM_SHARE = 0.25
_PRIOR_TOKEN_S = 0.02
_MEMORY = 50.0
_ENOUGH = 20
_SHORT_SHARE = 0.5


class Deadlines:
    """Learns how fast calls run, and keeps the work promised for each second ahead."""

    def __init__(self) -> None:
        self._token_s = _PRIOR_TOKEN_S
        self._fastest_token_s = math.inf
        self._seen = 0
        self._promised: defaultdict[int, float] = defaultdict(float)
        self._rate = 0.0
        self._window_begin = 0.0
        self._window_work = 0.0

    @property
    def rate(self) -> float:
        """Weighted tokens a second all workers have made lately; 0 until that is known."""
        return self._rate

    def expected_s(self, call: ModelCall) -> float:
        """Seconds a call likely runs, once it is on a worker."""
        return self._token_s * _units(call.prompt_tokens, call.expected_output)

    def observe(self, prompt_tokens: int, completion_tokens: int, seconds: float) -> None:
        """A call has run for so long."""
        token_s = seconds / _units(prompt_tokens, completion_tokens)
        self._seen += 1
        self._token_s += (token_s - self._token_s) / _MEMORY
        self._fastest_token_s = min(token_s, self._fastest_token_s * (1 + 1 / _MEMORY))

    def observe_work(self, work: float, now: float, *, busy: bool) -> None:
        """So many weighted tokens were charged; the rate is that of seconds in which somebody waited."""
        self._window_work += work
        elapsed = now - self._window_begin
        if elapsed < 2.0:
            return
        if busy and elapsed < 10.0:
            rate = self._window_work / elapsed
            self._rate = rate if not self._rate else self._rate + 0.3 * (rate - self._rate)
        self._window_begin, self._window_work = now, 0.0

    def latest_start(self, call: ModelCall) -> float:
        """When a call must be given to a worker (Unix seconds).

        A quarter of the time it was given is kept back, because room on a worker does not appear at once.
        """
        spare = (call.deadline - call.arrived) * _HEADROOM_SHARE
        return call.deadline - _SAFETY * self.expected_s(call) - _SLACK_S - spare

    def can_meet(self, call: ModelCall, now: float) -> bool:
        """Whether a deadline can be met: at the fastest pace seen, with half the usual answer, after what is promised.

        While too little was seen to tell, it counts as one that can.
        """
        left = call.deadline - now
        if left > HORIZON_S:
            return True
        if self._seen < _ENOUGH:
            return True
        own = self._fastest_token_s * _units(call.prompt_tokens, call.expected_output * _SHORT_SHARE)
        ahead = 0.0
        if self._rate:
            promised = self._promised
            ahead = sum(promised.get(second, 0.0) for second in range(int(now), int(call.deadline) + 1)) / self._rate
        return own + ahead <= left

    def promise(self, call: ModelCall) -> None:
        """A call with a deadline waits."""
        self._promised[int(call.deadline)] += call.work

    def keep(self, call: ModelCall) -> None:
        """It has started, or ended."""
        second = int(call.deadline)
        self._promised[second] -= call.work
        if self._promised[second] <= 1e-6:
            del self._promised[second]


def _units(prompt_tokens: float, output_tokens: float) -> float:
    return max(1.0, prompt_tokens / PROMPT_TOKENS_PER_OUTPUT_TOKEN + output_tokens)
