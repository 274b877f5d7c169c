"""`aios policy`: which policies are in force, putting others in force, and what they would decide."""

from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import click
from rich.table import Table

from aios_proto.messages.access import (
    PolicyCheckRequest,
    PolicyCheckResult,
    PolicyDocumentResult,
    PolicyInfo,
    PolicyListResult,
    PolicyPutRequest,
    PolicyRef,
    TenantChoice,
)
from aios_stack.commands.operator_call import ask_access, checked
from aios_stack.commands.options import data_option, output

_tenant_option = click.option("--tenant", help="Default is the operator's.")


@click.group()
def policy() -> None:
    """Manage policies: at AIOS_URL with AIOS_TOKEN where both are set, else at the stack of the data folder."""


@policy.command()
@click.argument("file", type=click.File("r", encoding="utf-8"))
@click.option("--name", default="default", show_default=True, help="Document; `default` replaces the built-in one.")
@click.option("--expect", "expect_version", type=int, help="Refuse unless this version is in force.")
@_tenant_option
@data_option
def put(file: IO[str], name: str, expect_version: int | None, tenant: str | None, data: Path | None) -> None:
    """Put the Cedar policies in FILE (`-` is standard input) in force, if they are valid."""
    request = checked(PolicyPutRequest, name=name, text=file.read(), tenant=tenant, expect_version=expect_version)
    info = PolicyInfo.model_validate(ask_access(data, "policy.put", request))
    click.echo(f"{info.tenant}: {info.name} version {info.version}, {len(info.policies)} policies")


@policy.command()
@click.argument("name", default="default")
@click.option("--version", type=int, help="One of the last 64; 0 of `default` is the built-in document.")
@_tenant_option
@data_option
def get(name: str, version: int | None, tenant: str | None, data: Path | None) -> None:
    """Print the policy document NAME."""
    request = checked(PolicyRef, name=name, tenant=tenant, version=version)
    found = PolicyDocumentResult.model_validate(ask_access(data, "policy.get", request))
    click.echo(found.text, nl=not found.text.endswith("\n"))


@policy.command(name="list")
@_tenant_option
@data_option
def list_policies(tenant: str | None, data: Path | None) -> None:
    """List the policy documents in force."""
    table = Table("DOCUMENT", "VERSION", "POLICIES", "AUTHOR", "PUT", "FAULT", box=None, pad_edge=False)
    listed = PolicyListResult.model_validate(ask_access(data, "policy.list", checked(TenantChoice, tenant=tenant)))
    for info in listed.documents:
        at = datetime.fromtimestamp(info.at_ms / 1000, UTC).isoformat(" ", "seconds") if info.at_ms else "-"
        author = info.author or "built in"
        table.add_row(info.name, str(info.version), str(len(info.policies)), author, at, info.fault or "")
    output().print(table)


@policy.command()
@click.argument("agent")
@click.argument("operation")
@click.argument("resource", required=False)
@click.option("--owner", help="Whose resource it is; default is the agent's own.")
@click.option("--tainted", is_flag=True, help="As if the program had taken in untrusted content.")
@_tenant_option
@data_option
def check(
    agent: str,
    operation: str,
    resource: str | None,
    owner: str | None,
    tainted: bool,
    tenant: str | None,
    data: Path | None,
) -> None:
    """Say whether AGENT may perform OPERATION on RESOURCE, and by which policy. Exit code 2 where it may not."""
    request = checked(
        PolicyCheckRequest,
        agent=agent,
        operation=operation,
        resource=resource,
        owner=owner,
        tainted=tainted,
        tenant=tenant,
    )
    found = PolicyCheckResult.model_validate(ask_access(data, "policy.check", request))
    click.echo(f"{found.decision}: {', '.join(found.policies) or 'no policy permits it'}")
    if found.decision == "deny":
        raise click.exceptions.Exit(2)
