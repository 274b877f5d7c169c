"""Runs one workload under one strategy in virtual time, and says what the programs and tenants got."""

import heapq
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from aios_engine.emulator.batcher import Batcher, Happened, Job
from aios_engine.emulator.timing import HARDWARE
from simulation.model import CallSpec, Drop, Fleet, Order, ProgramSpec, SimCall, Start, Stop, Strategy

WINDOW_S = 10.0
_ENGINE_QUEUE = 1_000_000
_STANDSTILL = 100_000
"""Rounds without any time passing: more than there are events at one instant."""


@dataclass(slots=True)
class Outcome:
    """What came of a run.

    Attributes:
        completion_s: by program, from its arrival to its last result; refused ones are not there.
        first_token_s: of each call, from its arrival.
        service: by tenant, weighted tokens in each window of `WINDOW_S`.
        backlogged: by tenant, windows in which it always had a call waiting.
        calls: all calls.
        wall_s: virtual time at the end.
    """

    completion_s: dict[str, float] = field(default_factory=dict)
    service: dict[str, dict[int, float]] = field(default_factory=dict)
    backlogged: dict[str, set[int]] = field(default_factory=dict)
    calls: list[SimCall] = field(default_factory=list)
    end_s: float = 0.0
    prefilled_tokens: int = 0
    cached_tokens: int = 0


