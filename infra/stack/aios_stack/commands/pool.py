"""`aios pool`: what each pool of workers goes by, changed while calls wait; and workers that get nothing new."""

from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from aios_proto.errors import InvalidRequest
from aios_proto.messages.base import Empty
from aios_proto.messages.scheduler import DrainRequest, PolicyRequest, PolicyResult, PoolInfo, StateResult, WorkerInfo
from aios_stack.commands.operator_call import ask, checked
from aios_stack.commands.options import data_option, output

POLICIES = ("aios", "edf", "fair", "fifo", "las", "priority", "rr")


@click.group()
def pool() -> None:
    """Manage pools: at AIOS_URL with AIOS_TOKEN where both are set, else at the stack of the data folder."""


@pool.command(name="ls")
@data_option
def list_pools(data: Path | None) -> None:
    """List the pools, what is in force in each, and what waits and runs there."""
    state = StateResult.model_validate(ask(data, "scheduler", "state", Empty()))
    output().print(pools_table(state.pools))


@pool.command(name="set")
@click.argument("name", required=False)
@click.option("--policy", type=click.Choice(POLICIES), help="Order of the queue.")
@click.option("--weight", "weights", multiple=True, metavar="TENANT=SHARE", help="All shares at once; others have 1.")
@click.option("--flood-share", type=float, help="What a tenant that floods may have of each other's; 0 is unlimited.")
@click.option("--queue-per-tenant", type=int, help="Calls of one tenant that may wait.")
@click.option("--queue-total", type=int, help="Calls that may wait in all.")
@click.option("--reset", is_flag=True, help="Forget first what was set before.")
@data_option
def set_pool(
    name: str | None,
    policy: str | None,
    weights: tuple[str, ...],
    flood_share: float | None,
    queue_per_tenant: int | None,
    queue_total: int | None,
    reset: bool,
    data: Path | None,
) -> None:
    """Decide otherwise in pool NAME, or in all pools that have nothing of their own. No waiting call is lost."""
    request = checked(
        PolicyRequest,
        pool=name,
        policy=policy,
        tenant_weights=_shares(weights) if weights else None,
        flood_share=flood_share,
        queue_per_tenant=queue_per_tenant,
        queue_total=queue_total,
        reset=reset,
    )
    made = PolicyResult.model_validate(ask(data, "scheduler", "policy", request))
    where = f"pool {made.pool}" if made.pool else "pools without rules of their own"
    changed = f"policy {made.after}" if made.after == made.before else f"policy {made.after} (was {made.before})"
    shares = "".join(f", {tenant} has {share:g}" for tenant, share in sorted(made.tenant_weights.items()))
    flood = "" if made.flood_share is None else f", flood share {made.flood_share:g}"
    bounds = f"{made.queue_total} may wait, {made.queue_per_tenant} of a tenant"
    click.echo(f"{where}: {changed}, {bounds}{shares}{flood}")


@pool.command()
@click.argument("worker", metavar="[POOL/]WORKER")
@click.option("--undo", is_flag=True, help="Give it calls again.")
@data_option
def drain(worker: str, undo: bool, data: Path | None) -> None:
    """Give a worker no new calls; those it runs go on to their ends."""
    where, _, name = worker.rpartition("/")
    request = checked(DrainRequest, worker=name, drain=not undo, **({"pool": where} if where else {}))
    info = WorkerInfo.model_validate(ask(data, "scheduler", "drain", request))
    click.echo(f"{info.pool}/{info.worker} is {info.state} and runs {info.running}")


def pools_table(pools: list[PoolInfo]) -> Table:
    """One row a pool."""
    table = Table("POOL", "POLICY", "WORKERS", "RUN", "WAIT", "OF AT MOST", "SHARES", box=None, pad_edge=False)
    for each in pools:
        shares = [f"{tenant} {share:g}" for tenant, share in sorted(each.tenant_weights.items())]
        shares += [] if each.flood_share is None else [f"flood {each.flood_share:g}"]
        bounds = f"{each.queue_total}, {each.queue_per_tenant} of a tenant"
        counts = (str(each.workers), str(each.running), str(each.queued))
        table.add_row(*map(Text, (each.pool, each.policy, *counts, bounds, ", ".join(shares) or "-")))
    return table


def _shares(given: tuple[str, ...]) -> dict[str, float]:
    shares: dict[str, float] = {}
    for text in given:
        tenant, separator, share = text.partition("=")
        try:
            shares[tenant] = float(share)
        except ValueError:
            separator = ""
        if not separator:
            raise InvalidRequest(f"{text!r} is no TENANT=SHARE", field="weight")
    return shares
