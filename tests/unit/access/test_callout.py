"""Who is let onto the bus, and with what."""

from typing import Any

import pytest

from aios_access.callout import AuthCallout
from aios_access.directory import Directory, Identity
from aios_access.nats_jwt import Issuer, NotAJwt, Xkey, read_claims
from aios_proto.tokens import AgentToken
from aios_stack.keys import generate

ACCOUNT, SERVER_SIGNS = generate("account"), generate("account")
SERVER, ACCESS = generate("curve"), generate("curve")
TOKEN = AgentToken.generate("acme", "alice")


@pytest.fixture
def directory() -> Directory:
    directory = Directory()
    directory.put(Identity("acme", "alice", "agent", TOKEN.secret_sha256, 0))
    return directory


@pytest.fixture
def sealed(directory: Directory) -> AuthCallout:
    return AuthCallout(directory, Issuer(ACCOUNT.seed), Xkey(ACCESS.seed))


@pytest.fixture
def unsealed(directory: Directory) -> AuthCallout:
    return AuthCallout(directory, Issuer(ACCOUNT.seed), None)


def asked(options: object) -> bytes:
    """What the server sends."""
    body = {"user_nkey": "U1", "server_id": {"id": "S1"}, "client_info": {"id": 7}, "connect_opts": options}
    return Issuer(SERVER_SIGNS.seed).sign({"nats": body}).encode()


def answer(callout: AuthCallout, options: object) -> tuple[dict[str, Any], str | None]:
    reply, refusal = callout.answer(callout.read(asked(options), None))
    return read_claims(reply.decode()), refusal


def test_a_token_lets_its_agent_in_with_its_own_subjects_only(unsealed: AuthCallout) -> None:
    claims, refusal = answer(unsealed, {"auth_token": str(TOKEN)})
    assert refusal is None
    assert (claims["sub"], claims["aud"], claims["iss"]) == ("U1", "S1", ACCOUNT.public)
    user = read_claims(claims["nats"]["jwt"])
    assert (user["sub"], user["name"], user["aud"]) == ("U1", "acme.alice", "AIOS")
    assert user["nats"]["pub"]["allow"] == ["aios.sys.acme.alice.>"]
    assert user["nats"]["sub"]["allow"] == ["_INBOX.acme.alice.>"]


def test_a_token_may_come_as_a_password(unsealed: AuthCallout) -> None:
    assert answer(unsealed, {"user": "x", "pass": str(TOKEN)})[1] is None


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"auth_token": ""},
        {"auth_token": "garbage"},
        {"auth_token": "acme.alice"},
        {"auth_token": "acme.alice."},
        {"auth_token": "acme.alice.wrong"},
        {"auth_token": f"acme.bob.{TOKEN.secret}"},
        {"auth_token": f"acme.>.{TOKEN.secret}"},
        {"auth_token": f"*.*.{TOKEN.secret}"},
        {"auth_token": 7},
        {"nkey": "UABC", "sig": "x"},
    ],
)
def test_anything_else_is_refused_without_a_jwt_and_without_the_secret(
    unsealed: AuthCallout, options: dict[str, object]
) -> None:
    claims, refusal = answer(unsealed, options)
    assert refusal
    assert "jwt" not in claims["nats"]
    assert TOKEN.secret not in str(claims)
    assert TOKEN.secret not in refusal


def test_a_removed_agent_is_refused(unsealed: AuthCallout, directory: Directory) -> None:
    directory.remove("acme.alice")
    assert answer(unsealed, {"auth_token": str(TOKEN)})[1]


def test_an_agent_that_is_not_proven_is_worth_a_look_into_the_store(unsealed: AuthCallout) -> None:
    def unknown(token: str) -> str | None:
        return unsealed.unknown_agent(unsealed.read(asked({"auth_token": token}), None))

    assert unknown(str(TOKEN)) is None
    assert unknown("acme.alice.wrong") == "acme.alice"
    assert unknown("acme.bob.secret") == "acme.bob"
    assert unknown("garbage") is None


def test_a_request_does_not_show_its_credential_in_a_log(unsealed: AuthCallout) -> None:
    assert TOKEN.secret not in repr(unsealed.read(asked({"auth_token": str(TOKEN)}), None))


def test_a_sealed_request_gets_a_sealed_answer(sealed: AuthCallout) -> None:
    server = Xkey(SERVER.seed)
    request = sealed.read(server.seal(asked({"auth_token": str(TOKEN)}), ACCESS.public), SERVER.public)
    reply, refusal = sealed.answer(request)
    assert refusal is None
    assert TOKEN.secret.encode() not in reply
    assert "jwt" in read_claims(server.open(reply, ACCESS.public).decode())["nats"]


def test_a_refusal_is_sealed_as_well(sealed: AuthCallout) -> None:
    server = Xkey(SERVER.seed)
    request = sealed.read(server.seal(asked({"auth_token": "acme.alice.wrong"}), ACCESS.public), SERVER.public)
    reply, refusal = sealed.answer(request)
    assert refusal
    assert read_claims(server.open(reply, ACCESS.public).decode())["nats"]["error"] == refusal


def test_where_requests_are_sealed_an_open_one_is_not_read(sealed: AuthCallout) -> None:
    with pytest.raises(NotAJwt):
        sealed.read(asked({"auth_token": str(TOKEN)}), None)
    with pytest.raises(NotAJwt):
        sealed.read(asked({"auth_token": str(TOKEN)}), SERVER.public)


def without(name: str) -> bytes:
    body = {"user_nkey": "U1", "server_id": {"id": "S1"}, "client_info": {"id": 7}, "connect_opts": {}}
    del body[name]
    return Issuer(SERVER_SIGNS.seed).sign({"nats": body}).encode()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"",
        b"junk",
        b"\xff\xfe",
        without("user_nkey"),
        without("server_id"),
        without("connect_opts"),
        asked(None),
        asked([]),
        Issuer(SERVER_SIGNS.seed).sign({"nats": None}).encode(),
        Issuer(SERVER_SIGNS.seed).sign({}).encode(),
    ],
)
def test_a_request_that_cannot_be_read_is_told_apart_from_a_refusal(
    unsealed: AuthCallout, request_bytes: bytes
) -> None:
    with pytest.raises(NotAJwt):
        unsealed.read(request_bytes, None)
