"""`aios tenant`: makes, lists and deletes tenants, by the authority of the root tenant's operator."""

from datetime import UTC, datetime
from pathlib import Path

import click
from rich.table import Table

from aios_proto.messages.access import (
    AgentCredential,
    TenantCreateRequest,
    TenantInfo,
    TenantListResult,
    TenantRef,
)
from aios_stack.commands.operator_call import ask_access, checked
from aios_stack.commands.options import data_option, output


@click.group()
def tenant() -> None:
    """Manage tenants: at AIOS_URL with AIOS_TOKEN where both are set, else at the stack of the data folder."""


@tenant.command()
@click.argument("name")
@click.option("--operator", default="operator", show_default=True, help="Name of its first operator.")
@data_option
def create(name: str, operator: str, data: Path | None) -> None:
    """Make the tenant NAME and print its operator's token, this once."""
    made = ask_access(data, "tenant.create", checked(TenantCreateRequest, tenant=name, operator=operator))
    click.echo(AgentCredential.model_validate(made).token)


@tenant.command()
@click.argument("name")
@click.confirmation_option(prompt="All its agents lose their access at once. Delete it?")
@data_option
def delete(name: str, data: Path | None) -> None:
    """Revoke all agents of the tenant NAME and forget its policies and quotas. What managers keep for it stays."""
    gone = TenantInfo.model_validate(ask_access(data, "tenant.delete", checked(TenantRef, tenant=name)))
    click.echo(f"{gone.tenant} is deleted; {gone.agents} agents are revoked")


@tenant.command(name="list")
@data_option
def list_tenants(data: Path | None) -> None:
    """List the tenants."""
    table = Table("TENANT", "AGENTS", "MADE", box=None, pad_edge=False)
    for info in TenantListResult.model_validate(ask_access(data, "tenant.list", None)).tenants:
        made = datetime.fromtimestamp(info.created_ms / 1000, UTC).isoformat(" ", "seconds") if info.created_ms else "-"
        table.add_row(info.tenant, str(info.agents), made)
    output().print(table)