class Simulation:
    """One run.

    Args:
        programs: the workload.
        strategy: built with the fleet it sees.
        workers: number of engines.
        hardware: what they pretend to be.
        kv_tokens: size of each KV cache; None is the hardware's.
        track_service: keep what each tenant got in each window (costs time).
    """

    def __init__(
        self,
        programs: list[ProgramSpec],
        strategy: Callable[[Fleet], Strategy],
        *,
        workers: int = 2,
        hardware: str = "h100",
        kv_tokens: int | None = None,
        seed: int = 0,
        track_service: bool = False,
    ) -> None:
        machine = HARDWARE[hardware]
        self.fleet = Fleet(
            [Batcher(machine, kv_tokens=kv_tokens, max_concurrent=_ENGINE_QUEUE) for _ in range(workers)]
        )
        self.strategy = strategy(self.fleet)
        self.outcome = Outcome()
        self._programs = programs
        self._random = random.Random(seed)
        self._events: list[tuple[float, int, str, object]] = []
        self._tie = 0
        self._open: dict[str, SimCall] = {}
        self._left: dict[str, int] = {}
        self._happened: list[Happened] = []
        self._done: dict[str, set[int]] = defaultdict(set)
        self._failed: set[str] = set()
        self._submitted: dict[str, set[int]] = defaultdict(set)
        self._track = track_service
        self._credited: dict[str, int] = {}
        self._waiting: dict[str, int] = defaultdict(int)
        self._idle_windows: dict[str, set[int]] = defaultdict(set)

    def run(self) -> Outcome:
        """Runs to the end of the last program."""
        for program in self._programs:
            self._at(program.arrival, "program", program)
            self._left[program.name] = len(program.calls)
        if self._track:
            self._at(WINDOW_S, "window", None)
        remaining = len(self._programs)
        now, still = 0.0, 0
        while remaining:
            before_now, now = now, self._next_time(now)
            still = 0 if now > before_now else still + 1
            if still > _STANDSTILL:
                raise RuntimeError(f"time stands still at {now:.3f} s, with {len(self._open)} calls open")
            self.fleet.now = now
            before = len(self.outcome.completion_s) + len(self._failed)
            self._engines(now)
            while self._events and self._events[0][0] <= now:
                self._event(*heapq.heappop(self._events), now)
            wake = self.strategy.next_wake(now)
            if wake is not None and wake <= now:
                self._obey(self.strategy.tick(now), now)
            self._engines(now)
            remaining -= len(self.outcome.completion_s) + len(self._failed) - before
        self.outcome.end_s = now
        self.outcome.prefilled_tokens = sum(engine.totals.prefilled_tokens for engine in self.fleet.engines)
        self.outcome.cached_tokens = sum(engine.totals.cached_tokens for engine in self.fleet.engines)
        for tenant, windows in self.outcome.service.items():
            self.outcome.backlogged[tenant] = set(windows) - self._idle_windows[tenant]
        return self.outcome

    def _at(self, time: float, kind: str, what: object) -> None:
        self._tie += 1
        heapq.heappush(self._events, (time, self._tie, kind, what))

    def _next_time(self, now: float) -> float:
        times = [time for engine in self.fleet.engines if (time := engine.next_time()) is not None]
        if self._events:
            times.append(self._events[0][0])
        wake = self.strategy.next_wake(now)
        if wake is not None:
            times.append(max(wake, now))
        if not times:
            raise RuntimeError(f"nothing happens any more, with {len(self._open)} calls open")
        return max(now, min(times))

    def _engines(self, now: float) -> None:
        for engine in self.fleet.engines:
            time = engine.next_time()
            if time is None or time > now:
                continue
            self._happened += engine.advance(now)
        while self._happened:
            happened_now, self._happened = self._happened, []
            for happened in happened_now:
                call = self._open.get(happened.job.key)
                if call is None:
                    continue
                if happened.kind == "first":
                    call.cached_tokens = happened.job.cached_tokens
                    if call.first_token_at is None:
                        call.first_token_at = happened.at
                    if self._track and not call.made:
                        self._credit(call, call.spec.prompt_tokens)
                    self._obey(self.strategy.first_token(call, now), now)
                elif happened.kind == "ended":
                    self._end(call, now)
                else:
                    call.made += happened.tokens
                    call.worker = None
                    self._waiting[call.program.tenant] += 1
                    self._obey(self.strategy.stopped(call, now), now)

    def _event(self, _time: float, _tie: int, kind: str, what: object, now: float) -> None:
        if isinstance(what, ProgramSpec):
            if self.strategy.submits_graphs:
                for spec in what.calls:
                    if not spec.gap_s:
                        self._submit(what, spec, now, all_at_once=True)
            self._ready(what, now)
        elif isinstance(what, tuple):
            program, spec = what
            self._submit(program, spec, now)
        elif kind == "window":
            self._window(now)
            self._at(now + WINDOW_S, "window", None)

    def _ready(self, program: ProgramSpec, now: float) -> None:
        """Calls whose results are all there are made, after their gap."""
        done, submitted = self._done[program.name], self._submitted[program.name]
        for spec in program.calls:
            if spec.index not in submitted and all(index in done for index in spec.after):
                submitted.add(spec.index)
                if spec.gap_s:
                    self._at(now + spec.gap_s, "call", (program, spec))
                else:
                    self._submit(program, spec, now)

    def _submit(self, program: ProgramSpec, spec: CallSpec, now: float, *, all_at_once: bool = False) -> None:
        if all_at_once:
            self._submitted[program.name].add(spec.index)
        size = round(spec.prompt_tokens * self._random.uniform(3.6, 4.4))
        call = SimCall(f"{program.tenant}.{program.agent}.{program.name}-{spec.index}", program, spec, now, size)
        self._open[call.key] = call
        self.outcome.calls.append(call)
        self._waiting[program.tenant] += 1
        self._obey(self.strategy.arrived(call, now), now)

    def _obey(self, orders: list[Order], now: float) -> None:
        for order in orders:
            call = order.call
            match order:
                case Start():
                    call.worker, call.dispatched = order.worker, now
                    self._waiting[call.program.tenant] -= 1
                    self._note_idle(call.program.tenant, now)
                    spec = call.spec
                    job = Job(
                        call.key,
                        spec.path,
                        spec.sizes,
                        call.prompt_tokens,
                        spec.output_tokens - call.made,
                        max(1, spec.max_tokens - call.made),
                    )
                    engine = self.fleet.engines[order.worker]
                    engine.submit(job, now)
                    self._happened += engine.advance(now)
                case Stop():
                    if call.worker is not None:
                        engine = self.fleet.engines[call.worker]
                        engine.cancel(call.key, now)
                        self._happened += engine.advance(now)
                case Drop():
                    call.refused = True
                    if call.worker is None:
                        self._waiting[call.program.tenant] -= 1
                        self._note_idle(call.program.tenant, now)
                    else:
                        self.fleet.engines[call.worker].cancel(call.key, now)
                        self._happened += self.fleet.engines[call.worker].advance(now)
                    self._open.pop(call.key, None)
                    self._failed.add(call.program.name)

    def _end(self, call: SimCall, now: float) -> None:
        call.ended_at = now
        if self._track:
            self._credit_output(call, call.spec.output_tokens)
        del self._open[call.key]
        program = call.program
        self._done[program.name].add(call.spec.index)
        self._left[program.name] -= 1
        self._obey(self.strategy.ended(call, now), now)
        if not self._left[program.name]:
            self.outcome.completion_s[program.name] = now - program.arrival
        elif len(program.calls) > 1:
            self._ready(program, now)

    # What tenants get

    def _credit(self, call: SimCall, weighted: float) -> None:
        window = int(self.fleet.now / WINDOW_S)
        mine = self.outcome.service.setdefault(call.program.tenant, defaultdict(float))
        mine[window] += weighted

    def _credit_output(self, call: SimCall, made: int) -> None:
        before = self._credited.get(call.key, 0)
        if made > before:
            self._credited[call.key] = made
            self._credit(call, 2.0 * (made - before))

    def _window(self, now: float) -> None:
        self.fleet.now = now - 1e-6
        for call in self._open.values():
            if call.worker is not None:
                self._credit_output(call, call.made + self.fleet.tokens_of(call))
        self.fleet.now = now
        for tenant in {program.tenant for program in self._programs}:
            if not self._waiting[tenant]:
                self._idle_windows[tenant].add(int(now / WINDOW_S))

    def _note_idle(self, tenant: str, now: float) -> None:
        if self._track and not self._waiting[tenant]:
            self._idle_windows[tenant].add(int(now / WINDOW_S))
