"""What keeping conversations costs, and whether one of four windows' length still works.

    make bench-context            # table and results/context.json
    make bench-context CHECK=1    # exit status 1 if a bar is missed

Control plane: the whole road as `aios up` starts it, every write on disk before it is answered, one call at a time:
what opening, appending, reading, forking, snapshot and restore take at 32 k tokens; and whether random contexts come
back byte for byte. Store: where parts of the log are kept, a KV bucket, beside the object store. Windows: the real
small model with a window of 8 k tokens is asked for facts pinned at the beginning of a conversation of 32 k, under
each policy; and what compressing it costs and saves. Forks: one answer is paused and gone on with five times, and how
much of it the engine had to compute again. `--parts`, `--tokens`, `--window` and `--rounds` shorten a run.
`--larger-model` asks one of half a billion parameters instead.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import nats
import uvloop
from conversation import fill, timed, turn
from fork_figures import measure_forks, show_forks
from larger_model import larger_model
from report import Bar, Report, quantile, read_options
from road import Road, running_road
from window_figures import POLICIES, measure_windows, show_windows

from aios import Agent
from aios_stack.nats_config import render_open

SNAPSHOT_RESTORE_LIMIT_MS = 50.0
APPEND_LIMIT_MS = 10.0
T = TypeVar("T")


# Control plane


async def measure_control_plane(road: Road, tokens: int, rounds: int, contexts: int) -> dict[str, Any]:
    samples: dict[str, list[float]] = {}

    async def take(name: str, work: Awaitable[T]) -> T:
        took, result = await timed(work)
        samples.setdefault(name, []).append(took)
        return result

    async with Agent(token=road.token, url=road.url) as agent:
        talk = await agent.contexts.open("large")
        size = await fill(talk, tokens)
        whole = await talk.get()
        for number in range(rounds):
            small = await take("open", agent.contexts.open(messages=[turn(number)]))
            await take("append", small.append([turn(number)]))
            await take("append at 32k", talk.append([turn(number, 10)]))
            await take("get", talk.get())
            fork = await take("fork", talk.fork())
            begun = time.perf_counter()
            kept = await take("snapshot", talk.snapshot())
            back = await take("restore", agent.contexts.restore(kept))
            samples.setdefault("snapshot and restore", []).append((time.perf_counter() - begun) * 1000)
            if (await back.get()).digest != kept.digest:
                raise RuntimeError("a restored context is not the one that was kept")
            await asyncio.gather(fork.close(), back.close(), small.close(), agent.contexts.discard(kept))
        different = await compare_random(agent, contexts)
    return {
        "tokens": size,
        "bytes": whole.bytes,
        "turns": whole.turns,
        "ms": {name: {"p50": quantile(took, 0.5), "p99": quantile(took, 0.99)} for name, took in samples.items()},
        "random_contexts": contexts,
        "different": different,
    }


async def compare_random(agent: Agent, count: int) -> int:
    """How many of so many random contexts differ, in any byte of any turn, from what a snapshot of them restores."""
    different = 0
    for seed in range(count):
        chance = random.Random(seed)
        talk = await agent.contexts.open()
        for _ in range(chance.randint(1, 12)):
            turns = [
                {
                    "role": chance.choice(("system", "user", "assistant")),
                    "content": "".join(map(chr, chance.choices(range(32, 0xD800), k=chance.randint(0, 3000)))),
                }
                for _ in range(chance.randint(1, 5))
            ]
            await talk.append(turns, pinned=chance.random() < 0.2)
            if chance.random() < 0.2:
                await talk.pin(0, pinned=chance.random() < 0.5)
        before = await talk.get(full=True)
        kept = await talk.snapshot()
        await talk.append("something else")
        after = await (await agent.contexts.restore(kept)).get(full=True)
        await talk.restore(kept)
        again = await talk.get(full=True)
        same = before.messages == after.messages == again.messages and before.details == after.details == again.details
        different += not (same and before.digest == after.digest == again.digest == kept.digest)
    return different


# Store


@contextlib.contextmanager
def running_bus() -> Iterator[str]:
    """A bus of its own whose writes are on disk before they are acknowledged; yields its address."""
    with tempfile.TemporaryDirectory(prefix="aios-bench-") as name:
        folder, ports = Path(name), Path(name) / "ports"
        ports.mkdir()
        (folder / "server.conf").write_text(render_open("bench", folder / "jetstream", ports))
        server = Path(sys.executable).with_name("nats-server")
        process = subprocess.Popen([server, "-c", folder / "server.conf"], stderr=subprocess.DEVNULL)
        try:
            until = time.monotonic() + 15
            while not (files := list(ports.glob("*.ports"))) or not files[0].read_text().strip():
                if time.monotonic() > until:
                    raise RuntimeError("nats-server did not start")
                time.sleep(0.02)
            yield json.loads(files[0].read_text())["nats"][0]
        finally:
            process.terminate()
            process.wait(10)


async def measure_store(url: str, rounds: int) -> dict[str, Any]:
    """Milliseconds to write and read a part of a log, in a KV bucket and in the object store."""
    nc = await nats.connect(url)
    js = nc.jetstream()
    bucket = await js.create_key_value(bucket="parts")
    objects = await js.create_object_store(bucket="objects")
    found: dict[str, Any] = {}
    for size in (16 << 10, 256 << 10):
        value = os.urandom(size)
        samples: dict[str, list[float]] = {"KV write": [], "KV read": [], "object write": [], "object read": []}
        for number in range(rounds):
            key = f"part-{size}-{number}"
            samples["KV write"].append((await timed(bucket.put(key, value)))[0])
            samples["KV read"].append((await timed(bucket.get(key)))[0])
            samples["object write"].append((await timed(objects.put(key, value)))[0])
            samples["object read"].append((await timed(objects.get(key)))[0])
        found[f"{size >> 10} KiB"] = {kind: quantile(took, 0.5) for kind, took in samples.items()}
    await nc.close()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="control,store,windows,forks", help="which parts to run")
    parser.add_argument("--tokens", type=int, default=32_768, help="of the conversation")
    parser.add_argument("--window", type=int, default=8192, help="of the real model, in tokens")
    parser.add_argument("--rounds", type=int, default=100, help="of each operation")
    parser.add_argument("--policies", default=",".join(POLICIES), help="of the windows")
    parser.add_argument("--larger-model", action="store_true", help="Qwen2.5-Coder of 0.5 B parameters")
    parser.add_argument("--contexts", type=int, default=50, help="random ones to compare")
    options = read_options(parser)
    parts = options.parts.split(",")
    report = Report("context", "Keeping conversations", ("measure", "p50", "p99"))
    if "control" in parts:
        with running_road("--engine-kind", "instant") as road:
            control = uvloop.run(measure_control_plane(road, options.tokens, options.rounds, options.contexts))
        report.figures["control"] = control
        for name, ms in control["ms"].items():
            report.rows.append((name, f"{ms['p50']:.2f} ms", f"{ms['p99']:.2f} ms"))
        both, append = control["ms"]["snapshot and restore"], control["ms"]["append at 32k"]
        report.bars += [
            Bar(
                f"p99 of snapshot and restore at {control['tokens']} tokens",
                both["p99"],
                SNAPSHOT_RESTORE_LIMIT_MS,
                "ms",
            ),
            Bar("p50 of an append to it", append["p50"], APPEND_LIMIT_MS, "ms"),
            Bar(f"of {control['random_contexts']} random contexts restored differently", control["different"], 0, ""),
        ]
    if "store" in parts:
        with running_bus() as url:
            store = report.figures["store"] = uvloop.run(measure_store(url, options.rounds))
        for size, kinds in store.items():
            for kind, ms in kinds.items():
                report.rows.append((f"{size}: {kind}", f"{ms:.2f} ms", ""))
    env = {"AIOS_ENGINE_N_CTX": str(options.window), "AIOS_ENGINE_MAX_SEQUENCES": "2"}
    env["AIOS_CONTEXT_SUMMARY_DEADLINE_S"] = "3000"  # a machine that does other work takes minutes to read 8 k tokens
    if options.larger_model:
        env["AIOS_ENGINE_MODEL"] = str(larger_model())
    if "windows" in parts:
        with running_road(env=env) as road:
            windows = report.figures["windows"] = uvloop.run(
                measure_windows(road, options.tokens, options.window - 256, options.policies.split(","))
            )
        show_windows(report, windows)
    if "forks" in parts:
        with running_road(env=env | {"AIOS_ENGINE_N_CTX": "2048", "AIOS_ENGINE_MAX_SEQUENCES": "6"}) as road:
            forks = report.figures["forks"] = uvloop.run(measure_forks(road))
        show_forks(report, forks)
    return report.finish(options)


if __name__ == "__main__":
    raise SystemExit(main())
