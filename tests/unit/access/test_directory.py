"""What proves that a client is an agent."""

import hmac

import pytest

from aios_access.directory import Directory, Identity
from aios_proto.tokens import AgentToken


def identity_of(token: AgentToken, group: str = "agent") -> Identity:
    return Identity(token.tenant, token.agent, group, token.secret_sha256, 1)


@pytest.fixture
def token() -> AgentToken:
    return AgentToken.generate("acme", "alice")


@pytest.fixture
def directory(token: AgentToken) -> Directory:
    directory = Directory()
    directory.put(identity_of(token))
    return directory


def test_the_right_secret_proves_the_agent(directory: Directory, token: AgentToken) -> None:
    assert directory.authenticate(token) == identity_of(token)


@pytest.mark.parametrize(
    ("tenant", "agent", "secret"),
    [
        ("acme", "alice", "wrong"),
        ("acme", "alice", ""),
        ("acme", "bob", None),
        ("other", "alice", None),
        ("acme", "ALICE", None),
        ("acme", "alice", "ünïcödé"),
    ],
)
def test_anything_else_proves_nobody(
    directory: Directory, token: AgentToken, tenant: str, agent: str, secret: str | None
) -> None:
    assert directory.authenticate(AgentToken(tenant, agent, token.secret if secret is None else secret)) is None


def test_the_stored_hash_is_not_itself_a_secret(directory: Directory, token: AgentToken) -> None:
    assert directory.authenticate(AgentToken("acme", "alice", token.secret_sha256)) is None


def test_secrets_are_compared_in_constant_time(
    directory: Directory, token: AgentToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[object, object]] = []
    real = hmac.compare_digest

    def watching(one: str, other: str) -> bool:
        compared.append((one, other))
        return real(one, other)

    monkeypatch.setattr("aios_access.directory.hmac.compare_digest", watching)
    wrong = AgentToken("acme", "alice", "wrong")
    directory.authenticate(wrong)
    assert compared == [(token.secret_sha256, wrong.secret_sha256)]


def test_a_removed_agent_is_unknown_and_removing_it_again_is_fine(directory: Directory, token: AgentToken) -> None:
    directory.remove("acme.alice")
    directory.remove("acme.alice")
    assert directory.authenticate(token) is None
    assert directory.find("acme", "alice") is None


def test_a_new_secret_replaces_the_old_one(directory: Directory, token: AgentToken) -> None:
    new = AgentToken.generate("acme", "alice")
    directory.put(identity_of(new, "operator"))
    assert directory.authenticate(token) is None
    found = directory.authenticate(new)
    assert found is not None
    assert found.group == "operator"


def test_a_tenants_agents_come_by_name_and_without_those_of_others(directory: Directory) -> None:
    for tenant, agent in (("acme", "zoe"), ("acme", "bob"), ("acme2", "carl")):
        directory.put(identity_of(AgentToken.generate(tenant, agent)))
    assert [identity.agent for identity in directory.of_tenant("acme")] == ["alice", "bob", "zoe"]


def test_what_the_store_no_longer_holds_is_forgotten(directory: Directory) -> None:
    directory.put(identity_of(AgentToken.generate("acme", "bob")))
    directory.keep_only({"acme.bob", "acme.nobody"})
    assert [identity.agent for identity in directory.of_tenant("acme")] == ["bob"]


def test_the_directory_tells_of_every_identity_that_is_no_more() -> None:
    gone: list[str] = []
    directory = Directory(gone.append)
    for agent in "abc":
        directory.put(Identity("acme", agent, "agent", "0" * 64, 0))
    directory.put(Identity("acme", "a", "guest", "1" * 64, 0))
    directory.remove("acme.b")
    directory.remove("acme.b")
    directory.keep_only({"acme.c"})
    assert gone == ["acme.b", "acme.a"]
