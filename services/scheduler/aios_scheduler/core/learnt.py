"""What the past says about a call: how long its answer, how much its program still needs, when it comes back.

Everything is learnt by (tenant, agent), because an agent is one piece of code that asks for the same kind of thing
again and again; answers also by the step in the program, gaps by the tool that was asked for. Means move with the
last hundred observations or so, and begin at a prior that counts for a few.
"""

import math
from bisect import bisect_left
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TypeVar

from aios_scheduler.core.accounting import Program
from aios_scheduler.core.call import ModelCall

K = TypeVar("K")
V = TypeVar("V")

MAX_STEPS = 48
"""Steps of a program that are told apart; later ones share the last."""

_MEMORY = 100
_MAX_AGENTS = 2_000
_MAX_TOOLS = 64
_ENOUGH = 3
_PRIOR_OUTPUT = 128.0
_PRIOR_CHARS_PER_TOKEN = 4.0
_PRIOR_KEEP_S = 2.0
_GAP_BOUNDS_S = tuple(0.1 * 1.35**power for power in range(24))
"""0.1 s to 100 s."""
NEVER_S = _GAP_BOUNDS_S[-1]
"""A program that is away for longer is taken as ended."""


@dataclass(slots=True)
class Mean:
    """A mean that forgets slowly."""

    value: float
    weight: float

    def add(self, observed: float) -> None:
        """Takes one observation in."""
        if self.weight < _MEMORY:
            self.weight += 1
        self.value += (observed - self.value) / self.weight


@dataclass(slots=True)
class Gaps:
    """How long programs were away after asking for one tool, by step of a fixed grid; the last place is `never`."""

    counts: list[float] = field(default_factory=lambda: [0.0] * (len(_GAP_BOUNDS_S) + 1))

    def add(self, gap_s: float) -> None:
        """One program came back after `gap_s`; infinity is never."""
        counts = self.counts
        place = len(_GAP_BOUNDS_S) if gap_s > _GAP_BOUNDS_S[-1] else bisect_left(_GAP_BOUNDS_S, gap_s)
        counts[place] += 1
        if sum(counts) > _MEMORY * 2:
            self.counts = [count / 2 for count in counts]

    @property
    def seen(self) -> float:
        """Observations, the old ones faded."""
        return sum(self.counts)

    def keep_s(self, worth: float) -> float:
        """How long to wait for a program.

        Waiting from one grid step to the next costs the time waited, and is worth `worth` seconds if the program
        comes back in that step; the best place to stop maximises the sum of both (Gittins' argument for a single
        arm; Continuum, arXiv 2511.02230, sets time-to-live by the same balance).

        Args:
            worth: seconds saved where it is still there when it comes back.
        """
        total = self.seen
        if not total:
            return _PRIOR_KEEP_S
        best, best_s, value, away, before = 0.0, 0.0, 0.0, total, 0.0
        for bound, count in zip(_GAP_BOUNDS_S, self.counts, strict=False):
            value += count / total * worth - away / total * (bound - before)
            away -= count
            before = bound
            if value > best:
                best, best_s = value, bound
        return best_s


@dataclass(slots=True)
class _History:
    """What one agent of one tenant has done.

    Attributes:
        outputs: tokens of answers, by step; under -1 those of all.
        remaining: weighted tokens programs still needed, by step.
        context: tokens of prompts.
        gaps: times away, by tool.
    """

    outputs: dict[int, Mean] = field(default_factory=dict)
    remaining: dict[int, Mean] = field(default_factory=dict)
    context: Mean = field(default_factory=lambda: Mean(0.0, 0))
    gaps: OrderedDict[str, Gaps] = field(default_factory=OrderedDict)


@dataclass(slots=True)
class _Prompts:
    """What the prompts of one agent are like, whoever runs it."""

    chars_per_token: Mean = field(default_factory=lambda: Mean(_PRIOR_CHARS_PER_TOKEN, 3))
    shared: Mean = field(default_factory=lambda: Mean(0.0, 0))


