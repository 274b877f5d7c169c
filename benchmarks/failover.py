"""What callers notice when a worker, or its engine, is killed in the middle of many streams.

    make bench-failover            # table and results/failover.json
    make bench-failover CHECK=1    # exit status 1 if a bar is missed
    failover.py --at 0.5 0.9 --kill engine --out /tmp/engine.json

A whole system with two workers, each with an engine of its own, or both with the same. Many greedy calls stream at the
same time; when each has the same share of its text, one worker or one engine gets SIGKILL. Every call must complete
with the text it has when nothing happens, and its stream must have no gap and no repeat. What the text is when nothing
happens comes from a system of its own, so that no engine has seen an answer before. That is run in turns with storing
KV and without, which shows what storing costs.

The time to go on is counted from the kill until the caller has the next new character, of every call that had not
ended by then. A worker's death counts as noticed when `llm.models` offers one worker less, asked again and again; an
engine's at once, because its worker's connection breaks.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from report import Bar, Report, quantile, read_options
from resume_levels import LEVELS, Resumed, resumed_calls
from road import Road, running_road
from running_engine import RunningEngine, free_port, running_engine, wait_until_answers
from streams import Stream, follow

from aios import Agent
from aios_stack.data_folder import DataFolder

KINDS = ("worker, same engine", "worker", "engine")
WITHOUT_KV = "engine, KV not stored"
"""For comparison, in the middle only; how long that takes has no bar."""
SECOND = "llm-second"
NOTICED_LIMIT_S = 1.0
GO_ON_LIMIT_S = 2.0
"""After it is noticed."""
AT_WORK_LIMIT = 0.8
"""Share of the streams that must not have ended when the kill comes; with fewer its figures say little."""
CUT_LIMIT = 0.2
"""Share of the streams that the kill must have stopped."""
RATE_LIMIT = 0.9
TURNS = 2
ASK_AGAIN_S = 0.01
NOTICED_DEADLINE_S = 60.0
PROMPT_ROOM = 64
"""Tokens of context beside the answer."""


@contextlib.contextmanager
def second_worker(road: Road, engine_url: str, settings: Mapping[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker that nobody starts again."""
    folder = DataFolder.find(road.folder)
    port = free_port()
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AIOS_")},
        "AIOS_NATS_URL": road.url,
        "AIOS_NATS_NKEY_FILE": str(_seed(folder, "llm")),
        "AIOS_INSTANCE": SECOND,
        "AIOS_WORKER": SECOND,
        "AIOS_ENGINE_URL": engine_url,
        "AIOS_HTTP_PORT": str(port),
        "AIOS_LOG_LEVEL": "error",
        **settings,
    }
    process = subprocess.Popen([sys.executable, "-m", "aios_llm"], env=env)
    try:
        wait_until_answers(f"http://127.0.0.1:{port}/readyz", process)
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(30)


def _seed(folder: DataFolder, role: str) -> Path:
    return folder.secrets / f"{role}.nk"


@contextlib.contextmanager
def two_workers(
    kind: str, options: argparse.Namespace, *, stores_kv: bool = True
) -> Iterator[tuple[Road, "subprocess.Popen[bytes]"]]:
    """A system whose calls go half to each worker, and the process to be killed in it."""
    settings = {"AIOS_LLM_IN_FLIGHT": str(options.streams)}
    if not stores_kv:
        settings["AIOS_LLM_KV_SAVE_BYTES_PER_S"] = "0"
    each = {"n_ctx": str(max(256, options.tokens + PROMPT_ROOM)), "max_sequences": str(options.streams)}

    @contextlib.contextmanager
    def workers(first: RunningEngine, second: RunningEngine) -> Iterator[tuple[Road, "subprocess.Popen[bytes]"]]:
        with (
            running_road("--engine-url", first.url, env=settings) as road,
            second_worker(road, second.url, settings) as worker,
        ):
            yield road, worker if kind.startswith("worker") else second.process

    with running_engine(**each) as first:
        if kind == "worker, same engine":
            with workers(first, first) as pair:
                yield pair
        else:
            with running_engine(**each) as second, workers(first, second) as pair:
                yield pair


