"""What memory and storage cost: calls on the whole road, searches, recall, eviction, and what outlives kills.

    make bench-managers            # table and results/managers.json; about 15 minutes
    make bench-managers CHECK=1    # exit status 1 if a bar is missed

A short run to see that it works: `python benchmarks/managers.py --quick`. With kills of memory, storage and the
bus: `--parts kills --kills 20`, which writes results/managers-kills.json.
The reference kernel's figures for comparison: get 5 to 7 ms, write 13 to 16 ms, retrieve 2.9 s.
"""

import argparse
import asyncio
import sys

import uvloop
from memory_figures import QUERIES, measure_eviction, measure_kills, measure_recall, measure_road, measure_search
from part import Part
from real_texts import docstrings
from report import Report, read_options
from road import Road, running_road
from storage_figures import killed, latencies, storage_bars

from aios_stack.data_folder import DataFolder

_PARTS = ("road", "search", "recall", "eviction", "kills", "storage")


async def measure(road: Road, options: argparse.Namespace, texts: list[str]) -> list[Part]:
    """All parts that were asked for, in order."""
    parts: list[Part] = []
    if "road" in options.parts:
        parts.append(await measure_road(road, options.calls, texts))
    if "storage" in options.parts:
        parts.append(await measure_files(road, 10 if options.quick else 100))
    if "search" in options.parts:
        parts.append(await measure_search(road, options.vectors, texts))
    if "recall" in options.parts:
        parts.append(await measure_recall(_embedder(road), texts, options.texts))
    if "eviction" in options.parts:
        parts.append(await asyncio.to_thread(measure_eviction, options.uses))
    if options.kills and "kills" in options.parts:
        memory, files = await asyncio.gather(
            measure_kills(road, options.kills, options.operations),
            measure_killed_files(road, options.kills, options.files),
        )
        parts += [memory, files]
    return parts


async def measure_killed_files(road: Road, kills: int, calls: int) -> Part:
    """Storage killed under mixed file operations, beside the kills of memory and the bus."""
    part = Part(f"kill -9 of storage beside it, {calls} file operations")
    part.figures |= await killed(road, kills, calls, ("storage",))
    part.add("kills", part.figures["kills"], "")
    for what in ("lost", "doubled"):
        part.add(what, part.figures[what], "versions", 0)
    return part


async def measure_files(road: Road, rounds: int) -> Part:
    """The storage manager's calls; more of it is in `make bench-storage`."""
    part = Part("storage, whole road")
    found = await latencies(road, rounds)
    for what, times in found.items():
        part.add(f"{what} p50", times["p50_ms"], "ms")
        part.add(f"{what} p95", times["p95_ms"], "ms")
    part.bars += storage_bars(found)
    return part


def _embedder(road: Road) -> str:
    state = DataFolder(road.folder).read_state()
    if state is None:
        raise RuntimeError("the stack left no state")
    return f"http://127.0.0.1:{state.ports['embedder.http']}"


def main() -> int:
    """Runs the parts and reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=list(_PARTS))
    parser.add_argument("--calls", type=int, default=1000, help="gets and adds on the whole road")
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--texts", type=int, default=20_000, help="real texts for recall")
    parser.add_argument("--uses", type=int, default=200_000, help="uses in the eviction trace")
    parser.add_argument("--kills", type=int, default=0, help="rounds with kills; 0 leaves them out")
    parser.add_argument("--operations", type=int, default=1000, help="operations in each of these rounds")
    parser.add_argument("--files", type=int, default=10_000, help="file operations beside all rounds with kills")
    options = read_options(parser)
    if options.quick:
        options.calls, options.vectors, options.texts, options.uses = 100, 5000, 1000, 20_000
        options.operations, options.files = min(options.operations, 300), min(options.files, 300)
    texts = docstrings(max(2000, options.texts + QUERIES))
    with running_road("--engine-kind", "instant") as road:
        parts = uvloop.run(measure(road, options, texts))
    name = "managers-kills" if options.parts == ["kills"] else "managers"
    report = Report(name, "Memory and storage", ("part", "figure", "value", "bar"))
    for part in parts:
        report.rows += part.rows
        report.bars += part.bars
        report.figures[part.name] = part.figures
    report.figures["sizes"] = {
        name: value for name, value in vars(options).items() if name not in ("check", "out", "recorded")
    }
    return report.finish(options)


if __name__ == "__main__":
    sys.exit(main())
