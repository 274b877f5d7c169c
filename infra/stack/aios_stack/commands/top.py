"""`aios top`: what runs where, what waits, and why it waits."""

import asyncio
from pathlib import Path

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from aios_proto.messages.scheduler import StateResult, TenantInfo, WaitingInfo, WorkerInfo
from aios_stack.commands.operator_call import operator_of
from aios_stack.commands.options import data_option, output
from aios_stack.commands.pool import pools_table

_DEADLINE_S = 5.0


@click.command()
@click.option("--interval", default=1.0, show_default=True, type=click.FloatRange(0.1, 60), help="Seconds.")
@click.option("--once", is_flag=True, help="Print it once and end; so does a pipe or a file as output.")
@data_option
def top(interval: float, once: bool, data: Path | None) -> None:
    """Watch the scheduler: workers with their memory, tenants in the order they are served, calls that wait and why."""
    url, token = operator_of(data)
    console = output()
    if once or not console.is_terminal:
        interval = 0.0
    try:
        asyncio.run(_watch(url, token, interval, console))
    except KeyboardInterrupt:
        console.print()


async def _watch(url: str, token: str, interval: float, console: Console) -> None:
    """Shows the state every `interval` seconds; 0 shows it once."""
    from aios import Agent  # brings the SDK, for which `aios --help` need not wait

    async with Agent(token=token, url=url) as operator:

        async def shown() -> Group:
            call = operator.syscall("scheduler", "state", deadline_s=_DEADLINE_S)
            return _shown(StateResult.model_validate((await call).result))

        if not interval:
            console.print(await shown())
            return
        with Live(await shown(), console=console, auto_refresh=False, screen=True) as live:
            while True:
                await asyncio.sleep(interval)
                live.update(await shown(), refresh=True)


def _shown(state: StateResult) -> Group:
    counts = f"{state.running} run, {state.queued} wait, {state.held} wait for other calls"
    head = Text(f"policy {state.policy}, scheduler {state.instance} (fence {state.fence}): {counts}")
    parts: list[Text | Table] = [head, Text(), pools_table(state.pools), Text(), _workers(state.workers)]
    if state.tenants:
        parts += [Text(), _tenants(state.tenants)]
    if state.waiting:
        parts += [Text(), _waiting(state.waiting)]
    return Group(*parts)


def _workers(workers: list[WorkerInfo]) -> Table:
    table = Table("WORKER", "MODEL", "STATE", "RUNNING", "KV TOKENS", "PROGRAMS", "SEEN", box=None, pad_edge=False)
    for each in workers:
        memory = "-" if each.kv_tokens is None else f"{each.kv_used} of {each.kv_tokens}"
        running = f"{each.running} of {each.in_flight_limit}"
        seen = f"{each.seen_s_ago:.1f} s ago"
        name = f"{each.pool}/{each.worker}"
        table.add_row(*map(Text, (name, each.model, each.state, running, memory, str(each.residents), seen)))
    return table


def _tenants(tenants: list[TenantInfo]) -> Table:
    table = Table("TENANT", "POOL", "WEIGHT", "SERVED", "WAIT", "RUN", box=None, pad_edge=False)
    for each in tenants:
        counts = (f"{each.counter:.0f}", str(each.queued), str(each.running))
        table.add_row(*map(Text, (each.tenant, each.pool, f"{each.weight:g}", *counts)))
    return table


def _waiting(waiting: list[WaitingInfo]) -> Table:
    table = Table("CALL", "AGENT", "POOL", "PRIORITY", "WAITED", "DEADLINE", "TOKENS", "WHY", box=None, pad_edge=False)
    for each in waiting:
        deadline = "-" if each.deadline_in_s is None else f"in {each.deadline_in_s:.1f} s"
        agent = f"{each.tenant}.{each.agent}"
        waited = f"{each.waited_s:.1f} s"
        row = (each.id, agent, each.pool, str(each.priority), waited, deadline, str(each.needs_tokens), each.why)
        table.add_row(*map(Text, row))
    return table
