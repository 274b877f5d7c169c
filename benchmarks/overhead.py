"""What the road adds to a model call: latency beside the engine called directly, and calls a second.

    make bench-overhead            # table and results/overhead.json
    make bench-overhead CHECK=1    # exit status 1 if a bar is missed

Latency: one call at a time, direct and through the road in turn, in blocks of 25, so that both see the same machine;
the engine answers at once, over HTTP; tracing is on and every span is stored. Throughput: 256 calls open at once; the
worker's engine is the in-process `instant` adapter, so that no HTTP server shares the cores; 1 % of new
traces are kept.
"""

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import orjson
import uvloop
from report import Bar, Report, quantile, read_options
from road import Road, running_instant_tgi, running_road

from aios import Agent, AiosError
from aios_proto.headers import Durability

LATENCY_BLOCKS = 40
WARM_UP_BLOCKS = 4
BLOCK_CALLS = 25
CONCURRENCY = 256
ROUNDS = 5
ROUND_S = 4.0
PROMPT = "How long does it take from here to there and back again? " * 8

P50_LIMIT_MS = 4.0
P99_LIMIT_MS = 15.0
RATE_LIMIT = 1500.0


async def direct(session: aiohttp.ClientSession, engine_url: str) -> None:
    body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 1, "details": True}}
    async with session.post(f"{engine_url}/generate_stream", data=orjson.dumps(body)) as response:
        await response.read()


async def timed(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    await work()
    return (time.perf_counter() - begun) * 1000


async def measure_latency(road: Road, engine_url: str) -> dict[str, list[float]]:
    """Milliseconds of each call, by kind; the kinds take turns, a block of calls each."""
    samples: dict[str, list[float]] = {"direct": [], "durable": [], "volatile": []}
    async with (
        aiohttp.ClientSession(headers={"Content-Type": "application/json"}) as session,
        Agent(token=road.token, url=road.url) as agent,
    ):
        kinds = {
            "direct": lambda: direct(session, engine_url),
            "durable": lambda: agent.llm.chat(PROMPT, max_tokens=1),
            "volatile": lambda: agent.llm.chat(PROMPT, max_tokens=1, durability="volatile"),
        }
        for block in range(WARM_UP_BLOCKS + LATENCY_BLOCKS):
            for kind, work in kinds.items():
                for _ in range(BLOCK_CALLS):
                    took = await timed(work)
                    if block >= WARM_UP_BLOCKS:
                        samples[kind].append(took)
    return samples


async def measure_rate(road: Road, durability: Durability) -> dict[str, Any]:
    """Calls a second with `CONCURRENCY` open at once, over `ROUNDS` rounds."""
    rates: list[float] = []
    errors = 0
    async with Agent(token=road.token, url=road.url) as agent:

        async def caller(until: float) -> int:
            nonlocal errors
            done = 0
            while time.perf_counter() < until:
                try:
                    await agent.llm.chat(PROMPT, max_tokens=1, durability=durability, stream=False)
                    done += 1
                except AiosError as error:
                    errors += 1
                    print(f"call failed: {error}", file=sys.stderr)
            return done

        for number in range(ROUNDS + 1):
            begun = time.perf_counter()
            done = sum(await asyncio.gather(*(caller(begun + ROUND_S) for _ in range(CONCURRENCY))))
            if number:  # the first is the warm-up
                rates.append(done / (time.perf_counter() - begun))
    return {"rounds": rates, "median": statistics.median(rates), "errors": errors}


def latency() -> dict[str, dict[str, float]]:
    with running_instant_tgi() as engine_url, running_road("--engine-url", engine_url) as road:
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = road.otlp_endpoint
        samples = uvloop.run(measure_latency(road, engine_url))
        del os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"]
    return {
        kind: {"p50_ms": quantile(values, 0.5), "p99_ms": quantile(values, 0.99), "calls": len(values)}
        for kind, values in samples.items()
    }


def throughput() -> dict[str, Any]:
    env = {"AIOS_TRACE_SAMPLE_RATIO": "0.01"}
    kinds: tuple[Durability, ...] = ("volatile", "durable")
    with running_road("--engine-kind", "instant", env=env) as road:
        return {kind: uvloop.run(measure_rate(road, kind)) for kind in kinds}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options = read_options(parser)
    times, rates = latency(), throughput()
    report = Report(
        "overhead", "What the road adds to a model call", ("measure", "p50", "p99", "added p50", "added p99")
    )
    for kind, found in times.items():
        added50, added99 = (found[q] - times["direct"][q] for q in ("p50_ms", "p99_ms"))
        report.rows.append(
            (
                f"{kind}, one at a time",
                f"{found['p50_ms']:.2f} ms",
                f"{found['p99_ms']:.2f} ms",
                "" if kind == "direct" else f"{added50:.2f} ms",
                "" if kind == "direct" else f"{added99:.2f} ms",
            )
        )
        if kind != "direct":
            report.bars.append(Bar(f"added p50, {kind}, tracing on", added50, P50_LIMIT_MS, "ms"))
            report.bars.append(Bar(f"added p99, {kind}, tracing on", added99, P99_LIMIT_MS, "ms"))
    for kind, rate in rates.items():
        report.rows.append((f"{kind}, {CONCURRENCY} at once", f"{rate['median']:.0f} calls/s", "", "", ""))
    report.bars.append(
        Bar("volatile calls a second", rates["volatile"]["median"], RATE_LIMIT, "calls/s", at_most=False)
    )
    report.bars.append(Bar("errors", rates["volatile"]["errors"] + rates["durable"]["errors"], 0, "calls"))
    report.figures = {"latency": times, "throughput": rates, "prompt_bytes": len(PROMPT)}
    return report.finish(options)


if __name__ == "__main__":
    raise SystemExit(main())
