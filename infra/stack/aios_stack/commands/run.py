"""`aios run`: starts an agent with a credential of its own, connected and traced."""

import asyncio
import os
import sys
from pathlib import Path

import click

from aios_proto.errors import InvalidRequest
from aios_proto.names import is_name
from aios_stack.commands.options import data_option, running_state
from aios_stack.data_folder import DataFolder
from aios_stack.topology import without_proxy


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("script", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@data_option
@click.option("--as", "name", help="Name of the agent; default is the script's.")
@click.option("--group", default="agent", show_default=True, help="Privilege group of a new agent.")
def run(script: Path, args: tuple[str, ...], data: Path | None, name: str | None, group: str) -> None:
    """Run the Python program SCRIPT as an agent."""
    name = name or script.stem
    for field, value in (("as", name), ("group", group)):
        if not is_name(value):
            raise InvalidRequest(f"{value!r} is not a name: 1 to 64 letters, digits, `_` or `-`", field=field)
    folder = DataFolder.find(data)
    state = running_state(folder)
    # Brings the SDK, for which other commands need not wait.
    from aios_stack.agent_credentials import agent_token, hide_own_calls

    hide_own_calls()
    token = asyncio.run(agent_token(folder, state.url, name, group))
    env = {
        **os.environ,
        **without_proxy(os.environ),
        "AIOS_URL": state.url,
        "AIOS_TOKEN": token,
        "AIOS_DATA": str(folder.path),
        "OTEL_EXPORTER_OTLP_ENDPOINT": state.otlp_endpoint,
    }
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, str(script), *args], env)  # noqa: S606 - the user's own program
