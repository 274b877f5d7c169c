"""A credential tells who its holder is, and shows its secret to nobody by accident."""

import contextlib
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_proto.errors import Unauthenticated
from aios_proto.tokens import AgentToken

names = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)


@given(names, names)
def test_a_token_is_read_as_it_was_written(tenant: str, agent: str) -> None:
    token = AgentToken.generate(tenant, agent)
    assert AgentToken.parse(str(token)) == token
    assert AgentToken.parse(f" {token}\n") == token
    assert (token.tenant, token.agent) == (tenant, agent)
    assert token.secret_sha256 == hashlib.sha256(token.secret.encode()).hexdigest()


def test_two_tokens_of_one_agent_differ_and_are_long() -> None:
    first, second = AgentToken.generate("t", "a"), AgentToken.generate("t", "a")
    assert first.secret != second.secret
    assert len(first.secret) >= 43  # 256 bits


def test_a_secret_may_hold_dots() -> None:
    assert AgentToken.parse("t.a.x.y").secret == "x.y"


def test_the_secret_is_not_in_the_representation() -> None:
    token = AgentToken.generate("t", "a")
    assert token.secret not in repr(token)
    assert token.secret not in f"{[token]}"


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "t", "t.a", "t.a.", ".a.s", "t..s", "*.a.s", "t.>.s", "t a.b.c", "x" * 65 + ".a.s", "t\n.a.s"],
)
def test_a_text_that_is_no_token_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        AgentToken.parse(text)
    assert caught.value.field == "token"
    assert len(text) < 3 or text not in str(caught.value)


@given(st.text())
def test_no_text_whatsoever_breaks_the_reader(text: str) -> None:
    with contextlib.suppress(Unauthenticated):
        AgentToken.parse(text)
