"""What calling a tool costs through the whole road, and whether a thousand calls of mixed ones get in each other's way.

    make bench-tools            # table and results/tools.json
    make bench-tools CHECK=1    # exit status 1 if a bar is missed

Overhead: one call at a time of a tool that does nothing, served with the SDK by another process; tracing is on and
every span is stored. Mixed: four tools of two seconds each that do not conflict, and around them a thousand calls of
short ones, some of which write the same resource; conflicting ones must never overlap, the four must end as if alone.
"""

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import uvloop
from report import Bar, Report, quantile, read_options
from road import Road, running_road

from aios import Agent, AiosError, ToolContext

OVERHEAD_LIMIT_MS = 4.0
MIXED_CALLS = 1000
LONG_S = 2.0
LONG_LIMIT_S = 2.5
WRITERS = 50
LIMIT = 4


async def serve(token: str, url: str) -> None:
    """The process that serves the tools; says when they are registered, and ends with its input."""
    agent = Agent(token=token, url=url)
    busy: dict[str, int] = {}

    @agent.tool(effects=["read_only"], concurrency=256)
    async def noop() -> None:
        return None

    @agent.tool(effects=["idempotent"], concurrency=256)
    async def noop_claimed() -> None:
        return None

    @agent.tool(effects=["read_only"], concurrency=8)
    async def long(number: int) -> int:
        await asyncio.sleep(LONG_S)
        return number

    @agent.tool(effects=["read_only"], writes=["ledger:{page}"], concurrency=64)
    async def write(page: int) -> int:
        key = f"page {page}"
        busy[key] = busy.get(key, 0) + 1
        most = busy[key]
        await asyncio.sleep(0.001)
        busy[key] -= 1
        return most

    @agent.tool(effects=["read_only"], concurrency=LIMIT)
    async def limited() -> int:
        busy["limited"] = busy.get("limited", 0) + 1
        most = busy["limited"]
        await asyncio.sleep(0.001)
        busy["limited"] -= 1
        return most

    @agent.tool(effects=["read_only"], concurrency=64)
    def threaded(context: ToolContext) -> bool:
        return context.cancelled

    async with agent:
        print("serving", flush=True)
        await asyncio.to_thread(sys.stdin.read)


@contextlib.contextmanager
def serving(road: Road) -> Iterator[None]:
    """The tools in a process of their own, under the same identity as the caller."""
    env = {**os.environ, "AIOS_TOKEN": road.token, "AIOS_URL": road.url}
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "serving":
            raise RuntimeError("the tools could not be served")
        yield
    finally:
        process.communicate(timeout=20)


async def measure_overhead(agent: Agent, tool: str, calls: int) -> list[float]:
    samples: list[float] = []
    for number in range(calls + calls // 10):
        begun = time.perf_counter()
        await agent.tools.call(tool)
        if number >= calls // 10:
            samples.append((time.perf_counter() - begun) * 1000)
    return samples


async def measure_mixed(agent: Agent, calls: int) -> dict[str, Any]:
    errors: list[str] = []

    async def one(tool: str, **arguments: int) -> object:
        try:
            return (await agent.tools.call(tool, arguments)).content
        except AiosError as error:
            errors.append(str(error))
            return None

    begun = time.perf_counter()

    async def long(number: int) -> float:
        await one("long", number=number)
        return time.perf_counter() - begun

    short = [
        one("write", page=number % WRITERS) if number % 4 == 1 else one(("noop", "", "limited", "threaded")[number % 4])
        for number in range(calls - 4)
    ]
    longs = [asyncio.create_task(long(number)) for number in range(4)]
    answers = await asyncio.gather(*short)
    took_s = time.perf_counter() - begun
    ends = await asyncio.gather(*longs)
    writers = [answer for number, answer in enumerate(answers) if number % 4 == 1]
    limited = [answer for number, answer in enumerate(answers) if number % 4 == 2]
    return {
        "long_s": max(ends),
        "short_s": took_s,
        "most_writers_at_once": max(int(str(answer)) for answer in writers if answer is not None),
        "most_limited_at_once": max(int(str(answer)) for answer in limited if answer is not None),
        "errors": len(errors),
        "first_errors": errors[:3],
    }


async def measure(road: Road, calls: int, mixed: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
    async with Agent(token=road.token, url=road.url) as agent:
        kinds = ("noop", "noop_claimed", "calculator")
        times: dict[str, list[float]] = {kind: [] for kind in kinds}
        for kind in kinds[:2]:
            times[kind] = await measure_overhead(agent, kind, calls)
        times["calculator"] = [await _timed_calculator(agent) for _ in range(calls)]
        return times, await measure_mixed(agent, mixed)


async def _timed_calculator(agent: Agent) -> float:
    begun = time.perf_counter()
    await agent.tools.call("calculator", {"expression": "1 + 1"})
    return (time.perf_counter() - begun) * 1000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000, help="calls, one at a time, of each kind")
    parser.add_argument("--mixed", type=int, default=MIXED_CALLS, help="calls at once")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = read_options(parser)
    if options.serve:
        uvloop.run(serve(os.environ["AIOS_TOKEN"], os.environ["AIOS_URL"]))
        return 0
    with running_road("--engine-kind", "instant") as road:
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = road.otlp_endpoint
        with serving(road):
            times, mixed = uvloop.run(measure(road, options.calls, options.mixed))
        del os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"]
    report = Report("tools", "Calling tools", ("measure", "p50", "p99"))
    names = {
        "noop": "a tool of the SDK that does nothing, read-only",
        "noop_claimed": "the same, with effects: claimed on disk",
        "calculator": "a built-in tool",
    }
    for kind, values in times.items():
        report.rows.append((names[kind], f"{quantile(values, 0.5):.2f} ms", f"{quantile(values, 0.99):.2f} ms"))
    report.rows.append((f"4 tools of 2 s among {options.mixed} calls", f"{mixed['long_s']:.2f} s", ""))
    report.rows.append((f"the other {options.mixed - 4} calls, all at once", f"{mixed['short_s']:.2f} s", ""))
    report.bars += [
        Bar("p50 of a tool that does nothing", quantile(times["noop"], 0.5), OVERHEAD_LIMIT_MS, "ms"),
        Bar("4 tools of 2 s without conflict", mixed["long_s"], LONG_LIMIT_S, "s"),
        Bar("writers of one resource at once", mixed["most_writers_at_once"], 1, "calls"),
        Bar(f"calls at once of a tool that takes {LIMIT}", mixed["most_limited_at_once"], LIMIT, "calls"),
        Bar("errors", mixed["errors"], 0, "calls"),
    ]
    report.figures = {
        "overhead": {
            kind: {"p50_ms": quantile(values, 0.5), "p99_ms": quantile(values, 0.99), "calls": len(values)}
            for kind, values in times.items()
        },
        "mixed": {"calls": options.mixed, **mixed},
    }
    return report.finish(options)


if __name__ == "__main__":
    raise SystemExit(main())
