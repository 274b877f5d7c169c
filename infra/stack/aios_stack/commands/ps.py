"""`aios ps`: what runs, since when, how often it was restarted, where it listens and what memory it takes."""

import time
from pathlib import Path

import click
import psutil
from rich.markup import escape
from rich.table import Table

from aios_stack.commands.options import data_option, output
from aios_stack.data_folder import DataFolder, ProcessState
from aios_stack.leftovers import find_process
from aios_stack.supervision import State

_COLOURS = {State.READY: "green", State.FAILED: "red", State.PAUSED: "red", State.STARTING: "yellow"}


@click.command()
@data_option
@click.option("--json", "as_json", is_flag=True, help="Print the supervisor's state as JSON.")
def ps(data: Path | None, as_json: bool) -> None:
    """Show the processes of the stack."""
    folder = DataFolder.find(data)
    state = folder.read_state()
    if state is None:
        click.echo(f"no stack has run in {folder.path}")
        return
    running = folder.is_running()
    if as_json:
        click.echo(state.model_dump_json(indent=2))
        return
    table = Table(box=None, pad_edge=False)
    for title in ("PROCESS", "PID", "STATE", "FOR", "RESTARTS", "PORTS", "MEMORY"):
        table.add_column(title, justify="right" if title in ("PID", "RESTARTS", "MEMORY") else "left")
    for row in state.processes:
        table.add_row(*_cells(row, running))
    console = output()
    console.print(table)
    if not running:
        console.print("the supervisor is not running; `aios up` starts everything again")


def _cells(row: ProcessState, supervised: bool) -> tuple[str, ...]:
    process = find_process(row)
    told = supervised or process is not None or row.state is State.FAILED
    state = row.state if told else State.STOPPED
    colour = _COLOURS.get(state, "default")
    text = f"[{colour}]{state.value}[/]"
    if state is State.STARTING and row.detail not in ("", state.value):
        text += f" {escape(row.detail)}"
    return (
        row.name,
        str(row.pid) if process is not None else "-",
        text,
        span_of_time(time.time() - row.since_s) if supervised else "-",
        str(row.restarts) + (f" (last exit {row.last_exit})" if row.last_exit is not None else ""),
        " ".join(f"{what}={port}" for what, port in row.ports.items()),
        _memory(process),
    )


def _memory(process: psutil.Process | None) -> str:
    if process is None:
        return "-"
    try:
        return f"{process.memory_info().rss / 2**20:.0f} MiB"
    except psutil.Error:
        return "-"


def span_of_time(seconds: float) -> str:
    """Seconds for a human: `12 s`, `3 min`, `2 h 05 min`, `4 d 03 h`."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"
