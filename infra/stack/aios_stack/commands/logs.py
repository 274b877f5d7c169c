"""`aios logs`: the end of one process' log, or of all."""

import time
from collections import deque
from pathlib import Path
from typing import TextIO

import click

from aios_proto.errors import ResourceNotFound
from aios_stack.commands.options import data_option
from aios_stack.data_folder import DataFolder

_FOLLOW_INTERVAL_S = 0.25


@click.command()
@click.argument("name", required=False)
@data_option
@click.option("-n", "--lines", type=click.IntRange(0), default=40, show_default=True, help="Lines of each log.")
@click.option("-f", "--follow", is_flag=True, help="Go on printing what is added, until Ctrl-C.")
def logs(name: str | None, data: Path | None, lines: int, follow: bool) -> None:
    """Print the log of process NAME, or of all processes."""
    folder = DataFolder.find(data)
    known = folder.logs()
    if name is not None and name not in known:
        raise ResourceNotFound(f"no log of {name!r}; there are: {', '.join(known) or 'none'}", field="name")
    names = [name] if name is not None else known
    prefix = {each: f"{each:>12} | " if name is None else "" for each in names}
    files: dict[str, TextIO] = {}
    try:
        for each in names:
            files[each] = folder.log(each).open(errors="replace")
            for line in deque(files[each], maxlen=lines):
                click.echo(prefix[each] + line.rstrip("\n"))
        while follow:
            _print_added(files, prefix)
            time.sleep(_FOLLOW_INTERVAL_S)
    except KeyboardInterrupt:
        return
    finally:
        for file in files.values():
            file.close()


def _print_added(files: dict[str, TextIO], prefix: dict[str, str]) -> None:
    for name, file in files.items():
        for line in file:
            click.echo(prefix[name] + line.rstrip("\n"))
