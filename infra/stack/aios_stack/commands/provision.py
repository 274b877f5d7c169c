"""`aios provision`: secrets and bus configurations for an installation of several machines or containers."""

from pathlib import Path

import click

from aios_proto.errors import InvalidRequest
from aios_stack.provision import ClusterLayout, provision_nodes
from aios_stack.secret_files import Owner


@click.command()
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder to write to.")
@click.option("--nodes", default="nats", show_default=True, help="Host names of the bus' nodes, comma-separated.")
@click.option("--store-dir", default="/data/jetstream", show_default=True, help="JetStream's folder on each node.")
@click.option("--tls-dir", help="TLS: where each node finds its certificate, from `secrets/`, once you put it there.")
@click.option("--tenant", default="default", show_default=True, help="Tenant of the operator.")
@click.option("--owner", help="UID or UID:GID that the secrets are given to; needs root.")
def provision(out: Path, nodes: str, store_dir: str, tls_dir: str | None, tenant: str, owner: str | None) -> None:
    """Write keys, credentials and nats-server configurations. Running it again keeps all secrets."""
    names = tuple(name.strip() for name in nodes.split(",") if name.strip())
    layout = ClusterLayout(names, store_dir=store_dir, tls_dir=tls_dir)
    for path in provision_nodes(out, layout, owner=_owner(owner), tenant=tenant).values():
        click.echo(path)
    click.echo(out / "secrets" / "operator.token")


def _owner(text: str | None) -> Owner | None:
    if text is None:
        return None
    uid, _, gid = text.partition(":")
    try:
        return Owner(int(uid), int(gid or uid))
    except ValueError as error:
        raise InvalidRequest(f"{text!r} is not UID or UID:GID", field="owner") from error
