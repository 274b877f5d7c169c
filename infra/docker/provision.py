"""Which container gets which secret: makes an installation's keys once, then gives each service its own and no other.

Runs before everything else, as root, because it hands files over to the user the services run as. Running it again
keeps every key. Each folder below is a volume; a service mounts only its own, read-only.

| folder | holds |
|---|---|
| `installation/` | all keys; mounted here only |
| `secrets/<service>/` | what that service reads |
| `key-ring/` | the tenants' keys; the services that store data share it |
| `nats/` | the nodes' configurations |
| `data/<node>/` | JetStream's store of that node, empty at first |
"""

import os
import shutil
import sys
from pathlib import Path

from aios_stack.provision import ClusterLayout, provision_nodes
from aios_stack.secret_files import Owner

SECRETS: dict[str, tuple[str, ...]] = {
    "access": ("access.nk", "callout-issuer.nk", "callout-xkey.nk", "bootstrap-agents.json"),
    "scheduler": ("scheduler.nk",),
    "llm": ("llm.nk",),
    "tool": ("tool.nk",),
    "context": ("context.nk",),
    "memory": ("memory.nk",),
    "storage": ("storage.nk",),
    "operator": ("operator.token",),
}
TLS = ("tls-ca.pem", "tls-service.pem", "tls-service.key")
TLS_OF_AGENTS = ("tls-agent.pem", "tls-agent.key")
NODE_FILES = "/etc/aios"


def hand_over(root: Path, nodes: tuple[str, ...], owner: Owner, tenant: str, *, tls: bool = False) -> None:
    """Makes what is missing and copies it to where the services look.

    Args:
        root: the folder of all volumes.
        nodes: of the bus.
        owner: the user the services run as.
        tenant: the operator's.
        tls: the bus speaks TLS, and every service gets a certificate; the operator also that of agents, to pass on.
    """
    installation = root / "installation"
    layout = ClusterLayout(nodes, store_dir="/data", tls_dir=NODE_FILES if tls else None)
    configurations = provision_nodes(installation, layout, tenant=tenant)
    for service, names in SECRETS.items():
        folder = _folder(root / "secrets" / service, owner)
        certificates = (*TLS, *(TLS_OF_AGENTS if service == "operator" else ())) if tls else ()
        for name in (*names, *certificates):
            _copy(installation / "secrets" / name, folder / name, owner)
    _folder(root / "key-ring", owner)  # filled by the services that store data
    folder = _folder(root / "nats", owner)
    for node, path in configurations.items():
        _copy(path, folder / path.name, owner)
        for name in ("tls-ca.pem", f"tls-{node}.pem", f"tls-{node}.key") if tls else ():
            _copy(installation / "secrets" / name, folder / name, owner)
        _folder(root / "data" / node, owner)


def _folder(path: Path, owner: Owner) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    os.chown(path, owner.uid, owner.gid)
    return path


def _copy(source: Path, target: Path, owner: Owner) -> None:
    # Replaced in one step: a service that starts meanwhile reads the whole file or the one before.
    partial = target.with_name(f".{target.name}")
    shutil.copyfile(source, partial)
    partial.chmod(0o400)
    os.chown(partial, owner.uid, owner.gid)
    partial.replace(target)


def main() -> None:
    """Reads AIOS_NODES (comma-separated), AIOS_TLS, AIOS_UID and AIOS_OPERATOR_TENANT; works in `/aios`."""
    nodes = tuple(name.strip() for name in os.environ["AIOS_NODES"].split(",") if name.strip())
    uid = int(os.environ.get("AIOS_UID", "10001"))
    tenant, tls = os.environ.get("AIOS_OPERATOR_TENANT", "default"), bool(os.environ.get("AIOS_TLS"))
    hand_over(Path("/aios"), nodes, Owner(uid, uid), tenant, tls=tls)
    how = "TLS" if tls else "no TLS"
    sys.stdout.write(f"provisioned {', '.join(SECRETS)} and the nodes {', '.join(nodes)}, with {how}\n")


if __name__ == "__main__":
    main()