async def undisturbed(road: Road, options: argparse.Namespace) -> tuple[list[Stream], float]:
    """The streams as they are when nothing happens, and the tokens a second of all of them together."""
    async with Agent(token=road.token, url=road.url) as agent:
        streams = [Stream(number) for number in range(options.streams)]
        began = time.monotonic()
        await asyncio.gather(*(follow(agent, stream, options.tokens) for stream in streams))
        took = time.monotonic() - began
    failed = [f"stream {stream.number}: {stream.error}" for stream in streams if stream.error]
    if failed:
        raise RuntimeError("although nothing was killed, " + "; ".join(failed))
    return streams, sum(stream.tokens for stream in streams) / took


def in_turns(options: argparse.Namespace, report: Report) -> list[Stream]:
    """The streams as they are when nothing happens; what storing KV costs goes into the report."""
    rates: dict[bool, list[float]] = {True: [], False: []}
    wholes: list[Stream] = []
    for stores_kv in (False, True) * TURNS:
        with two_workers("engine", options, stores_kv=stores_kv) as (road, _):
            wholes, rate = asyncio.run(undisturbed(road, options))
        rates[stores_kv].append(rate)
    ratio = sum(rates[True]) / sum(rates[False])
    report.figures["undisturbed"] = {
        "tokens_per_s_storing_kv": rates[True],
        "tokens_per_s_not_storing": rates[False],
        "ratio": ratio,
    }
    report.bars.append(Bar("tokens/s with KV stored, of those without", ratio, RATE_LIMIT, "x", at_most=False))
    return wholes


async def noticed(agent: Agent, killed: float) -> float:
    """Seconds from the kill until the scheduler counts one worker less."""
    async with asyncio.timeout(NOTICED_DEADLINE_S):
        while True:
            models = await agent.llm.models(deadline_s=10)
            if sum(model.workers for model in models) <= 1:
                return time.time() - killed
            await asyncio.sleep(ASK_AGAIN_S)  # there is no event for it that an agent may hear


async def disturbed(
    road: Road,
    victim: "subprocess.Popen[bytes]",
    wholes: Sequence[Stream],
    share: float,
    options: argparse.Namespace,
    *,
    worker: bool,
) -> dict[str, Any]:
    """Runs the streams, kills the victim when each has that share of its text, and compares."""
    streams = [Stream(whole.number, enough=max(1, round(share * len(whole.reply)))) for whole in wholes]
    async with Agent(token=road.token, url=road.url) as agent:
        running = [asyncio.create_task(follow(agent, stream, options.tokens)) for stream in streams]
        await asyncio.gather(*(stream.begun.wait() for stream in streams))
        killed = time.time()
        victim.send_signal(signal.SIGKILL)
        noticed_s = await noticed(agent, killed) if worker else 0.0
        await asyncio.gather(*running)
    for stream, whole in zip(streams, wholes, strict=True):
        if stream.error or stream.reply != whole.reply or stream.text != whole.reply:
            print(f"stream {stream.number}: {stream.error or 'its text differs'}")
    resumed = resumed_calls(
        road.folder, {stream.call_id: stream.worker for stream in streams if stream.worker not in ("", SECOND)}
    )
    return judge(streams, wholes, killed, noticed_s, resumed)


def judge(
    streams: Sequence[Stream],
    wholes: Sequence[Stream],
    killed: float,
    noticed_s: float,
    resumed: dict[str, Resumed],
) -> dict[str, Any]:
    """The figures of one kill, at that Unix time."""
    pairs = list(zip(streams, wholes, strict=True))
    at_work = [(stream, whole) for stream, whole in pairs if stream.ended >= killed]
    waits = [stream.next_after(killed) - killed for stream, _ in at_work]
    cut_waits = [stream.next_after(killed) - killed for stream, _ in at_work if stream.call_id in resumed]
    made = [whole.tokens * stream.length_at(killed) / max(1, len(whole.reply)) for stream, whole in at_work]
    begun = [found.tokens for found in resumed.values()]
    return {
        "completed": sum(stream.error is None for stream in streams),
        "identical": sum(stream.reply == whole.reply and stream.error is None for stream, whole in pairs),
        "streams_without_gap": sum(stream.text == stream.reply and stream.error is None for stream in streams),
        "at_work_when_killed": len(at_work),
        "tokens_when_killed_mean": sum(made) / max(1, len(made)),
        "tokens_when_killed_min": min(made, default=0.0),
        "tokens_of_an_answer_mean": sum(whole.tokens for whole in wholes) / len(wholes),
        "cut": len(resumed),
        **{level: sum(found.level == level for found in resumed.values()) for level in LEVELS},
        "tokens_kept_mean": sum(begun) / max(1, len(begun)),
        "noticed_s": noticed_s,
        "go_on_p50_s": quantile(waits, 0.5) if waits else 0.0,
        "go_on_p99_s": quantile(waits, 0.99) if waits else 0.0,
        "cut_go_on_p50_s": quantile(cut_waits, 0.5) if cut_waits else 0.0,
        "go_on_p99_after_noticed_s": quantile(waits, 0.99) - noticed_s if waits else 0.0,
    }


