"""`aios agent`: makes, lists, renews and revokes agents' credentials, by the operator's authority."""

from datetime import UTC, datetime
from pathlib import Path

import click
from rich.table import Table

from aios_proto.messages.access import AgentCreateRequest, AgentListResult, AgentRef
from aios_proto.messages.base import Body
from aios_stack.commands.operator_call import ask_access, checked
from aios_stack.commands.options import data_option, output


@click.group()
def agent() -> None:
    """Manage agents: at AIOS_URL with AIOS_TOKEN where both are set, else at the stack of the data folder."""


@agent.command()
@click.argument("name")
@click.option("--group", default="agent", show_default=True, help="Privilege group.")
@click.option("--tenant", help="Default is the operator's.")
@data_option
def create(name: str, group: str, tenant: str | None, data: Path | None) -> None:
    """Make the agent NAME and print its token, this once."""
    _print_token(data, "agent.create", checked(AgentCreateRequest, agent=name, group=group, tenant=tenant))


@agent.command()
@click.argument("name")
@click.option("--tenant", help="Default is the operator's.")
@data_option
def rotate(name: str, tenant: str | None, data: Path | None) -> None:
    """Give the agent NAME a new token and print it, this once. The old one opens no new connection."""
    _print_token(data, "agent.rotate", checked(AgentRef, agent=name, tenant=tenant))


@agent.command()
@click.argument("name")
@click.option("--tenant", help="Default is the operator's.")
@data_option
def revoke(name: str, tenant: str | None, data: Path | None) -> None:
    """Take the agent NAME its rights: from now on each of its calls is denied."""
    ask_access(data, "agent.revoke", checked(AgentRef, agent=name, tenant=tenant))
    click.echo(f"{name} is revoked")


@agent.command(name="list")
@data_option
def list_agents(data: Path | None) -> None:
    """List the agents of the operator's tenant."""
    table = Table("AGENT", "GROUP", "MADE", box=None, pad_edge=False)
    for info in AgentListResult.model_validate(ask_access(data, "agent.list", None)).agents:
        made = datetime.fromtimestamp(info.created_ms / 1000, UTC).isoformat(" ", "seconds") if info.created_ms else "-"
        table.add_row(f"{info.tenant}.{info.agent}", info.group, made)
    output().print(table)


def _print_token(data: Path | None, operation: str, request: Body) -> None:
    click.echo(ask_access(data, operation, request)["token"])
