"""A model call as the scheduler sees it, and the states it goes through."""

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from aios_scheduler.core.configuration import DEFAULT_POOL

if TYPE_CHECKING:
    from aios_scheduler.core.accounting import Program

WorkerId = tuple[str, str]
"""Pool and name."""

ProgramId = tuple[str, str, str]
"""Tenant, agent and program."""

PROMPT_WEIGHT = 1.0
OUTPUT_WEIGHT = 2.0
CACHED_WEIGHT = 0.1
"""What a token costs: prompt, output, and prompt token found in the cache (VTC's weights, and a tenth for a hit)."""

DEFAULT_MAX_TOKENS = 512
"""As the worker's own default."""


class CallState(StrEnum):
    """Where a call is. `ended` calls are forgotten."""

    QUEUED = "queued"
    RUNNING = "running"
    HELD = "held"
    """It waits for other calls to end."""
    CHECKING = "checking"
    """Its worker was lost; whether it had ended before is being looked up."""


@dataclass(slots=True, eq=False)
class ModelCall:
    """One model call that has not ended.

    Attributes:
        key: `<tenant>.<agent>.<id>`.
        id: the caller's own id for it.
        program: the agent run it belongs to, unique within its agent.
        pool: where it waits; the one it names, if it is `bound`.
        bound: it may run in that pool alone.
        operation: `chat` or `complete`.
        model: the model asked for; None is any.
        priority: 0 to 9, 9 first.
        deadline: Unix time in seconds.
        arrived: Unix time in seconds at which the scheduler had it.
        durable: whether it survives the scheduler.
        size_bytes: what it occupies while it waits.
        order: its turn among all calls; kept when it is queued again.
        attempt: how often it has been given to a worker; names the run in the worker's reports. 0 while it runs on a
            worker it was not given to by this scheduler.
        failures: how many of its runs were lost or failed.
        cancelled: its owner wants it ended.
        keep: and what it has made kept.
        has_deadline: the caller named the deadline, so it is worth meeting; else it is only the longest life of a call.
        max_tokens: tokens it may generate; 0 where the caller names no limit.
        budget_tokens: tokens that are left of its tightest quota, its own included; None where nothing limits it.
        resumable: it may be preempted: what it has made can be gone on from.
        after: keys of calls that must have ended before it starts.
        step: the how-manieth call of its program it is, from 0.
        prompt_tokens: size of its prompt, estimated from its bytes.
        expected_output: tokens it will likely generate, learnt.
        charged: weighted tokens charged to its program and tenant for it.
        prompt_cost: the part of it that is for the prompt.
        made: tokens it has made, as far as its worker has told.
        made_before: those of earlier runs, before it was preempted.
        needs: tokens of KV it occupies beside what it shares with other programs of its agent, as it was queued.
        reserved: tokens of KV set aside for it on its worker.
        promised: its deadline is among those promised.
        path_work: the longest chain of expected work that waits for it, itself included, in weighted tokens.
        rank: its place within its flow, as the policy gave it.
        flow: the flow it waits in.
        latest_start: Unix time in seconds at which it must start to meet its deadline.
        preempting: its worker was told to stop it.
        continued: calls that waited for it have been let go, before its worker has stored the result.
        account: its program's, while it is open.
    """

    key: str
    id: str
    tenant: str
    agent: str
    program: str
    operation: str
    model: str | None
    priority: int
    deadline: float
    arrived: float
    durable: bool
    size_bytes: int
    pool: str = DEFAULT_POOL
    bound: bool = False
    order: int = 0
    attempt: int = 0
    failures: int = 0
    state: CallState = CallState.QUEUED
    worker: WorkerId | None = None
    dispatched: float = 0.0
    cancelled: bool = field(default=False)
    keep: bool = field(default=False)
    has_deadline: bool = False
    max_tokens: int = 0
    budget_tokens: int | None = None
    resumable: bool = True
    after: tuple[str, ...] = ()
    step: int = 0
    prompt_tokens: int = 0
    expected_output: float = 0.0
    charged: float = 0.0
    prompt_cost: float = 0.0
    made: int = 0
    made_before: int = 0
    needs: int = 1
    reserved: int = 0
    promised: bool = False
    path_work: float = 0.0
    rank: tuple[float, ...] = ()
    flow: tuple[str, ...] = ()
    latest_start: float = math.inf
    preempting: bool = False
    continued: bool = False
    account: "Program | None" = field(default=None, repr=False)
    _program_id: ProgramId | None = field(default=None, repr=False)

    @property
    def program_id(self) -> ProgramId:
        """Its program, among all programs; fixed from the first look."""
        known = self._program_id
        if known is None:
            known = self._program_id = (self.tenant, self.agent, self.program)
        return known

    @property
    def reserve_tokens(self) -> int:
        """KV an engine sets aside for it: its prompt and all it may generate, or may pay for."""
        tokens = self.prompt_tokens + (self.max_tokens or DEFAULT_MAX_TOKENS)
        return tokens if self.budget_tokens is None else min(tokens, max(self.prompt_tokens + 1, self.budget_tokens))

    @property
    def work(self) -> float:
        """What it will likely cost, in weighted tokens."""
        return PROMPT_WEIGHT * self.prompt_tokens + OUTPUT_WEIGHT * self.expected_output
