"""What callers notice when a worker, or its engine, is killed in the middle of many streams.

    make bench-failover            # table and results/failover.json
    make bench-failover CHECK=1    # exit status 1 if a bar is missed

A whole system with two workers, each with an engine of its own, or both with the same. Many greedy calls stream at the
same time; when all have begun, one worker or one engine gets SIGKILL. Every call must complete with the text it has
when nothing happens, and its stream must have no gap and no repeat. The time to go on
is counted from the kill until the caller has the next new character. A worker's death counts as noticed when
`llm.models` offers one worker less, asked again and again; an engine's at once, because its worker's connection breaks.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from report import Bar, Report, quantile
from road import Road, running_road
from running_engine import RunningEngine, free_port, running_engine, wait_until_answers

from aios import Agent
from aios_stack.data_folder import DataFolder

SECOND = "llm-second"
PROMPT = "Write about the number {}:"
NOTICED_LIMIT_S = 1.0
GO_ON_LIMIT_S = 2.0
"""After it is noticed."""
ASK_AGAIN_S = 0.01
CALL_DEADLINE_S = 550


@dataclass
class Stream:
    """One call as its caller sees it."""

    number: int
    text: str = ""
    reply: str = ""
    worker: str = ""
    pieces: list[float] = field(default_factory=list)
    error: str | None = None
    begun: asyncio.Event = field(default_factory=asyncio.Event)


@contextlib.contextmanager
def second_worker(road: Road, engine_url: str, in_flight: int) -> Iterator["subprocess.Popen[bytes]"]:
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
        "AIOS_LLM_IN_FLIGHT": str(in_flight),
        "AIOS_HTTP_PORT": str(port),
        "AIOS_LOG_LEVEL": "error",
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


async def follow(agent: Agent, stream: Stream, tokens: int, written: int) -> None:
    """One call from its first to its last piece; it has begun when so many characters of it are there."""
    try:
        # A program of its own: the calls of one would all go to the worker that has its KV.
        with agent.run("stream", program=f"stream-{stream.number}-{time.time_ns()}"):
            call = agent.llm.complete(PROMPT.format(stream.number), max_tokens=tokens, deadline_s=CALL_DEADLINE_S)
            async for piece in call:
                stream.text += piece
                stream.pieces.append(time.time())
                if len(stream.text) >= written:
                    stream.begun.set()
            reply = await call
        stream.reply, stream.worker = reply.text, reply.worker or ""
    except Exception as error:
        stream.error = f"{type(error).__name__}: {error}"
    finally:
        stream.begun.set()


async def noticed(agent: Agent, killed: float) -> float:
    """Seconds from the kill until the scheduler counts one worker less."""
    while True:
        models = await agent.llm.models(deadline_s=10)
        if sum(model.workers for model in models) <= 1:
            return time.time() - killed
        await asyncio.sleep(ASK_AGAIN_S)  # there is no event for it that an agent may hear


async def scenario(
    road: Road, args: argparse.Namespace, victim: "subprocess.Popen[bytes]", *, worker: bool
) -> dict[str, float]:
    """Runs the streams, kills the victim in their middle, and compares."""
    async with Agent(token=road.token, url=road.url) as agent:
        alone = [Stream(number) for number in range(args.streams)]
        await asyncio.gather(*(follow(agent, stream, args.tokens, args.written) for stream in alone))
        streams = [Stream(number) for number in range(args.streams)]
        running = [asyncio.create_task(follow(agent, stream, args.tokens, args.written)) for stream in streams]
        await asyncio.gather(*(stream.begun.wait() for stream in streams))
        killed = time.time()
        victim.send_signal(signal.SIGKILL)
        noticed_s = await noticed(agent, killed) if worker else 0.0
        await asyncio.gather(*running)
    waits = [next((at for at in stream.pieces if at >= killed), killed) - killed for stream in streams]
    still = sum(bool(stream.pieces) and stream.pieces[-1] >= killed for stream in streams)
    for stream, whole in zip(streams, alone, strict=True):
        if stream.error or stream.reply != whole.reply or stream.text != whole.reply:
            print(f"stream {stream.number}: {stream.error or 'its text differs'}")
    return {
        "completed": sum(stream.error is None for stream in streams),
        "identical": sum(s.reply == w.reply and s.error is None for s, w in zip(streams, alone, strict=True)),
        "streams_without_gap": sum(s.text == s.reply and s.error is None for s in streams),
        "streaming_when_killed": still,
        "on_second_worker_before": sum(stream.worker == SECOND for stream in alone),
        "on_second_worker_after": sum(stream.worker == SECOND for stream in streams),
        "noticed_s": noticed_s,
        "go_on_p50_s": quantile(waits, 0.5),
        "go_on_p99_s": quantile(waits, 0.99),
    }


def run(kind: str, args: argparse.Namespace) -> dict[str, float]:
    half = (args.streams + 1) // 2
    each = {"n_ctx": "256", "max_sequences": str(args.streams)}

    def played(first: RunningEngine, second: RunningEngine) -> dict[str, float]:
        with (
            running_road("--engine-url", first.url, env={"AIOS_LLM_IN_FLIGHT": str(args.streams)}) as road,
            second_worker(road, second.url, half) as worker,
        ):
            return asyncio.run(
                scenario(road, args, second.process if kind == "engine" else worker, worker=kind != "engine")
            )

    with running_engine(**each) as first:
        if kind == "worker, same engine":
            return played(first, first)
        with running_engine(**each) as second:
            return played(first, second)


def main(args: argparse.Namespace) -> int:
    report = Report(
        "failover",
        f"SIGKILL in the middle of {args.streams} streams",
        (
            "killed",
            "completed",
            "identical",
            "no gap or repeat",
            "at work",
            "2nd's before",
            "after",
            "noticed",
            "goes on p50",
            "p99",
        ),
    )
    for kind in args.kill:
        found = run(kind, args)
        report.figures[kind] = found
        report.rows.append(
            (
                kind,
                f"{found['completed']:.0f} of {args.streams}",
                f"{found['identical']:.0f}",
                f"{found['streams_without_gap']:.0f}",
                f"{found['streaming_when_killed']:.0f}",
                f"{found['on_second_worker_before']:.0f}",
                f"{found['on_second_worker_after']:.0f}",
                f"{found['noticed_s']:.2f} s",
                f"{found['go_on_p50_s']:.2f} s",
                f"{found['go_on_p99_s']:.2f} s",
            )
        )
        for name in ("completed", "identical", "streams_without_gap"):
            report.bars.append(Bar(f"{kind}: {name}", found[name], args.streams, "calls", at_most=False))
        after_s = found["go_on_p99_s"] - found["noticed_s"]
        report.bars.append(Bar(f"{kind}: noticed after", found["noticed_s"], NOTICED_LIMIT_S, "s"))
        report.bars.append(Bar(f"{kind}: goes on after that, p99", after_s, GO_ON_LIMIT_S, "s"))
    return report.finish(check=args.check)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--written", type=int, default=1, help="characters each stream has when the kill comes")
    parser.add_argument("--kill", action="append", choices=["worker, same engine", "worker", "engine"])
    chosen = parser.parse_args()
    chosen.kill = chosen.kill or ["worker, same engine", "worker", "engine"]
    sys.exit(main(chosen))
