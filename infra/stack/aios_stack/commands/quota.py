"""`aios quota`: what tenants, groups, agents and programs may use, and what they use now."""

from pathlib import Path

import click
from rich.table import Table

from aios_proto.messages.access import QuotaInfo, QuotaLimits, QuotaSetRequest, QuotaShowResult, TenantChoice
from aios_stack.commands.operator_call import ask_access, checked
from aios_stack.commands.options import data_option, output

_tenant_option = click.option("--tenant", help="Default is the operator's.")


@click.group()
def quota() -> None:
    """Manage quotas: at AIOS_URL with AIOS_TOKEN where both are set, else at the stack of the data folder."""


@quota.command(name="set")
@click.argument("scope", type=click.Choice(["tenant", "group", "agent", "program"]))
@click.argument("name", required=False)
@click.option("--calls-per-s", type=int, help="Calls in each second.")
@click.option("--concurrent-calls", type=int, help="Model calls open at once.")
@click.option("--tokens", type=int, help="Tokens in each window.")
@click.option("--tokens-window-s", type=int, default=3600, show_default=True)
@click.option("--budget", type=float, help="Money in each window, by the price table AIOS_ACCESS_PRICES.")
@click.option("--budget-window-s", type=int, default=86_400, show_default=True)
@click.option("--wait-s", type=float, default=0, show_default=True, help="Soft limit: wait so long for a turn.")
@_tenant_option
@data_option
def set_quota(
    scope: str,
    name: str | None,
    calls_per_s: int | None,
    concurrent_calls: int | None,
    tokens: int | None,
    tokens_window_s: int,
    budget: float | None,
    budget_window_s: int,
    wait_s: float,
    tenant: str | None,
    data: Path | None,
) -> None:
    """Limit SCOPE (a group, agent or program called NAME, or the tenant). Without any limit the quota is removed."""
    limits = checked(
        QuotaLimits,
        calls_per_s=calls_per_s,
        concurrent_calls=concurrent_calls,
        tokens=tokens,
        tokens_window_s=tokens_window_s,
        budget=budget,
        budget_window_s=budget_window_s,
        wait_s=wait_s,
    )
    request = checked(QuotaSetRequest, scope=scope, name=name, tenant=tenant, limits=limits)
    made = QuotaInfo.model_validate(ask_access(data, "quota.set", request))
    click.echo(f"{made.scope} {made.name or ''}: {_words(made.limits) or 'no limit'}".replace(" :", ":"))


@quota.command()
@_tenant_option
@data_option
def show(tenant: str | None, data: Path | None) -> None:
    """Show the quotas, and what is used of them now."""
    table = Table("SCOPE", "NAME", "LIMITS", "TOKENS USED", "BUDGET USED", box=None, pad_edge=False)
    shown = QuotaShowResult.model_validate(ask_access(data, "quota.show", checked(TenantChoice, tenant=tenant)))
    for info in shown.quotas:
        tokens = "-" if info.used_tokens is None else str(info.used_tokens)
        budget = "-" if info.used_budget is None else f"{info.used_budget:.6g}"
        table.add_row(info.scope, info.name or "-", _words(info.limits), tokens, budget)
    output().print(table)


def _words(limits: QuotaLimits) -> str:
    words = [
        None if limits.calls_per_s is None else f"{limits.calls_per_s} calls/s",
        None if limits.concurrent_calls is None else f"{limits.concurrent_calls} open calls",
        None if limits.tokens is None else f"{limits.tokens} tokens in {limits.tokens_window_s} s",
        None if limits.budget is None else f"{limits.budget:g} in {limits.budget_window_s} s",
        f"wait {limits.wait_s:g} s" if limits.wait_s else None,
    ]
    return ", ".join(word for word in words if word)
