"""The workloads, seeded; their statistics are those published, and are never changed to suit a policy.

- W1: chat and code calls with the lengths of the public Azure LLM inference traces of 2023 (Patel et al., Splitwise,
  ISCA 2024): conversation 1155 tokens in (median 1020), 211 out (129); code 2048 (1500) and 28 (13).
- W3: tool-using customer-service agents as in tau-bench: 12 calls mean, p95 25, context from about 3 k, 70 tokens out,
  47 % of the answers ask for a tool, the others wait for the (simulated) user.
- W4: software-engineering agents as in SWE-bench runs: 22 turns, 0.5 to 2 k tokens more each turn, tools 86 % within
  1 s and 95 % within 10 s.
- W34: three fifths of the programs agents (half W3, half W4), two fifths single calls of W1.
- W5: graphs of calls: map-reduce over a document, tree search, debate.
- W6: one tenant that sends ten times as much as each of nine others; chat calls.
- W7: chat with its first token due in 2 s, tasks due in 30 s, batches due in an hour.

Load 1 is the arrival rate at which the work of all calls, with every prefix reused, fills the GPUs: prompt tokens
that are new at the prefill rate, output tokens at the rate of a batch that fills 70 % of the KV cache.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from aios_engine.emulator.timing import HARDWARE, Hardware
from simulation.model import CallSpec, ProgramSpec

SYSTEM_TOKENS = {"support": 1800, "coder": 1500, "mapper": 200, "searcher": 400, "debater": 300}
"""Shared by all runs of one agent: system prompt and tool descriptions."""

_FULL = 0.7


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of load.

    Attributes:
        programs: how many in one run.
        make: one program without an arrival time, from a generator and its number.
    """

    name: str
    title: str
    programs: int
    make: Callable[[random.Random, int], ProgramSpec]

    def generate(self, load: float, seed: int, *, workers: int = 2, hardware: str = "h100") -> list[ProgramSpec]:
        """Programs with Poisson arrivals at that load."""
        draw = random.Random(f"{self.name}/{seed}")
        programs = [self.make(draw, number) for number in range(self.programs)]
        machine = HARDWARE[hardware]
        mean_work_s = sum(work_s(program, machine) for program in programs) / len(programs)
        rate = load * workers / mean_work_s
        now = 0.0
        for program in programs:
            now += draw.expovariate(rate)
            program.arrival = now
        return programs


def work_s(program: ProgramSpec, machine: Hardware) -> float:
    """GPU seconds of a program with every prefix reused."""
    seconds = 0.0
    seen: dict[object, int] = {}
    for call in program.calls:
        depth, cached = 0, 0
        for key, size in zip(call.path, call.sizes, strict=True):
            depth += size
            if key in seen or (isinstance(key, tuple) and key[0] == "system"):
                cached = depth
            seen[key] = depth
        cached = min(cached, call.prompt_tokens - 1)
        context = call.prompt_tokens + call.output_tokens / 2
        batch = max(1.0, _FULL * machine.kv_tokens / context)
        decode = machine.step_s / batch + machine.sequence_s + machine.kv_token_s * context
        seconds += machine.chunk_s(cached, call.prompt_tokens) + call.output_tokens * decode
    return seconds


def _lognormal(draw: random.Random, median: float, sigma: float, low: int, high: int) -> int:
    return max(low, min(high, round(median * math.exp(sigma * draw.gauss(0, 1)))))


def _single(draw: random.Random, number: int, *, tenant: str, code: bool) -> ProgramSpec:
    if code:
        prompt, output = _lognormal(draw, 1500, 0.79, 20, 7500), _lognormal(draw, 13, 1.24, 1, 900)
        agent, limit = "completion", 1024
    else:
        prompt, output = _lognormal(draw, 1020, 0.5, 20, 7500), _lognormal(draw, 129, 0.99, 1, 1000)
        agent, limit = "chat", 1024
    name = f"p{number}"
    return ProgramSpec(name, tenant, agent, 0.0, [CallSpec(0, (name,), (prompt,), output, limit)])