class Learnt:
    """All that was learnt, bounded by dropping the agents that came first."""

    def __init__(self) -> None:
        self._histories: OrderedDict[tuple[str, str], _History] = OrderedDict()
        self._prompts: OrderedDict[str, _Prompts] = OrderedDict()
        self._any_program = Mean(4000.0, 1)
        self._any_output = Mean(_PRIOR_OUTPUT, 5)

    def prompt_tokens(self, call: ModelCall) -> int:
        """Tokens of a call's prompt, from its bytes."""
        return max(1, round(call.size_bytes / self._prompts_of(call.agent).chars_per_token.value))

    def expected_output(self, call: ModelCall) -> float:
        """Tokens a call will likely generate."""
        expected = self._any_output.value
        history = self._histories.get((call.tenant, call.agent))
        if history is not None:
            known = history.outputs.get(min(call.step, MAX_STEPS))
            if known is None or known.weight < _ENOUGH:
                known = history.outputs.get(-1)
            if known is not None and known.weight >= _ENOUGH:
                expected = known.value
        return min(expected, call.max_tokens or math.inf)

    def observe_call(self, call: ModelCall, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> None:
        """A call has ended with these counts."""
        prompts, history = self._prompts_of(call.agent), self._history(call.tenant, call.agent)
        if call.step == 0:
            prompts.shared.add(cached_tokens)
        if prompt_tokens > 0:
            prompts.chars_per_token.add(call.size_bytes / prompt_tokens)
        history.context.add(prompt_tokens)
        self._any_output.add(completion_tokens)
        _mean(history.outputs, min(call.step, MAX_STEPS)).add(completion_tokens)
        _mean(history.outputs, -1).add(completion_tokens)

    def shared_prefix(self, agent: str) -> int:
        """Tokens at the start of a prompt that all programs of an agent share, and that the engine holds once."""
        known = self._prompts.get(agent)
        return 0 if known is None else int(known.shared.value)

    def typical_context(self, tenant: str, agent: str) -> int:
        """Tokens a program of this agent occupies on average over its life, without what all of them share."""
        known = self._histories.get((tenant, agent))
        return 0 if known is None else max(0, int(known.context.value) - self.shared_prefix(agent))

    def remaining_work(self, tenant: str, agent: str, step: int) -> float:
        """Weighted tokens a program likely still needs, before its call number `step`."""
        history = self._histories.get((tenant, agent))
        if history is None or not history.remaining:
            return self._any_program.value
        return (history.remaining.get(min(step, MAX_STEPS)) or history.remaining[0]).value

    def observe_program(self, program: Program) -> None:
        """A program has ended, as far as can be told."""
        marks = program.marks
        if not marks:
            return
        tenant, agent, _ = program.id
        remaining = self._history(tenant, agent).remaining
        before = 0.0
        for step, mark in enumerate(marks[: MAX_STEPS + 1]):
            _mean(remaining, step).add(marks[-1] - before)
            before = mark
        self._any_program.add(marks[-1])

    def gaps(self, tenant: str, agent: str, tool: str) -> Gaps:
        """How long this agent is away after asking for that tool."""
        table = self._history(tenant, agent).gaps
        found = table.get(tool)
        if found is None:
            found = table[tool] = Gaps()
            if len(table) > _MAX_TOOLS:
                table.popitem(last=False)
        return found

    def _history(self, tenant: str, agent: str) -> _History:
        found = self._histories.get((tenant, agent))
        return _put(self._histories, (tenant, agent), _History()) if found is None else found

    def _prompts_of(self, agent: str) -> _Prompts:
        found = self._prompts.get(agent)
        return _put(self._prompts, agent, _Prompts()) if found is None else found


def _mean(table: dict[int, Mean], step: int) -> Mean:
    found = table.get(step)
    if found is None:
        found = table[step] = Mean(0.0, 0)
    return found


def _put(table: OrderedDict[K, V], key: K, value: V) -> V:
    table[key] = value
    if len(table) > _MAX_AGENTS:
        table.popitem(last=False)
    return value
