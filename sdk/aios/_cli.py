"""The `aios` command: a group whose commands come from installed packages (entry-point group `aios.commands`).

Each entry point is an iterable of click commands. An error of AIOS is one line and exit code 1.
"""

import sys
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points

import click

from aios_proto.errors import AiosError

ENTRY_POINTS = "aios.commands"


class AiosGroup(click.Group):
    """Turns errors of AIOS into one line on standard error."""

    def invoke(self, ctx: click.Context) -> object:
        """Runs the command.

        Raises:
            SystemExit: with code 1 where it failed.
        """
        try:
            return super().invoke(ctx)
        except AiosError as error:
            click.echo(f"aios: {describe(error)}", err=True)
            ctx.exit(1)


def describe(error: AiosError) -> str:
    """One line on an error: what, where in the input, what to do next."""
    line = str(error)
    if error.retryable:
        when = f" in {error.retry_after_s:g} s" if error.retry_after_s is not None else " later"
        line += f"; try again{when}"
    if error.syscall_id is not None:
        line += f" (call {error.syscall_id})"
    if error.trace_id is not None:
        line += f"; see `aios trace {error.trace_id}`"
    return line


def build_group(found: Iterable[EntryPoint]) -> click.Group:
    """The group with all commands of the given entry points; one that cannot be loaded is named and left out."""
    group = AiosGroup("aios", help="An operating system for LLM agents.", context_settings={"max_content_width": 110})
    click.version_option(package_name="aios-sdk", prog_name="aios")(group)
    for entry in sorted(found, key=lambda each: each.name):
        try:
            commands: Iterable[click.Command] = entry.load()
        except ImportError as error:
            click.echo(f"aios: the commands of {entry.name!r} cannot be loaded: {error}", err=True)
            continue
        for command in commands:
            group.add_command(command)
    return group


def main() -> None:
    """The entry point of the `aios` command."""
    sys.exit(build_group(entry_points(group=ENTRY_POINTS))())


if __name__ == "__main__":
    main()
