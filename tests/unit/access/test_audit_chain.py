"""A log that was tampered with says so, and says where."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios_access.audit_chain import GENESIS, ChainVerifier, Head, chain_lines, head_of
from aios_access.audit_seal import Sealer, trusting
from aios_stack.keys import generate

KEY, OTHER_KEY = generate("account"), generate("account")


def written(records: int, *, batch: int = 5, tenant: str = "acme", key: str | None = KEY.seed) -> list[bytes]:
    """A log's lines, as a writer leaves them."""
    lines: list[bytes] = []
    head = Head()
    while records > 0:
        fields = [{"kind": "decision", "id": f"c{head.seq + n}"} for n in range(min(batch, records))]
        made, head = chain_lines(tenant, head, fields)
        lines += made
        if key is not None:
            lines.append(Sealer(key, "access-1").seal(tenant, head))
        records -= batch
    return lines


def verified(lines: Sequence[bytes], *, anchor: Head | None = None, tenant: str = "acme") -> ChainVerifier:
    verifier = ChainVerifier(tenant, trusting({KEY.public}), sealed=True, anchor=anchor)
    verifier.feed(b"".join(lines))
    verifier.end()
    return verifier


def first(lines: Sequence[bytes], **options: object) -> tuple[int, str]:
    faults = verified(lines, **options).faults  # type: ignore[arg-type]
    assert faults, "nothing was found"
    return faults[0].seq, faults[0].kind


def place(lines: Sequence[bytes], seq: int) -> int:
    return next(n for n, line in enumerate(lines) if b'"seq":%d,"prev"' % seq in line)


def test_a_log_nobody_touched_is_intact_wherever_it_is_cut_into_pieces() -> None:
    lines = written(23)
    whole = verified(lines)
    assert (whole.intact, whole.records, whole.first_seq, whole.head.seq) == (True, 23, 1, 23)
    pieces = ChainVerifier("acme", trusting({KEY.public}), sealed=True)
    for line in lines:
        pieces.feed(line)
    pieces.end()
    assert pieces.head == whole.head
    assert pieces.intact


def test_an_empty_log_is_intact() -> None:
    assert verified([]).intact
    assert verified([]).head == Head(0, GENESIS)


@settings(max_examples=300, deadline=None)
@given(st.randoms(use_true_random=False), st.booleans())
def test_every_changed_byte_is_found_at_its_record(chance: random.Random, sealed: bool) -> None:
    lines = written(12, key=KEY.seed if sealed else None)
    log = bytearray(b"".join(lines))
    at = chance.randrange(len(log))
    log[at] ^= chance.randrange(1, 256)
    verifier = ChainVerifier("acme", trusting({KEY.public}), sealed=sealed)
    verifier.feed(bytes(log))
    verifier.end()
    line = bytes(b"".join(lines)[: at + 1]).count(b"\n")
    records_before = sum(1 for each in lines[:line] if each.startswith(b'{"sha256"'))
    assert verifier.faults
    # A broken seal is found at the first record that stood under it.
    assert records_before - 4 <= verifier.faults[0].seq <= records_before + 1


def test_a_changed_record_is_one_fault_and_the_rest_is_still_read() -> None:
    lines = written(20)
    at = place(lines, 7)
    lines[at] = lines[at].replace(b'"id":"c6"', b'"id":"x6"')
    verifier = verified(lines)
    assert [(fault.seq, fault.kind) for fault in verifier.faults] == [(7, "changed")]
    assert verifier.records == 20


def test_a_missing_record_is_a_gap() -> None:
    lines = written(20, batch=20)
    del lines[place(lines, 7)]
    assert first(lines) == (7, "gap")


def test_a_missing_batch_is_a_gap() -> None:
    lines = written(20)
    begin = place(lines, 6)
    del lines[begin : begin + 6]
    assert first(lines) == (6, "gap")


def test_records_that_changed_places_are_found() -> None:
    lines = written(20, batch=20)
    a, b = place(lines, 7), place(lines, 8)
    lines[a], lines[b] = lines[b], lines[a]
    assert first(lines) == (7, "gap")


def test_a_doubled_record_is_out_of_order() -> None:
    lines = written(20, batch=20)
    at = place(lines, 7)
    lines.insert(at, lines[at])
    assert first(lines) == (8, "order")


def test_a_record_from_another_tenants_log_does_not_pass() -> None:
    lines = written(10, batch=10)
    lines[place(lines, 4)] = written(10, tenant="other")[4]
    seq, kind = first(lines)
    assert (seq, kind) == (4, "link")


def test_a_log_that_was_written_anew_without_the_key_is_found() -> None:
    assert first(written(10, key=None)) == (1, "seal")
    assert first(written(10, key=OTHER_KEY.seed)) == (1, "seal")
    genuine, forged = written(20), written(20, key=OTHER_KEY.seed)
    assert first(genuine[:12] + forged[12:]) == (11, "seal")


def test_records_added_at_the_end_without_a_seal_are_found() -> None:
    lines = written(10)
    head = head_of(b"".join(lines))
    assert head is not None
    added, _ = chain_lines("acme", head, [{"kind": "decision"}])
    assert first(lines + added) == (11, "seal")


def test_a_cut_end_is_found_by_an_anchor_and_only_by_it() -> None:
    lines = written(20)
    anchor = verified(lines).head
    shorter = lines[:12]
    assert verified(shorter).intact
    assert first(shorter, anchor=anchor) == (11, "truncated")
    assert verified(lines, anchor=anchor).intact


def test_a_log_that_grew_since_its_anchor_still_passes_through_it() -> None:
    short, long = written(10), written(20)
    assert verified(long, anchor=verified(short).head).intact
    assert first(long, anchor=Head(10, "a" * 64)) == (10, "truncated")


def test_a_log_whose_last_line_is_torn_is_found() -> None:
    lines = written(5)
    assert verified([*lines[:-1], lines[-1][:-1]]).faults[0].kind == "unreadable"


@pytest.mark.parametrize("text", ["", "5", "x:" + "0" * 64, "5:xyz", "5:" + "G" * 64, "-1:" + "0" * 64])
def test_an_anchor_in_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="anchor"):
        Head.parse(text)


def test_an_anchor_reads_as_it_was_written() -> None:
    head = verified(written(3)).head
    assert Head.parse(str(head)) == head
