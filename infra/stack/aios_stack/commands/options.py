"""What all commands of a stack share: where its data lies, and how wide their output may be."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click
from rich.console import Console

from aios_proto.errors import ResourceNotFound
from aios_stack.data_folder import DataFolder, StackState
from aios_stack.topology import tls_environment

_FILE_WIDTH = 400

Command = TypeVar("Command", bound=Callable[..., object])


def data_option(command: Command) -> Command:
    """Adds `--data`."""
    return click.option(
        "--data",
        type=click.Path(path_type=Path, file_okay=False),
        help="Folder of the stack; default $AIOS_DATA, else ./.aios.",
    )(command)


def running_state(folder: DataFolder) -> StackState:
    """The state of the stack that runs in the folder; from then on this process can connect to its bus.

    Raises:
        ResourceNotFound: none does.
    """
    state = folder.read_state()
    if state is None or not folder.is_running():
        raise ResourceNotFound(f"no stack is running in {folder.path}; start one with `aios up`")
    if state.agent_certificate is not None:
        # The SDK looks there, in this process and in an agent that it becomes.
        os.environ.update(tls_environment(state.agent_certificate))
    return state


def output() -> Console:
    """Standard output; a file or a pipe has no edge at which lines would be cut."""
    console = Console()
    return console if console.is_terminal else Console(width=_FILE_WIDTH)