def add(report: Report, kind: str, share: float, found: dict[str, Any], streams: int) -> None:
    """Adds one kill's row, figures and bars."""
    name = f"{kind}, at {share:g}"
    report.figures[name] = {**found, "load": os.getloadavg()[0]}
    report.rows.append(
        (
            kind,
            f"{share:g}: {found['tokens_when_killed_mean']:.0f} of {found['tokens_of_an_answer_mean']:.0f}",
            f"{found['completed']} {found['identical']} {found['streams_without_gap']}",
            f"{found['at_work_when_killed']}",
            "\n".join(f"{found[level]} {level}" for level in LEVELS if found[level]) or "0",
            f"{found['noticed_s']:.2f} s",
            f"{found['go_on_p50_s']:.2f} s",
            f"{found['cut_go_on_p50_s']:.2f} s" if found["cut"] else "",
            f"{found['go_on_p99_s']:.2f} s",
            f"{found['go_on_p99_after_noticed_s']:.2f} s",
        )
    )
    for figure in ("completed", "identical", "streams_without_gap"):
        report.bars.append(Bar(f"{name}: {figure}", found[figure], streams, "calls", at_most=False))
    at_work, cut = found["at_work_when_killed"], found["cut"]
    report.bars += [
        Bar(f"{name}: at work when killed", at_work, AT_WORK_LIMIT * streams, "calls", at_most=False),
        Bar(f"{name}: cut", cut, CUT_LIMIT * streams, "calls", at_most=False),
    ]
    if kind != WITHOUT_KV:
        report.bars += [
            Bar(f"{name}: noticed after", found["noticed_s"], NOTICED_LIMIT_S, "s"),
            Bar(f"{name}: goes on after that, p99", found["go_on_p99_after_noticed_s"], GO_ON_LIMIT_S, "s"),
        ]


def main(options: argparse.Namespace) -> int:
    report = Report(
        "failover",
        f"SIGKILL in the middle of {options.streams} streams",
        (
            "killed",
            "at: tokens",
            "complete\nidentical\nno gap",
            "at\nwork",
            "cut",
            "noticed",
            "goes on\np50",
            "\nof the cut",
            "\np99",
            "p99 after\nnoticed",
        ),
    )
    wholes = in_turns(options, report)
    kills = [(kind, share) for kind in options.kill or (*KINDS, WITHOUT_KV) for share in options.at]
    for kind, share in kills:
        if kind == WITHOUT_KV and share != options.at[-1]:
            continue
        with two_workers(kind, options, stores_kv=kind != WITHOUT_KV) as (road, victim):
            found = asyncio.run(disturbed(road, victim, wholes, share, options, worker=kind.startswith("worker")))
        add(report, kind, share, found, options.streams)
    return report.finish(options)


def a_share(text: str) -> float:
    """A share of a stream, of which something is left."""
    share = float(text)
    if not 0 <= share < 1:
        raise argparse.ArgumentTypeError("a share is at least 0 and less than 1")
    return share


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=96, help="longest answer")
    parser.add_argument(
        "--at",
        type=a_share,
        nargs="+",
        default=[0.02, 0.5],
        help="shares of its text each stream has at the kill; far above 0.5 the faster engine has done all of its own",
    )
    parser.add_argument("--kill", action="append", choices=(*KINDS, WITHOUT_KV), help="by default each of them in turn")
    sys.exit(main(read_options(parser)))
