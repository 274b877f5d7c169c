"""The same programs through the real services and an emulated engine on the real clock, and in simulation.

One emulated H100 with a small KV cache behind the TGI API, one worker, the whole road of `aios up`. The programs are
shortened software agents (W4): enough of them that their contexts do not fit together. Each policy runs the same
programs; what is compared is the mean completion. And a chain of five calls, each with the result of the one before in
its prompt: submitted at once, or one after another by the agent.
"""

import asyncio
import contextlib
import dataclasses
import os
import random
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial

import uvloop
from report import Bar, Report
from road import Road, running_road

from aios import Agent
from aios_proto.ids import new_syscall_id
from aios_proto.messages.scheduler import PolicyName
from simulation.aios_core import AiosCore
from simulation.model import ProgramSpec
from simulation.run import Simulation
from simulation.workloads import swe

POLICIES: tuple[PolicyName, ...] = ("fifo", "las", "aios")
PROGRAMS = 12
TURNS = 9
LONGEST_GAP_S = 1.5
BETWEEN_S = 0.2
SAME_SHARE = 0.10
KV_TOKENS = 40_000
MAX_TOKENS = 512
DEADLINE_S = 600.0
CHAIN = 5
CHAINS = 40
_START_TIMEOUT_S = 30.0


def programs() -> list[ProgramSpec]:
    """Shortened W4 programs."""
    draw = random.Random("real clock")
    made = []
    for number in range(PROGRAMS):
        program = swe(draw, number)
        calls = [
            dataclasses.replace(
                call, gap_s=min(call.gap_s, LONGEST_GAP_S), max_tokens=MAX_TOKENS, deadline_s=DEADLINE_S
            )
            for call in program.calls[:TURNS]
        ]
        calls[-1].tool = ""
        tenant = "default"  # one agent of the operator's sends them all
        made.append(
            ProgramSpec(f"{program.name}-{draw.getrandbits(32):08x}", tenant, "operator", BETWEEN_S * number, calls)
        )
    return made


def simulated(policy: PolicyName) -> float:
    """Mean completion in simulation, in seconds. The service's worker names no tools, so none are told here."""
    some = programs()
    for program in some:
        for call in program.calls:
            call.tool = ""
    outcome = Simulation(some, partial(AiosCore, policy=policy), workers=1, kv_tokens=KV_TOKENS).run()
    return statistics.mean(outcome.completion_s.values())


@contextlib.contextmanager
def emulated_engine() -> Iterator[str]:
    """`python -m aios_engine emulate` on a free port; yields its base URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "aios_engine", "emulate", "--port", str(port), "--kv-tokens", str(KV_TOKENS)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "OTEL_SDK_DISABLED": "true"})
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=1):
                    break
            except (urllib.error.URLError, OSError):
                if time.monotonic() > until or process.poll() is not None:
                    raise RuntimeError("the emulator did not start") from None
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(20)


async def _real(road: Road, policy: PolicyName) -> float:
    async with Agent(token=road.token, url=road.url) as agent:
        begun = time.monotonic()

        async def play(program: ProgramSpec) -> float:
            await asyncio.sleep(max(0.0, begun + program.arrival - time.monotonic()))
            arrived = time.monotonic()
            prompt = ""
            for call in program.calls:
                if call.gap_s:
                    await asyncio.sleep(call.gap_s)
                prompt = _prompt(f"{policy}/{program.name}", prompt, call.prompt_tokens, call.output_tokens)
                await agent.llm.complete(
                    prompt, max_tokens=MAX_TOKENS, program=program.name, deadline_s=DEADLINE_S, stream=False
                )
            return time.monotonic() - arrived

        return statistics.mean(await asyncio.gather(*map(play, programs())))


def _prompt(name: str, before: str, tokens: int, output_tokens: int) -> str:
    """The conversation so far and more of it, four bytes a token, that ends by saying how long the answer will be."""
    mark = f"[[tokens={output_tokens}]]"
    filler = f"{name} {len(before)} "
    missing = max(0, 4 * tokens - len(before) - len(mark))
    return before + (filler * (missing // len(filler) + 1))[:missing] + mark


async def _chains(road: Road) -> tuple[list[float], list[float]]:
    """Milliseconds of chains submitted at once, and of those driven by the agent; they take turns."""
    at_once: list[float] = []
    driven: list[float] = []
    async with Agent(token=road.token, url=road.url) as agent:
        for number in range(CHAINS + 5):
            begun = time.perf_counter()
            ids = [new_syscall_id() for _ in range(CHAIN)]
            calls = [
                agent.llm.complete(
                    "begin" if not place else f"{{{{result:{ids[place - 1]}}}}} and on",
                    max_tokens=4,
                    id=ids[place],
                    after=[ids[place - 1]] if place else [],
                )
                for place in range(CHAIN)
            ]
            await calls[-1]
            between = time.perf_counter()
            text = "begin"
            for _ in range(CHAIN):
                text = (await agent.llm.complete(text, max_tokens=4)).text + " and on"
            if number >= 5:  # the first warm up
                at_once.append((between - begun) * 1000)
                driven.append((time.perf_counter() - between) * 1000)
            await asyncio.gather(*calls)
    return at_once, driven


def measure_real_clock(report: Report) -> None:
    """Adds rows, bars and figures."""
    expected = {policy: simulated(policy) for policy in POLICIES}
    found: dict[str, float] = {}
    for policy in POLICIES:
        env = {"AIOS_SCHEDULER_POLICY": policy, "AIOS_TRACE_SAMPLE_RATIO": "0.01"}
        with emulated_engine() as url, running_road("--engine-url", url, env=env) as road:
            found[policy] = uvloop.run(_real(road, policy))
    with running_road("--engine-kind", "instant") as road:
        at_once, driven = uvloop.run(_chains(road))
    blank = ("",) * 4
    for policy in POLICIES:
        error = found[policy] / expected[policy] - 1
        row = (f"real {policy}", f"{found[policy]:.1f} s", f"simulated {expected[policy]:.1f} s", f"{error:+.1%}")
        report.rows.append((*row, *blank, ""))
    same = all(
        found[first] < found[second]
        for first in POLICIES
        for second in POLICIES
        if expected[first] < (1 - SAME_SHARE) * expected[second]  # closer ones count as equal
    )
    errors = [abs(found[policy] / expected[policy] - 1) for policy in POLICIES]
    chain, steps = statistics.median(at_once), statistics.median(driven)
    report.rows.append((f"chain of {CHAIN}", f"{chain:.1f} ms at once", f"{steps:.1f} ms driven", *blank, "", ""))
    report.figures["real_clock"] = {"real_s": found, "simulated_s": expected, "programs": PROGRAMS}
    report.figures["chain"] = {"at_once_ms": at_once, "driven_ms": driven}
    report.bars.append(Bar("real clock: policies in the order of the simulation", float(same), 1, "", at_most=False))
    report.bars.append(Bar("real clock: worst error of the mean completion", max(errors), 0.25, ""))
    report.bars.append(Bar(f"a chain of {CHAIN} at once over driven by the agent", chain / steps, 1.0, "x"))
