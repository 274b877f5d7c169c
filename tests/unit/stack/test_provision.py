"""What `aios provision` writes: secrets once, for their owner only, and a configuration that follows from them."""

import json
import os
import stat
from pathlib import Path

import pytest

from aios_proto.errors import InvalidRequest
from aios_proto.permissions import ROLES, service_permissions
from aios_proto.subjects import CUT_CONNECTIONS
from aios_proto.tokens import AgentToken
from aios_stack.provision import ClusterLayout, provision_credentials, provision_nodes
from aios_stack.secret_files import Owner, SecretFiles


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_running_it_twice_changes_nothing(tmp_path: Path) -> None:
    layout = ClusterLayout(("nats-1", "nats-2", "nats-3"))
    provision_nodes(tmp_path, layout)
    before = contents(tmp_path)
    provision_nodes(tmp_path, layout)
    assert contents(tmp_path) == before
    assert {"nats/nats-1.conf", "nats/nats-3.conf", "secrets/operator.token", "secrets/access.nk"} <= before.keys()


def test_a_node_added_later_joins_with_the_same_secrets(tmp_path: Path) -> None:
    provision_nodes(tmp_path, ClusterLayout(("nats-1", "nats-2")))
    before = contents(tmp_path / "secrets")
    provision_nodes(tmp_path, ClusterLayout(("nats-1", "nats-2", "nats-3")))
    assert contents(tmp_path / "secrets") == before


def test_only_the_owner_can_read_secrets_and_configurations(tmp_path: Path) -> None:
    provision_nodes(tmp_path, ClusterLayout(("nats-1", "nats-2")))
    for path in (*(tmp_path / "secrets").iterdir(), *(tmp_path / "nats").iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_secrets_can_be_given_to_the_user_the_services_run_as(tmp_path: Path) -> None:
    provision_nodes(tmp_path, ClusterLayout(("nats",)), owner=Owner(12345, 12346))
    for path in (tmp_path / "secrets", *(tmp_path / "secrets").iterdir()):
        assert (path.stat().st_uid, path.stat().st_gid) == (12345, 12346)


def test_an_interrupted_first_run_is_repaired(tmp_path: Path) -> None:
    folder = SecretFiles(tmp_path)
    folder.path("access.nk").touch()
    credentials = provision_credentials(folder)
    assert folder.path("access.nk").read_text().startswith("SU")
    assert credentials.service_keys["access"].startswith("U")


def test_the_operator_is_bootstrapped_by_hash_only(tmp_path: Path) -> None:
    credentials = provision_credentials(SecretFiles(tmp_path), tenant="acme", operator="root")
    token = AgentToken.parse(credentials.operator_token.read_text())
    (agent,) = json.loads(credentials.bootstrap_agents.read_text())
    assert agent == {
        "tenant": "acme",
        "agent": "root",
        "group": "operator",
        "secret_sha256": token.secret_sha256,
    }


def test_configurations_hold_no_seed_and_no_token(tmp_path: Path) -> None:
    provision_nodes(tmp_path, ClusterLayout(("nats-1", "nats-2")))
    secrets = {name: text.strip() for name, text in contents(tmp_path / "secrets").items()}
    for text in contents(tmp_path / "nats").values():
        for name, secret in secrets.items():
            if name.endswith((".nk", ".token")):
                assert secret not in text, name
        assert secrets["cluster.password"] in text


def test_a_single_node_has_no_routes(tmp_path: Path) -> None:
    path = provision_nodes(tmp_path, ClusterLayout(("nats",)))["nats"]
    text = path.read_text()
    assert "cluster {" not in text
    assert 'ping_interval: "2s"' in text
    assert "sync_interval: always" in text
    assert "max_payload: 4194304" in text


@pytest.mark.parametrize("nodes", [(), ("a", "a"), ("a b",), ('"; drop',), ("-x",), ("",)])
def test_impossible_nodes_are_refused_by_name(tmp_path: Path, nodes: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        provision_nodes(tmp_path, ClusterLayout(nodes))
    assert refused.value.field == "nodes"


def test_no_service_but_access_may_cut_connections() -> None:
    assert [role for role in ROLES if CUT_CONNECTIONS in service_permissions(role).publish] == ["access"]
