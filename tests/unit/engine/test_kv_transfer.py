"""What is read from one engine and put into another: rows where the form is known, whole states where it is not."""

import pytest
from support.llama_states import Layout, rows, state

from aios_engine.backend import KvGiven
from aios_engine.core.kv_image import digest
from aios_engine.core.kv_shelf import ShelvedKv
from aios_engine.held_kv import Reading
from aios_engine.kv_transfer import KvTransfer
from aios_engine.llama.kv_state import form_of

TOKENS = (5, 6, 7, 8, 9)
HERE = Layout((4, 4), (4, 4), streams=6)
THERE = Layout((4, 4), (4, 4), streams=3)


def transfer(layout: Layout | None, fingerprint: str = "model") -> KvTransfer:
    return KvTransfer(None if layout is None else form_of(state(layout, 1)), fingerprint)


def given(first: int, end: int) -> KvGiven:
    """Rows as they come out of a slot here."""
    return transfer(HERE).given(Reading(TOKENS[:end], first, end, rows(HERE, first, end)))


def test_pieces_make_the_state_of_an_engine_of_another_size() -> None:
    pieces = [given(0, 2), given(2, 5)]
    assert [(one.first, one.end, one.digest) for one in pieces] == [
        (0, 2, digest(TOKENS[:2])),
        (2, 5, digest(TOKENS)),
    ]
    taken = transfer(THERE).taken(b"".join(one.image for one in pieces))
    assert taken == ShelvedKv(TOKENS, bytearray(state(THERE, 5)))


def test_a_later_piece_may_end_before_an_earlier_one_began() -> None:
    pieces = [given(0, 2), given(2, 5), given(1, 2)]
    taken = transfer(THERE).taken(b"".join(one.image for one in pieces))
    assert taken == ShelvedKv(TOKENS[:2], bytearray(state(THERE, 2)))


def test_rows_are_taken_out_of_what_lies_on_the_shelf() -> None:
    shelved = Reading(TOKENS[:4], 1, 4, state(HERE, 5, slot=3), whole=True)
    assert transfer(HERE).given(shelved) == given(1, 4)


def test_without_a_form_the_last_state_counts() -> None:
    here = transfer(None)
    older = here.given(Reading(TOKENS[:2], 0, 2, b"older", whole=True)).image
    newer = here.given(Reading(TOKENS, 0, 5, b"newer", whole=True)).image
    assert here.taken(older + newer) == ShelvedKv(TOKENS, b"newer")


def test_what_does_not_fit_this_engine_is_refused() -> None:
    image, whole = given(0, 2).image, transfer(None).given(Reading(TOKENS, 0, 5, b"x", whole=True)).image
    with pytest.raises(ValueError, match="in the form 'rows'"):
        transfer(None).taken(image)
    with pytest.raises(ValueError, match="in the form 'state'"):
        transfer(HERE).taken(whole)
    with pytest.raises(ValueError, match="a token has 8 bytes here"):
        transfer(Layout((4,), (4,))).taken(image)
    with pytest.raises(ValueError, match="another model"):
        transfer(HERE, "other").taken(image)
    with pytest.raises(ValueError, match="no part of it begins with the first token"):
        transfer(HERE).taken(given(2, 5).image)
