"""What the access hop costs, and how soon what an operator decides takes effect.

1. CPU of the access process for a call, with 1 000 agents, 200 policies, quotas and audit on, against a hop that only
   forwards, in turns on the same bus.
2. The same where every call's end is told to access as well, which writes it to the audit log.
3. 200 agents that connect at once, over two replicas.
4. From `agent.revoke` to the agent's connection being closed, and from `policy.put` to the last call let pass.

`--calls`, `--rounds`, `--agents`, `--changes` make it shorter.
"""

import argparse
import asyncio
import contextlib
import os
import statistics
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
import psutil
import uvloop
from bench_bus import BARE_IN, BARE_OUT, BenchBus, running_access, running_bare_hop, running_bench_bus
from nats.aio.client import Client
from nats.aio.msg import Msg
from report import Bar, Report, quantile, read_options

from aios_proto import headers as wire
from aios_proto import subjects
from aios_proto.ids import new_syscall_id
from aios_proto.kernel import PRESENCE_INTERVAL_S
from aios_proto.tokens import AgentToken

CPU_RATIO_LIMIT = 2.0
CROWD_LIMIT_S = 3.0
EFFECT_LIMIT_MS = 100.0
POLICIES = 200
CROWD = 200
IN_FLIGHT = 256
BODY = orjson.dumps({"content": "y" * 940})


