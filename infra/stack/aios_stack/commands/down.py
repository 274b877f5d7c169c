"""`aios down`: ends everything, what a killed supervisor left behind included."""

from pathlib import Path

import click

from aios_proto.errors import InternalError
from aios_stack.commands.options import data_option
from aios_stack.data_folder import DataFolder
from aios_stack.detached import stop
from aios_stack.leftovers import end_leftovers


@click.command()
@data_option
@click.option("--timeout", "timeout_s", type=float, default=60, show_default=True, help="Seconds to wait.")
def down(data: Path | None, timeout_s: float) -> None:
    """Stop everything that `aios up` started; data stays."""
    folder = DataFolder.find(data)
    state = folder.read_state()
    if state is None:
        click.echo(f"no stack has run in {folder.path}")
        return
    if folder.is_running():
        if not stop(folder, state, timeout_s):
            raise InternalError(f"the supervisor (pid {state.supervisor_pid}) has not ended after {timeout_s:g} s")
        click.echo("stopped")
        return
    ended = end_leftovers(state)
    click.echo(f"stopped what was left behind: {', '.join(ended)}" if ended else "nothing is running")
