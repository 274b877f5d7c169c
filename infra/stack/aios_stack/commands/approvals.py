"""`aios approvals`: shows the calls that wait for a human, and lets them pass or refuses them."""

import time
from pathlib import Path

import click
from rich.table import Table

from aios_proto.messages.access import ApprovalDecision, ApprovalInfo, ApprovalListRequest, ApprovalListResult
from aios_stack.commands.operator_call import ask_access, checked
from aios_stack.commands.options import data_option, output


@click.group()
def approvals() -> None:
    """Decide on calls that need a human's consent: at AIOS_URL with AIOS_TOKEN, else at the stack of the folder."""


@approvals.command(name="list")
@click.option("--all", "every", is_flag=True, help="Also those that were decided lately.")
@click.option("--tenant", help="Default is the operator's.")
@data_option
def list_approvals(every: bool, tenant: str | None, data: Path | None) -> None:
    """List the calls that wait, oldest first, with what each will do."""
    request = ApprovalListRequest.model_validate({"all": every, "tenant": tenant})
    found = ApprovalListResult.model_validate(ask_access(data, "approvals", request)).approvals
    table = Table("ID", "AGENT", "STATE", "LEFT", "TAINT", "WHAT WILL HAPPEN", box=None, pad_edge=False)
    for each in found:
        taint = ", ".join(each.taint) or "-"
        table.add_row(each.approval_id, f"{each.tenant}.{each.agent}", each.state, _left(each), taint, each.summary)
    output().print(table, markup=False)


@approvals.command()
@click.argument("approval_id")
@click.option("--reason", help="Kept in the audit log.")
@click.option("--tenant", help="Default is the operator's.")
@data_option
def approve(approval_id: str, reason: str | None, tenant: str | None, data: Path | None) -> None:
    """Let the call pass that waits under APPROVAL_ID. It runs once."""
    _decide(data, "approve", approval_id, reason, tenant)


@approvals.command()
@click.argument("approval_id")
@click.option("--reason", help="Told to the agent, and kept in the audit log.")
@click.option("--tenant", help="Default is the operator's.")
@data_option
def deny(approval_id: str, reason: str | None, tenant: str | None, data: Path | None) -> None:
    """Refuse the call that waits under APPROVAL_ID."""
    _decide(data, "deny", approval_id, reason, tenant)


def _decide(data: Path | None, operation: str, approval_id: str, reason: str | None, tenant: str | None) -> None:
    request = checked(ApprovalDecision, approval_id=approval_id, reason=reason, tenant=tenant)
    info = ApprovalInfo.model_validate(ask_access(data, operation, request))
    click.echo(f"{info.approval_id} is {info.state}: {info.summary}")


def _left(info: ApprovalInfo) -> str:
    if info.state != "pending":
        return "-"
    seconds = max(0, info.expires_ms // 1000 - int(time.time()))
    return f"{seconds // 60} min {seconds % 60} s"