def azure(draw: random.Random, number: int) -> ProgramSpec:
    return _single(draw, number, tenant=f"t{number % 4}", code=draw.random() < 0.31)


def _conversation(
    draw: random.Random,
    number: int,
    agent: str,
    turns: int,
    first: int,
    turn: Callable[[], tuple[str, float, int, int]],
) -> ProgramSpec:
    """A sequence of calls, each with the whole conversation as its prompt.

    `turn` gives the tool the answer asks for, the seconds until the next call, and the tokens of answer and result.
    """
    name = f"p{number}"
    path: list[object] = [("system", agent), (name, 0)]
    sizes = [SYSTEM_TOKENS[agent], first]
    calls = []
    gap = 0.0
    for index in range(turns):
        tool, next_gap, output, result = turn()
        if index == turns - 1:
            tool = ""  # an agent's run ends with an answer that asks for no tool
        after = (index - 1,) if index else ()
        calls.append(CallSpec(index, tuple(path), tuple(sizes), output, 1024, after, gap, tool))
        path.append((name, index + 1))
        sizes.append(output + result)
        gap = next_gap
    return ProgramSpec(name, f"t{number % 4}", agent, 0.0, calls)


def tau(draw: random.Random, number: int) -> ProgramSpec:
    def turn() -> tuple[str, float, int, int]:
        output = _lognormal(draw, 55, 0.7, 5, 600)
        if draw.random() < 0.47:
            return "lookup", draw.lognormvariate(math.log(0.3), 0.6), output, draw.randint(50, 500)
        return "", draw.lognormvariate(math.log(2.0), 0.5), output, draw.randint(20, 150)

    return _conversation(draw, number, "support", _lognormal(draw, 10.6, 0.5, 2, 60), draw.randint(800, 1600), turn)


def swe(draw: random.Random, number: int) -> ProgramSpec:
    def turn() -> tuple[str, float, int, int]:
        output, result = _lognormal(draw, 110, 0.7, 10, 900), draw.randint(400, 1850)
        if draw.random() < 0.8:
            return "edit", draw.uniform(0.05, 1.0), output, result
        kind = draw.random()
        if kind < 0.3:
            return "run", draw.uniform(0.2, 1.0), output, result
        return "run", draw.uniform(1, 10) if kind < 0.75 else draw.uniform(10, 60), output, result

    return _conversation(draw, number, "coder", _lognormal(draw, 20.3, 0.4, 3, 60), draw.randint(1000, 3000), turn)


def mixed(draw: random.Random, number: int) -> ProgramSpec:
    kind = draw.random()
    if kind < 0.3:
        return tau(draw, number)
    return swe(draw, number) if kind < 0.6 else azure(draw, number)


def graph(draw: random.Random, number: int) -> ProgramSpec:
    return (_map_reduce, _tree_search, _debate)[number % 3](draw, number)


def _map_reduce(draw: random.Random, number: int) -> ProgramSpec:
    name, system = f"p{number}", SYSTEM_TOKENS["mapper"]
    width = draw.randint(6, 16)
    calls = []
    for index in range(width):
        chunk = draw.randint(1500, 3000)
        path: tuple[object, ...] = (("system", "mapper"), (name, index))
        calls.append(CallSpec(index, path, (system, chunk), _lognormal(draw, 120, 0.5, 20, 500), 512))
    gathered = sum(call.output_tokens for call in calls)
    path = (("system", "mapper"), (name, "reduce"))
    output = _lognormal(draw, 300, 0.4, 50, 900)
    calls.append(CallSpec(width, path, (system, gathered), output, 1024, tuple(range(width))))
    return ProgramSpec(name, f"t{number % 4}", "mapper", 0.0, calls)


