"""What an installation needs before anything starts: keys, credentials and the bus's configuration.

Running it again keeps every secret and writes the same configuration, so it may stand in front of every start.

| file | who reads it |
|---|---|
| `secrets/<role>.nk` | that service: its nkey seed |
| `secrets/callout-issuer.nk`, `secrets/callout-xkey.nk` | access: to answer the bus's auth callout |
| `secrets/operator.token` | the operator's commands: `<tenant>.<agent>.<secret>` |
| `secrets/bootstrap-agents.json` | access: agents that exist from the start, by hash of their secret |
| `secrets/cluster.password` | nobody at run time: it stands in the nodes' configurations |
| `nats/<node>.conf` | that nats-server |
"""

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from aios_proto.errors import InvalidRequest
from aios_proto.permissions import ROLES, Role
from aios_proto.tokens import AgentToken
from aios_stack.certificates import CertificateFiles, provision_node_certificates
from aios_stack.keys import KeyKind, KeyPair, from_seed, generate
from aios_stack.nats_config import Cluster, NodeConfig, render
from aios_stack.secret_files import Owner, SecretFiles, write_private

OPERATOR_GROUP = "operator"
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?\Z")


@dataclass(frozen=True, slots=True)
class Credentials:
    """Everything secret of one installation, by the path of its file and, where public, by value.

    Attributes:
        service_keys: public nkey of each kernel service.
        seeds: seed file of each kernel service.
        issuer: key that signs the callout's answers.
        issuer_seed: its seed file.
        xkey: key that seals the callout.
        xkey_seed: its seed file.
        operator_token: file with the operator's token.
        bootstrap_agents: file with the agents that exist from the start.
    """

    service_keys: dict[Role, str]
    seeds: dict[Role, Path]
    issuer: str
    issuer_seed: Path
    xkey: str
    xkey_seed: Path
    operator_token: Path
    bootstrap_agents: Path


def provision_credentials(folder: SecretFiles, *, tenant: str = "default", operator: str = "operator") -> Credentials:
    """Makes the secrets that are missing and returns where all of them lie."""
    services = {role: _key(folder, f"{role}.nk", "user") for role in ROLES}
    issuer = _key(folder, "callout-issuer.nk", "account")
    xkey = _key(folder, "callout-xkey.nk", "curve")
    token = AgentToken.parse(folder.keep("operator.token", lambda: str(AgentToken.generate(tenant, operator))))
    folder.replace(
        "bootstrap-agents.json",
        json.dumps(
            [
                {
                    "tenant": token.tenant,
                    "agent": token.agent,
                    "group": OPERATOR_GROUP,
                    "secret_sha256": token.secret_sha256,
                }
            ],
            indent=2,
        ),
    )
    return Credentials(
        service_keys={role: key.public for role, key in services.items()},
        seeds={role: folder.path(f"{role}.nk") for role in ROLES},
        issuer=issuer.public,
        issuer_seed=folder.path("callout-issuer.nk"),
        xkey=xkey.public,
        xkey_seed=folder.path("callout-xkey.nk"),
        operator_token=folder.path("operator.token"),
        bootstrap_agents=folder.path("bootstrap-agents.json"),
    )


@dataclass(frozen=True, slots=True)
class ClusterLayout:
    """Where the nodes of a distributed installation listen and store.

    Attributes:
        nodes: names of the nodes, which are also the hosts they are reached at.
        store_dir: JetStream's folder inside each node's container.
        client_port: where clients connect.
        monitor_port: monitoring over HTTP.
        route_port: where nodes connect to each other.
        tls_dir: folder on each node with `tls-ca.pem` and its own `tls-<node>.pem` and `.key`; None speaks in clear.
    """

    nodes: tuple[str, ...]
    store_dir: str = "/data/jetstream"
    client_port: int = 4222
    monitor_port: int = 8222
    route_port: int = 6222
    tls_dir: str | None = None


def provision_nodes(
    out: Path, layout: ClusterLayout, *, owner: Owner | None = None, tenant: str = "default"
) -> dict[str, Path]:
    """Writes secrets and one configuration for each node; returns the configurations' paths by node.

    Raises:
        InvalidRequest: a node's name is no host name, or stands twice.
    """
    _check_nodes(layout.nodes)
    folder = SecretFiles(out / "secrets", owner)
    credentials = provision_credentials(folder, tenant=tenant)
    if layout.tls_dir is not None:
        provision_node_certificates(folder, layout.nodes)
    password = folder.keep("cluster.password", lambda: secrets.token_urlsafe(24)) if len(layout.nodes) > 1 else ""
    configs = out / "nats"
    configs.mkdir(parents=True, exist_ok=True)
    written: dict[str, Path] = {}
    for name in layout.nodes:
        cluster = Cluster(
            name="aios",
            listen=f"0.0.0.0:{layout.route_port}",
            peers=tuple(f"{node}:{layout.route_port}" for node in layout.nodes),
            password=password,
        )
        node = NodeConfig(
            name=name,
            host="0.0.0.0",  # noqa: S104 - a node of a cluster is there to be reached
            port=layout.client_port,
            monitor=f"0.0.0.0:{layout.monitor_port}",
            store_dir=PurePath(layout.store_dir),
            services=credentials.service_keys,
            issuer=credentials.issuer,
            xkey=credentials.xkey,
            cluster=cluster if len(layout.nodes) > 1 else None,
            tls=None if layout.tls_dir is None else CertificateFiles.of(name, Path(layout.tls_dir)),
        )
        path = configs / f"{name}.conf"
        write_private(path, render(node))
        written[name] = path
    return written


def local_node(
    credentials: Credentials,
    store_dir: Path,
    *,
    port: int,
    monitor_port: int,
    ports_file_dir: Path | None = None,
    tls: CertificateFiles | None = None,
) -> NodeConfig:
    """The one node of an embedded installation, reachable from this machine only."""
    return NodeConfig(
        name="aios",
        host="127.0.0.1",
        port=port,
        monitor=f"127.0.0.1:{monitor_port}",
        store_dir=store_dir,
        services=credentials.service_keys,
        issuer=credentials.issuer,
        xkey=credentials.xkey,
        ports_file_dir=ports_file_dir,
        tls=tls,
    )


def _check_nodes(nodes: Sequence[str]) -> None:
    if not nodes:
        raise InvalidRequest("at least one node is needed", field="nodes")
    for node in nodes:
        if not _HOST_NAME.match(node):
            raise InvalidRequest(f"{node!r} is not a host name", field="nodes")
    if len(set(nodes)) != len(nodes):
        raise InvalidRequest("a node stands twice", field="nodes")


def _key(folder: SecretFiles, name: str, kind: KeyKind) -> KeyPair:
    return from_seed(folder.keep(name, lambda: generate(kind).seed))
