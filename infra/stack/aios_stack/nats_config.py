"""What a nats-server of an installation is told: accounts, users, permissions, the auth callout, JetStream, cluster.

One account, `AIOS`, holds every service and agent. Services are listed here by their public nkey with the permissions
`aios_proto` gives them. Everyone else (agents) is decided by access, which answers the auth callout. Pings are short
because a stopped queue member would otherwise swallow messages for minutes.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath

from aios_proto.permissions import Role, service_permissions
from aios_proto.subjects import CUT_CONNECTIONS
from aios_stack.certificates import CertificateFiles

ACCOUNT = "AIOS"
SYSTEM_ACCOUNT = "SYS"
MAX_PAYLOAD_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Cluster:
    """How a node finds its peers.

    Attributes:
        name: the same on all nodes.
        listen: host and port for routes.
        peers: host:port of every node's route port.
        password: shared by the nodes.
    """

    name: str
    listen: str
    peers: tuple[str, ...]
    password: str

    def __repr__(self) -> str:
        return f"Cluster({self.name}, {self.listen}, {self.peers})"


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """One nats-server.

    Attributes:
        name: unique in the cluster.
        host: where clients connect.
        port: client port; -1 lets the server choose and write it to `ports_file_dir`.
        monitor: host:port of the monitoring HTTP endpoint; None for none.
        store_dir: JetStream's folder.
        services: public nkey of each kernel service.
        issuer: public account nkey that signs the callout's answers.
        xkey: public xkey that seals the callout's requests.
        ports_file_dir: where the server writes the ports it chose.
        cluster: None for a single node.
        tls: its certificate, and the authority that must have signed every client's; None speaks in clear.
    """

    name: str
    host: str
    port: int
    monitor: str | None
    store_dir: PurePath
    services: Mapping[Role, str]
    issuer: str
    xkey: str
    ports_file_dir: PurePath | None = None
    cluster: Cluster | None = None
    tls: CertificateFiles | None = None


def render(node: NodeConfig) -> str:
    """The text of the server's configuration file."""
    lines = [
        "# Written by `aios provision`; changes are lost. Holds public keys only, unless it has a cluster.",
        f"server_name: {_text(node.name)}",
        f"host: {_text(node.host)}",
        f"port: {node.port}",
    ]
    if node.monitor is not None:
        lines.append(f"http: {_text(node.monitor)}")
    if node.ports_file_dir is not None:
        lines.append(f"ports_file_dir: {_text(str(node.ports_file_dir))}")
    lines += [
        f"max_payload: {MAX_PAYLOAD_BYTES}",
        'ping_interval: "2s"',
        "ping_max: 2",
        'write_deadline: "2s"',
        'lame_duck_grace_period: "1s"',
        'lame_duck_duration: "30s"',
        "",
        "jetstream {",
        f"  store_dir: {_text(str(node.store_dir))}",
        "  sync_interval: always  # what is acknowledged is on disk",
        "}",
        "",
        *_accounts(node.services),
        "",
        *_authorization(node),
    ]
    if node.tls is not None:
        lines += ["", *_tls(node.tls, "a client")]
    if node.cluster is not None:
        lines += ["", *_cluster(node.cluster, node.tls)]
    return "\n".join(lines) + "\n"


def render_open(node_name: str, store_dir: PurePath, ports_file_dir: PurePath) -> str:
    """The configuration of a server without any authentication, for tests of a part that has no identity."""
    return "\n".join(
        [
            f"server_name: {_text(node_name)}",
            'host: "127.0.0.1"',
            "port: -1",
            'http: "127.0.0.1:-1"',
            f"ports_file_dir: {_text(str(ports_file_dir))}",
            f"max_payload: {MAX_PAYLOAD_BYTES}",
            'ping_interval: "2s"',
            "ping_max: 2",
            'write_deadline: "2s"',
            f"jetstream {{ store_dir: {_text(str(store_dir))}, sync_interval: always }}",
            "",
        ]
    )


def _accounts(services: Mapping[Role, str]) -> list[str]:
    lines = ["accounts {", f"  {ACCOUNT} {{", "    jetstream: enabled", "    users: ["]
    for role, public in services.items():
        permissions = service_permissions(role)
        lines += [
            f"      # {role}",
            f"      {{ nkey: {public}, permissions: {{",
            f"        publish: {{ allow: {_list(permissions.publish)} }}",
            f"        subscribe: {{ allow: {_list(permissions.subscribe)} }}",
            "      } }",
        ]
    return [
        *lines,
        "    ]",
        f"    imports: [ {{ service: {{ account: {SYSTEM_ACCOUNT}, subject: {_text(CUT_CONNECTIONS)} }} }} ]",
        "  }",
        f"  {SYSTEM_ACCOUNT} {{",
        f"    exports: [ {{ service: {_text(CUT_CONNECTIONS)}, accounts: [{ACCOUNT}] }} ]",
        "  }",
        "}",
        f"system_account: {SYSTEM_ACCOUNT}",
    ]


def _authorization(node: NodeConfig) -> list[str]:
    return [
        "authorization {",
        "  timeout: 3  # seconds; the callout is asked within it",
        "  auth_callout {",
        f"    issuer: {node.issuer}",
        f"    account: {ACCOUNT}",
        f"    auth_users: {_list(node.services.values())}",
        f"    xkey: {node.xkey}",
        "  }",
        "}",
    ]


def _tls(files: CertificateFiles, who: str) -> list[str]:
    return [
        "tls {",
        f"  cert_file: {_text(str(files.cert))}",
        f"  key_file: {_text(str(files.key))}",
        f"  ca_file: {_text(str(files.ca))}",
        f"  verify: true  # {who} without a certificate of this authority gets no further",
        "  timeout: 5",
        "}",
    ]


def _cluster(cluster: Cluster, tls: CertificateFiles | None) -> list[str]:
    routes = [f"nats-route://aios:{cluster.password}@{peer}" for peer in cluster.peers]
    return [
        "cluster {",
        f"  name: {_text(cluster.name)}",
        f"  listen: {_text(cluster.listen)}",
        f"  authorization {{ user: aios, password: {_text(cluster.password)} }}",
        f"  routes: {_list(routes)}",
        *([] if tls is None else [f"  {line}" for line in _tls(tls, "a node")]),
        "}",
    ]


def _text(value: str) -> str:
    return json.dumps(value)  # the configuration's quoted strings have JSON's escapes


def _list(values: Iterable[str]) -> str:

    return json.dumps(list(values))
