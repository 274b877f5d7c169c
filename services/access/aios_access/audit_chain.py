"""How the audit log is written and how a reader finds out that it was changed: lines of JSON, chained by SHA-256.

One chain a tenant. A line is `{"sha256":"<hex>","record":{...}}`; the hash is that of the record's bytes as they stand
there, and the record holds its number and the hash of the one before. A batch of lines ends with a seal,
`{"seal":"<hex>","seq":<number>,"by":"<instance>","key":"<public key>"}`: the writer's Ed25519 signature on the chain's
head. An export is these lines as they are stored, so it can be verified away from the system it came from.

What the chain shows: any change of a byte, a record left out, added, moved or doubled, and a chain rewritten by one who
does not hold the key. What it cannot show by itself: that its *end* was cut off. For that, compare with a head that was
kept elsewhere, an anchor.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import orjson
from pydantic import JsonValue

from aios_proto.messages.access import AuditFault, AuditFaultKind, AuditVerifyResult

GENESIS: Final = "0" * 64
"""What stands in the place of the hash before the first record."""

CheckSeal = Callable[[str, bytes, bytes], bool]
"""Whether a public key (as a seal names it), a signed text and a signature fit and the key is trusted."""

_MAX_FAULTS: Final = 2000
_TOLD_FAULTS: Final = 100
_DOMAIN: Final = "aios-audit-1"
_START: Final = b'{"sha256":"'
_MIDDLE: Final = b'","record":'
_HASH_END: Final = len(_START) + 64
_RECORD_AT: Final = _HASH_END + len(_MIDDLE)


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a chain: number and hash of its last record; 0 and `GENESIS` of an empty one."""

    seq: int = 0
    sha256: str = GENESIS

    def __str__(self) -> str:
        return f"{self.seq}:{self.sha256}"

    @classmethod
    def parse(cls, text: str) -> "Head":
        """Reads `<seq>:<sha256>`.

        Raises:
            ValueError: the text has another form.
        """
        seq, _, sha256 = text.strip().partition(":")
        if (
            not seq.isascii()
            or not seq.isdigit()
            or len(sha256) != len(GENESIS)
            or set(sha256) - set("0123456789abcdef")
        ):
            raise ValueError("an anchor has the form <number>:<64 hex digits>")
        return cls(int(seq), sha256)


@dataclass(frozen=True, slots=True)
class Fault:
    """One place where a chain is not as it was written.

    Attributes:
        seq: number of the first record that is not what it should be.
        kind: `changed` (bytes differ from the hash), `gap` (records are missing before it), `order` (a number that was
            there already), `link` (it does not follow the one before), `seal` (the signature is missing or wrong),
            `unreadable` (no line of a log), `truncated` (the chain does not reach, or does not pass through, its
            anchor), `deleted` (the store has lost messages).
        detail: one sentence.
    """

    seq: int
    kind: AuditFaultKind
    detail: str


def seal_text(tenant: str, head: Head, by: str) -> bytes:
    """What a seal signs."""
    return f"{_DOMAIN}\n{tenant}\n{by}\n{head.seq}\n{head.sha256}".encode()


def chain_lines(tenant: str, head: Head, records: Sequence[Mapping[str, JsonValue] | str]) -> tuple[list[bytes], Head]:
    """The lines that continue a chain, and its new head.

    Args:
        tenant: whose chain.
        head: where it ends now.
        records: what happened: fields of names other than `tenant`, `seq` and `prev`, text without lone surrogates; or
            the same as JSON, without the opening brace.
    """
    lines: list[bytes] = []
    seq, sha256 = head.seq, head.sha256
    start = f'{{"tenant":{orjson.dumps(tenant).decode()},"seq":'
    for fields in records:
        seq += 1
        if isinstance(fields, str):
            record = f'{start}{seq},"prev":"{sha256}",{fields}'.encode()
        else:
            record = orjson.dumps({"tenant": tenant, "seq": seq, "prev": sha256, **fields})
        sha256 = hashlib.sha256(record).hexdigest()
        lines.append(_START + sha256.encode() + _MIDDLE + record + b"}\n")
    return lines, Head(seq, sha256)


