"""What all commands of a stack share: where its data lies, and how wide their output may be."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click
from rich.console import Console

from aios_proto.errors import ResourceNotFound
from aios_stack.data_folder import DataFolder, StackState

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
    """The state of the stack that runs in the folder.

    Raises:
        ResourceNotFound: none does.
    """
    state = folder.read_state()
    if state is None or not folder.is_running():
        raise ResourceNotFound(f"no stack is running in {folder.path}; start one with `aios up`")
    return state


def output() -> Console:
    """Standard output; a file or a pipe has no edge at which lines would be cut."""
    console = Console()
    return console if console.is_terminal else Console(width=_FILE_WIDTH)