@dataclass
class Bench:
    """One connection that may speak for everyone.

    Attributes:
        arrived: calls that came out of a hop.
        ends: whether each call's end is told to access.
        passed: ids of those calls, where they are asked for.
    """

    nc: Client
    arrived: int = 0
    ends: bool = False
    noting: bool = False
    passed: set[str] = field(default_factory=set)
    _waiting: dict[str, "asyncio.Future[dict[str, Any]]"] = field(default_factory=dict)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def open(self) -> None:
        await self.nc.subscribe("aios.k.memory.add", cb=self._on_call)
        await self.nc.subscribe(BARE_OUT, cb=self._on_call)
        await self.nc.subscribe("_INBOX.*.*.>", cb=self._on_frame)
        await self.nc.flush()

    async def beat(self) -> None:
        """Says that a memory manager lives."""
        body = {"manager": "memory", "instance": "bench", "operations": ["add"], "leaving": False}
        while True:
            await self.nc.publish(subjects.presence("memory", "bench"), orjson.dumps(body))
            await asyncio.sleep(PRESENCE_INTERVAL_S)

    async def operate(self, operation: str, body: dict[str, Any]) -> dict[str, Any]:
        """The result of one operation of access, as the operator."""
        call_id = new_syscall_id()
        reply = f"_INBOX.default.operator.{call_id}"
        self._waiting[reply] = future = asyncio.get_running_loop().create_future()
        await self.nc.publish(
            f"aios.sys.default.operator.access.{operation}",
            orjson.dumps(body),
            reply=reply,
            headers={wire.ID: call_id, wire.PROTO: "1"},
        )
        frame = await asyncio.wait_for(future, 20)
        if frame["type"] != "done":
            raise RuntimeError(f"{operation}: {frame}")
        result: dict[str, Any] = frame["result"]
        return result

    async def send(self, subject_of: Callable[[int], tuple[str, str]], calls: int) -> None:
        """Sends calls, at most so many of them on their way at once; returns when all have arrived."""
        goal = self.arrived + calls
        sent = 0
        while self.arrived < goal:
            while sent < calls and sent - (self.arrived - (goal - calls)) < IN_FLIGHT:
                subject, inbox = subject_of(sent)
                await self.nc.publish(
                    subject,
                    BODY,
                    reply=f"{inbox}.{sent}",
                    headers={wire.ID: new_syscall_id(), wire.PROTO: "1", wire.PROGRAM: "run-1"},
                )
                sent += 1
            self._news.clear()
            await asyncio.wait_for(self._news.wait(), 20)

    async def _on_call(self, message: Msg) -> None:
        self.arrived += 1
        self._news.set()
        if self.noting:
            self.passed.add((message.headers or {})[wire.ID])
        if self.ends:
            headers = message.headers or {}
            key = f"{headers[wire.TENANT]}.{headers[wire.AGENT]}.{headers[wire.ID]}"
            end = {"key": key, "operation": "memory.add", "at_us": time.time_ns() // 1000}
            await self.nc.publish(subjects.CALL_ENDED, orjson.dumps(end))

    async def _on_frame(self, message: Msg) -> None:
        waiting = self._waiting.pop(message.subject, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(orjson.loads(message.data))


def policy_text(number: int) -> str:
    """200 policies like those of real tenants: by agent, by group, by resource, by circumstances."""
    one = [
        f'@id("agent-{number}") permit(principal == Agent::"default.other-{number}", action in [Action::"reads"],'
        " resource);",
        f'@id("group-{number}") permit(principal in Group::"team-{number}", action in [Action::"memory"], resource);',
        f'@id("file-{number}") forbid(principal in Group::"team-{number}", action in [Action::"storage"],'
        f' resource is File) when {{ resource.name like "secret-{number}/*" }};',
        f'@id("tool-{number}") forbid(principal, action == Action::"tool.call", resource is Tool)'
        f' when {{ context.tainted && resource.name == "tool-{number}" }};',
    ]
    return "\n".join(one)


async def prepare(bench: Bench, agents: int) -> list[AgentToken]:
    """Agents, policies and quotas."""
    names = [f"agent-{number}" for number in range(agents)]
    tokens: list[AgentToken] = []
    for begin in range(0, agents, 50):
        made = await asyncio.gather(
            *(bench.operate("agent.create", {"agent": name}) for name in names[begin : begin + 50])
        )
        tokens += [AgentToken.parse(each["token"]) for each in made]
    text = "\n".join(policy_text(number) for number in range(POLICIES // 4))
    await bench.operate("policy.put", {"name": "bench", "text": text})
    await bench.operate("quota.set", {"scope": "tenant", "limits": {"calls_per_s": 10_000_000}})
    await bench.operate("quota.set", {"scope": "group", "name": "agent", "limits": {"calls_per_s": 10_000}})
    return tokens


async def measure_cpu(bus: BenchBus, calls: int, rounds: int, agents: int) -> dict[str, list[float]]:
    """CPU in microseconds a call, by hop, for each round."""
    found: dict[str, list[float]] = {"bare": [], "access": [], "access, ends too": []}
    with running_access(bus, "access-1", {"AIOS_HTTP_PORT": "0"}) as access, running_bare_hop(bus) as bare:
        async with connected(bus) as bench:
            tokens = await prepare(bench, agents)
            names = [token.agent for token in tokens]

            def to_access(number: int) -> tuple[str, str]:
                name = names[number % len(names)]
                return f"aios.sys.default.{name}.memory.add", f"_INBOX.default.{name}"

            def to_bare(_: int) -> tuple[str, str]:
                return BARE_IN, "_INBOX.default.x"

            kinds = [("bare", bare, to_bare, False), ("access", access, to_access, False)]
            kinds.append(("access, ends too", access, to_access, True))
            for number in range(rounds + 1):
                for kind, pid, to, ends in kinds:
                    bench.ends = ends
                    before = cpu_s(pid)
                    await bench.send(to, calls)
                    await asyncio.sleep(0.3)  # what is done in batches is done
                    if number:  # the first is the warm-up
                        found[kind].append((cpu_s(pid) - before) / calls * 1e6)
    return found


async def measure_crowd(bus: BenchBus, tokens: list[AgentToken]) -> float:
    """Seconds until so many agents, connecting at once, are all in."""

    async def arrive(token: AgentToken) -> Client:
        while True:
            nc = Client()
            try:
                await nc.connect(bus.url, token=str(token), allow_reconnect=False, connect_timeout=10)
                await nc.flush()
            except Exception:
                await nc.close()
            else:
                return nc

    begun = time.perf_counter()
    clients = await asyncio.gather(*(arrive(token) for token in tokens[:CROWD]))
    took = time.perf_counter() - begun
    for nc in clients:
        await nc.close()
    return took


async def measure_effects(bus: BenchBus, bench: Bench, changes: int) -> tuple[list[float], list[float]]:
    """Milliseconds until a revocation and until a policy takes effect."""
    revoked: list[float] = []
    for number in range(changes):
        made = await bench.operate("agent.create", {"agent": f"leaver-{number}"})
        nc, gone = Client(), asyncio.Event()

        async def closed(gone: asyncio.Event = gone) -> None:
            gone.set()

        async def quiet(_: Exception) -> None: ...

        await nc.connect(bus.url, token=made["token"], allow_reconnect=False, closed_cb=closed, error_cb=quiet)
        begun = time.perf_counter()
        await bench.operate("agent.revoke", {"agent": f"leaver-{number}"})
        await asyncio.wait_for(gone.wait(), 20)
        revoked.append((time.perf_counter() - begun) * 1000)
        await nc.close()
    bench.noting = True
    return revoked, [await policy_effect(bench, number) for number in range(changes)]


async def policy_effect(bench: Bench, number: int) -> float:
    """From sending `policy.put` until the last call was sent that was still judged by the policies of before.

    A call is sent each millisecond; either replica may take it.
    """
    forbid = 'forbid(principal, action == Action::"memory.add", resource);' if number % 2 == 0 else ""
    sent: dict[str, float] = {}
    bench.passed.clear()

    async def call_on() -> None:
        while True:
            call_id = new_syscall_id()
            sent[call_id] = time.perf_counter()
            await bench.nc.publish(
                "aios.sys.default.agent-0.memory.add",
                b"{}",
                reply="_INBOX.default.agent-0.1",
                headers={wire.ID: call_id, wire.PROTO: "1"},
            )
            await asyncio.sleep(0.001)

    calling = asyncio.create_task(call_on())
    await asyncio.sleep(0.05)
    begun = time.perf_counter()
    await bench.operate("policy.put", {"name": "switch", "text": forbid})
    await asyncio.sleep(0.3)
    calling.cancel()
    await asyncio.wait((calling,))
    await asyncio.sleep(0.3)
    late = [at for call_id, at in sent.items() if at > begun and (call_id in bench.passed) == bool(forbid)]
    return (max(late) - begun) * 1000 if late else 0.0


@contextlib.asynccontextmanager
async def connected(bus: BenchBus) -> AsyncIterator[Bench]:
    nc = Client()
    await nc.connect(bus.url, nkeys_seed=str(bus.seed), pending_size=64 << 20)
    bench = Bench(nc)
    await bench.open()
    beating = asyncio.create_task(bench.beat())
    await asyncio.sleep(0.2)
    try:
        yield bench
    finally:
        beating.cancel()
        await asyncio.wait((beating,))
        await nc.close()


def cpu_s(pid: int) -> float:
    """CPU seconds a process has used, in all its threads."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


async def measure_changes(bus: BenchBus, agents: int, changes: int) -> tuple[float, list[float], list[float]]:
    with running_access(bus, "access-1"), running_access(bus, "access-2"):
        async with connected(bus) as bench:
            tokens = await prepare(bench, max(CROWD, agents))
            crowd = min([await measure_crowd(bus, tokens) for _ in range(2)])
            revoked, policy = await measure_effects(bus, bench, changes)
            return crowd, revoked, policy


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=20_000, help="calls in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--changes", type=int, default=100)
    options = read_options(parser)
    os.environ.pop("OTEL_EXPORTER_OTLP_ENDPOINT", None)
    with running_bench_bus() as bus:
        cpu = uvloop.run(measure_cpu(bus, options.calls, options.rounds, options.agents))
    with running_bench_bus() as bus:
        crowd, revoked, policy = uvloop.run(measure_changes(bus, CROWD, options.changes))
    medians = {kind: statistics.median(values) for kind, values in cpu.items()}
    report = Report("access", f"The access hop: {options.agents} agents, {POLICIES} policies", ("measure", "value"))
    for kind, value in medians.items():
        report.rows.append((f"CPU a call, {kind}", f"{value:.1f} us ({value / medians['bare']:.2f} x bare)"))
    report.rows.append((f"{CROWD} agents connect at once", f"{crowd:.2f} s"))
    for what, values in (("revocation", revoked), ("policy change", policy)):
        report.rows.append((what, f"p50 {quantile(values, 0.5):.1f} ms, p99 {quantile(values, 0.99):.1f} ms"))
    report.bars = [
        Bar("access hop / bare hop, CPU", medians["access"] / medians["bare"], CPU_RATIO_LIMIT, "x"),
        Bar(f"{CROWD} agents connect at once", crowd, CROWD_LIMIT_S, "s"),
        Bar("revocation takes effect, p99", quantile(revoked, 0.99), EFFECT_LIMIT_MS, "ms"),
        Bar("policy change takes effect, p99", quantile(policy, 0.99), EFFECT_LIMIT_MS, "ms"),
    ]
    report.figures = {"cpu_us": cpu, "crowd_s": crowd, "revocation_ms": revoked, "policy_ms": policy}
    return report.finish(options)


if __name__ == "__main__":
    raise SystemExit(main())