def _tree_search(draw: random.Random, number: int) -> ProgramSpec:
    name, breadth, depth = f"p{number}", 3, 3
    calls: list[CallSpec] = []
    level: list[CallSpec | None] = [None]
    root_path: tuple[object, ...] = (("system", "searcher"), (name, "task"))
    root_sizes = (SYSTEM_TOKENS["searcher"], draw.randint(600, 2000))
    for _ in range(depth):
        following: list[CallSpec | None] = []
        for parent in level:
            for _ in range(breadth if parent is None else 2):
                index = len(calls)
                output = _lognormal(draw, 150, 0.5, 20, 600)
                if parent is None:
                    call = CallSpec(index, (*root_path, (name, index)), (*root_sizes, 40), output, 768)
                else:
                    sizes = (*parent.sizes, parent.output_tokens + 40)
                    call = CallSpec(index, (*parent.path, (name, index)), sizes, output, 768, (parent.index,))
                calls.append(call)
                following.append(call)
        level = following
    return ProgramSpec(name, f"t{number % 4}", "searcher", 0.0, calls)


def _debate(draw: random.Random, number: int) -> ProgramSpec:
    name, debaters, rounds = f"p{number}", 3, 3
    calls: list[CallSpec] = []
    paths: list[tuple[object, ...]] = [(("system", "debater"), (name, "topic"), (name, who)) for who in range(debaters)]
    topic = draw.randint(400, 1200)
    sizes: list[tuple[int, ...]] = [(SYSTEM_TOKENS["debater"], topic, 60) for _ in range(debaters)]
    for number_of_round in range(rounds):
        before = tuple(range(len(calls) - debaters, len(calls))) if number_of_round else ()
        said = sum(calls[index].output_tokens for index in before)
        for who in range(debaters):
            if number_of_round:
                paths[who] = (*paths[who], (name, who, number_of_round))
                sizes[who] = (*sizes[who], said + 60)
            output = _lognormal(draw, 200, 0.4, 40, 600)
            calls.append(CallSpec(len(calls), paths[who], sizes[who], output, 768, before))
    return ProgramSpec(name, f"t{number % 4}", "debater", 0.0, calls)


def flood(draw: random.Random, number: int) -> ProgramSpec:
    place = draw.randrange(19)
    tenant = f"light{place}" if place < 9 else "flood"
    return _single(draw, number, tenant=tenant, code=False)


def due(draw: random.Random, number: int) -> ProgramSpec:
    name, kind = f"p{number}", draw.random()
    if kind < 0.6:
        prompt, output = _lognormal(draw, 1020, 0.5, 20, 7500), _lognormal(draw, 129, 0.99, 1, 500)
        limit = 512
        call = CallSpec(0, (name,), (prompt,), output, limit, priority=6, first_token_s=2.0)
        # What such an agent tells: first token in 2 s, then what its longest answer takes at 25 tokens a second.
        call.deadline_s = 2.0 + limit / 25
        return ProgramSpec(name, f"t{number % 4}", "interactive", 0.0, [call])
    if kind < 0.85:
        prompt, output = _lognormal(draw, 2000, 0.5, 200, 8000), _lognormal(draw, 300, 0.4, 50, 600)
        call = CallSpec(0, (name,), (prompt,), output, 768, deadline_s=30.0)
        return ProgramSpec(name, f"t{number % 4}", "task", 0.0, [call])
    prompt, output = _lognormal(draw, 6000, 0.4, 1000, 16000), _lognormal(draw, 900, 0.4, 200, 2000)
    call = CallSpec(0, (name,), (prompt,), output, 2048, priority=3, deadline_s=3600.0)
    return ProgramSpec(name, f"t{number % 4}", "batch", 0.0, [call])


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("W1", "chat and code (Azure 2023)", 1000, azure),
        Workload("W3", "support agents (tau-bench)", 300, tau),
        Workload("W4", "software agents (SWE)", 200, swe),
        Workload("W34", "agents and chat", 350, mixed),
        Workload("W5", "graphs of calls", 120, graph),
        Workload("W6", "one tenant floods", 4000, flood),
        Workload("W7", "deadlines", 2500, due),
    )
}
