"""Keys are those of NATS: their own text form, their own checksums, and a seed that always gives the same identity."""

import base64

import nkeys
import pytest
from nacl.public import Box, PrivateKey, PublicKey

from aios_stack.keys import KeyKind, from_seed, generate


@pytest.mark.parametrize(("kind", "letter"), [("user", "U"), ("account", "A"), ("curve", "X")])
def test_a_seed_gives_back_its_key_and_both_look_as_nats_writes_them(kind: KeyKind, letter: str) -> None:
    key = generate(kind)
    assert (key.public[0], key.seed[:2]) == (letter, "S" + letter)
    assert (len(key.public), len(key.seed)) == (56, 58)
    assert from_seed(key.seed + "\n") == key
    assert key.seed not in repr(key)


def test_the_nkeys_package_reads_our_seeds() -> None:
    key = generate("user")
    pair = nkeys.from_seed(bytearray(key.seed.encode()))
    assert pair.public_key.decode() == key.public


def test_a_sealed_message_opens_with_the_key_pair_behind_an_xkey() -> None:
    key, other = generate("curve"), PrivateKey.generate()
    raw_seed = base64.b32decode(key.seed + "======")[2:-2]
    raw_public = base64.b32decode(key.public)[1:-2]
    sealed = Box(other, PublicKey(raw_public)).encrypt(b"who is it?")
    assert Box(PrivateKey(raw_seed), other.public_key).decrypt(sealed) == b"who is it?"


@pytest.mark.parametrize("kind", ["user", "curve"])
def test_a_damaged_seed_is_refused(kind: KeyKind) -> None:
    seed = generate(kind).seed
    with pytest.raises(ValueError, match="seed"):
        from_seed(seed[:-5])
    if kind == "curve":
        swapped = seed[:10] + ("A" if seed[10] != "A" else "B") + seed[11:]
        with pytest.raises(ValueError, match="seed"):
            from_seed(swapped)


@pytest.mark.parametrize("text", ["", "SX", "SU", "hello", "SX!!!!"])
def test_what_is_no_seed_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="seed"):
        from_seed(text)
