"""What the server can verify and open of what access says, and the other way round."""

import base64
import json
from contextlib import suppress

import nkeys
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_access.nats_jwt import Issuer, NotAJwt, Xkey, callout_answer, read_claims, user_claims
from aios_proto.permissions import agent_permissions
from aios_stack.keys import generate

ACCOUNT = generate("account")
SERVER, ACCESS, STRANGER = generate("curve"), generate("curve"), generate("curve")


def part(token: str, index: int) -> bytes:
    text = token.split(".")[index]
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def test_a_jwt_is_signed_by_the_account_and_names_it() -> None:
    issuer = Issuer(f"{ACCOUNT.seed}\n")
    token = issuer.sign({"sub": "U1"})
    assert issuer.public == ACCOUNT.public
    claims = read_claims(token)
    assert (claims["iss"], claims["sub"]) == (ACCOUNT.public, "U1")
    assert json.loads(part(token, 0)) == {"typ": "JWT", "alg": "ed25519-nkey"}
    pair = nkeys.from_seed(bytearray(ACCOUNT.seed.encode()))
    assert pair.verify(token.rpartition(".")[0].encode(), part(token, 2))


def test_each_jwt_has_an_id_of_its_contents() -> None:
    issuer = Issuer(ACCOUNT.seed)
    first, second = (read_claims(issuer.sign({"sub": user, "iat": 1})) for user in ("U1", "U2"))
    assert first["jti"] != second["jti"]


def test_a_users_claims_carry_its_permissions_and_nothing_wider() -> None:
    claims = user_claims("U1", "acme.alice", "AIOS", agent_permissions("acme", "alice"))
    assert (claims["sub"], claims["name"], claims["aud"]) == ("U1", "acme.alice", "AIOS")
    assert claims["nats"]["pub"] == {"allow": ["aios.sys.acme.alice.>"]}
    assert claims["nats"]["sub"] == {"allow": ["_INBOX.acme.alice.>"]}


def test_an_answer_holds_a_jwt_or_a_reason_never_both() -> None:
    assert callout_answer("U1", "S1", jwt="x")["nats"]["jwt"] == "x"
    assert "error" not in callout_answer("U1", "S1", jwt="x")["nats"]
    assert callout_answer("U1", "S1", error="no")["nats"]["error"] == "no"
    assert "jwt" not in callout_answer("U1", "S1", error="no")["nats"]


@given(st.binary(max_size=2000))
def test_what_one_seals_the_other_opens(text: bytes) -> None:
    sealed = Xkey(SERVER.seed).seal(text, ACCESS.public)
    assert Xkey(ACCESS.seed).open(sealed, SERVER.public) == text


def test_two_seals_of_the_same_text_differ() -> None:
    key = Xkey(SERVER.seed)
    assert key.seal(b"text", ACCESS.public) != key.seal(b"text", ACCESS.public)


def test_a_seal_for_another_or_by_another_does_not_open() -> None:
    sealed = Xkey(SERVER.seed).seal(b"text", ACCESS.public)
    with pytest.raises(NotAJwt):
        Xkey(STRANGER.seed).open(sealed, SERVER.public)
    with pytest.raises(NotAJwt):
        Xkey(ACCESS.seed).open(sealed, STRANGER.public)


@given(st.data())
def test_one_changed_byte_is_noticed(data: st.DataObject) -> None:
    sealed = bytearray(Xkey(SERVER.seed).seal(b"some text", ACCESS.public))
    place = data.draw(st.integers(0, len(sealed) - 1))
    sealed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(NotAJwt):
        Xkey(ACCESS.seed).open(bytes(sealed), SERVER.public)


@given(st.binary(max_size=100))
def test_bytes_that_were_never_sealed_do_not_open(junk: bytes) -> None:
    with pytest.raises(NotAJwt):
        Xkey(ACCESS.seed).open(b"xkv1" + junk, SERVER.public)
    with pytest.raises(NotAJwt):
        Xkey(ACCESS.seed).open(junk.removeprefix(b"xkv1"), SERVER.public)


@pytest.mark.parametrize("public", ["", "X", "not base 32!", SERVER.public[:-8], SERVER.public * 2])
def test_a_sender_that_is_no_key_is_refused(public: str) -> None:
    sealed = Xkey(SERVER.seed).seal(b"text", ACCESS.public)
    with pytest.raises(NotAJwt):
        Xkey(ACCESS.seed).open(sealed, public)


@pytest.mark.parametrize("seed", ["", "SX", "junk!", ACCESS.public])
def test_a_seed_that_is_none_is_refused_at_the_start(seed: str) -> None:
    with pytest.raises(NotAJwt):
        Xkey(seed)


@given(st.text(max_size=200))
def test_text_that_is_no_jwt_is_told_so(text: str) -> None:
    with suppress(NotAJwt):
        assert isinstance(read_claims(text), dict)


@pytest.mark.parametrize("text", ["", "a", "a.b.c", "a.W10.c", "a.bnVsbA.c", "a.ä.c"])
def test_claims_that_are_no_object_are_no_claims(text: str) -> None:
    with pytest.raises(NotAJwt):
        read_claims(text)