def seal_line(head: Head, signature: bytes, by: str, key: str) -> bytes:
    """The line that closes a batch."""
    return orjson.dumps({"seal": signature.hex(), "seq": head.seq, "by": by, "key": key}) + b"\n"


def head_of(batch: bytes) -> Head | None:
    """The head a batch leaves; None where no line of it is a record."""
    for line in reversed(batch.splitlines()):
        if line.startswith(_START) and (head := _own_head(line)) is not None:
            return head
    return None


@dataclass
class ChainVerifier:
    """Reads a chain from one end to the other and notes every fault.

    Attributes:
        tenant: whose chain it must be.
        check_seal: checks signatures; None takes them as they are.
        sealed: whether every record must stand under a seal.
        anchor: a head of this chain that was kept elsewhere; the chain must pass through it.
        head: what has been read so far.
        records: how many.
        first_seq: number of the first record read; None before it.
        faults: in the order of the chain, at most 2 000. One change may show in several.
    """

    tenant: str
    check_seal: CheckSeal | None = None
    sealed: bool = False
    anchor: Head | None = None
    head: Head = field(default_factory=Head)
    records: int = 0
    first_seq: int | None = None
    faults: list[Fault] = field(default_factory=list)
    _doubted: str | None = None
    _unsealed_from: int | None = None

    @property
    def intact(self) -> bool:
        """Whether no fault was found."""
        return not self.faults

    def feed(self, batch: bytes) -> None:
        """Takes the next lines in; each ends with a line feed."""
        start = b'{"tenant":"%b","seq":' % self.tenant.encode()
        anchor_seq = -1 if self.anchor is None else self.anchor.seq
        *lines, rest = batch.split(b"\n")
        seq, sha256 = self.head.seq, self.head.sha256
        for line in lines:
            record = line[_RECORD_AT:-1]
            digest = hashlib.sha256(record).hexdigest()
            sound = line[:_RECORD_AT] == _START + digest.encode() + _MIDDLE and line[-1:] == b"}"
            if sound and record.startswith(start + b'%d,"prev":"%b"' % (seq + 1, sha256.encode())):
                seq += 1
                sha256 = digest
                self._passed(seq, sha256)
                self._doubted = None
            else:
                self.head = Head(seq, sha256)
                self._unexpected(line, digest, sound=sound)
                seq, sha256 = self.head.seq, self.head.sha256
            if seq == anchor_seq:
                self._compare_anchor(sha256)
                anchor_seq = -1
        self.head = Head(seq, sha256)
        if rest:
            self._fault("unreadable", "the last line has no end")

    def end(self) -> None:
        """Nothing more comes."""
        if self.sealed and self._unsealed_from is not None:
            self._fault("seal", "the last records are not under a seal", self._unsealed_from)
        if self.anchor is not None and self.head.seq < self.anchor.seq:
            self._fault("truncated", f"the chain ends at {self.head.seq}, it once reached {self.anchor.seq}")

    @staticmethod
    def before(batch: bytes) -> Head | None:
        """What a batch's first record says it follows, for a chain whose beginning was dropped on purpose."""
        line = batch.split(b"\n", 1)[0]
        own = _own_head(line)
        return None if own is None or own.seq < 1 else Head(own.seq - 1, _links(line)[0])

    @staticmethod
    def tenant_of(line: bytes) -> str | None:
        """Whose chain a line belongs to; None where it is no record."""
        return None if _own_head(line) is None else _links(line)[1]

    def verdict(self) -> AuditVerifyResult:
        """What was found, in the form of `access.audit.verify`."""
        first = self.faults[0] if self.faults else None
        return AuditVerifyResult(
            tenant=self.tenant,
            records=self.records,
            intact=self.intact,
            head=str(self.head),
            sealed=self.check_seal is not None,
            first_seq=self.first_seq,
            first_fault=None if first is None else first.seq,
            fault=None if first is None else f"{first.kind}: {first.detail}",
            faults=[
                AuditFault(seq=each.seq, kind=each.kind, detail=each.detail) for each in self.faults[:_TOLD_FAULTS]
            ],
        )

    def note(self, fault: Fault) -> None:
        """Adds a fault that was seen in the store itself."""
        self.faults.append(fault)

    def _passed(self, seq: int, sha256: str) -> None:
        self.records += 1
        if self.first_seq is None:
            self.first_seq = seq
        if self._unsealed_from is None:
            self._unsealed_from = seq

    def _compare_anchor(self, sha256: str) -> None:
        if self.anchor is not None and sha256 not in (self.anchor.sha256, self._doubted):
            self._fault("truncated", "this is not the record that was kept elsewhere", self.anchor.seq)

    def _unexpected(self, line: bytes, digest: str, *, sound: bool) -> None:
        if line.startswith(b'{"seal":'):
            self._seal(line)
            return
        due = self.head.seq + 1
        if not line.startswith(_START) or len(line) <= _RECORD_AT:
            self._fault("unreadable", "this is no record")
            return
        if not sound:
            self._fault("changed", "the record's bytes are not those its hash was made of")
            # Either of the two hashes may be the true one: the next record tells which.
            stated = line[len(_START) : _HASH_END].decode("ascii", "replace")
            self._go_on(due, stated, doubted=digest)
            return
        own = _own_head(line)
        if own is None:
            self._fault("unreadable", "the record has no number")
            return
        prev, tenant = _links(line)
        if tenant != self.tenant:
            self._fault("link", f"the record belongs to the chain of {tenant[:64]!r}")
        elif own.seq > due:
            self._fault("gap", f"records {due} to {own.seq - 1} are missing")
        elif own.seq < due:
            self._fault("order", f"record {own.seq} stands where {due} was due")
        elif self._doubted is None or prev != self._doubted:
            self._fault("link", "the record does not follow the one before it")
        self._go_on(own.seq, own.sha256, doubted=None)

    def _go_on(self, seq: int, sha256: str, doubted: str | None) -> None:
        """Continues behind a record that was not as expected, so that the next ones are judged by themselves."""
        self.head = Head(seq, sha256)
        self._doubted = doubted
        self._passed(seq, sha256)

    def _seal(self, line: bytes) -> None:
        first, self._unsealed_from = self._unsealed_from, None
        place = self.head.seq if first is None else first
        try:
            seal = orjson.loads(line)
            signature, seq = bytes.fromhex(seal["seal"]), int(seal["seq"])
            by, key = str(seal["by"]), str(seal["key"])
            written = seal_line(Head(seq), signature, by, key)
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            self._fault("seal", "the seal cannot be read", place)
            return
        if written != line + b"\n":
            self._fault("seal", "the seal was changed", place)
        elif seq != self.head.seq:
            self._fault("seal", f"the seal of record {seq} stands behind {self.head.seq}", place)
        elif self.check_seal is not None and not self.check_seal(key, seal_text(self.tenant, self.head, by), signature):
            self._fault("seal", "the signature does not fit, or its key is not trusted", place)

    def _fault(self, kind: AuditFaultKind, detail: str, seq: int | None = None) -> None:
        if len(self.faults) < _MAX_FAULTS:
            self.faults.append(Fault(self.head.seq + 1 if seq is None else seq, kind, detail))


def _own_head(line: bytes) -> Head | None:
    try:
        parsed = orjson.loads(line)
        return Head(int(parsed["record"]["seq"]), str(parsed["sha256"]))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return None


def _links(line: bytes) -> tuple[str, str]:
    record = orjson.loads(line)["record"]
    return str(record.get("prev")), str(record.get("tenant"))
