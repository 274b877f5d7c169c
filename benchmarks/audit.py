"""How fast the audit log is written and verified, and whether every change of one byte in it is found.

The log is written by the real writer into a real JetStream stream on disk and verified by what `access.audit.verify`
runs. Each change is made to one byte of the stored log, drawn at random, in a copy of its own of the batch it lies in;
the verifier reads from the head before that batch to the end of the next one, as it would on its way through the log. A
few changes are also looked for by reading the whole log, to show that the short way finds the same.
"""

import argparse
import asyncio
import random
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import structlog
from nats.aio.client import Client
from report import Bar, Report, read_options

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.nats_server import running_nats

from aios_access.adapters.audit_stream import AuditWriter, audit_stream, read_batches
from aios_access.audit_chain import ChainVerifier, Head
from aios_access.audit_operations import verify_stored
from aios_access.audit_seal import Sealer, trusting
from aios_access.audit_trail import AuditTrail
from aios_kit.streams import ensure_stream
from aios_proto.headers import CallHeaders
from aios_proto.ids import new_syscall_id
from aios_proto.kernel import CallEnd

TENANT = "bench"
VERIFY_LIMIT_S = 60.0
_PAUSE_EVERY = 2000
_WAITING = 20_000
_BODY = b"x" * 900


@dataclass(frozen=True)
class Written:
    seconds: float
    cpu_us_per_record: float


async def write(nc: Client, records: int, seed: str) -> Written:
    """Half of the records are decisions, half are ends, as calls leave them."""
    js = nc.jetstream(timeout=30)
    await ensure_stream(js, audit_stream(1, 0))
    log = structlog.stdlib.get_logger("bench")
    writer = AuditWriter(js, Sealer(seed, "bench"), log, linger_s=0.05, capacity=records)
    trail = AuditTrail(writer, "bench")
    writer.open()
    started, cpu = time.monotonic(), _cpu_s()
    for number in range(records // 2):
        call_id = new_syscall_id()
        headers = CallHeaders(call_id, program="run-1", tenant=TENANT, agent=f"agent-{number % 1000}", group="agent")
        trail.decided(headers, "memory.search", "allow", ("default:agent",), _BODY, "0" * 32, time.time_ns() // 1000)
        trail.ended(CallEnd(key=headers.key, operation="memory.search", program="run-1", at_us=time.time_ns() // 1000))
        if number % _PAUSE_EVERY == 0 and writer.waiting > _WAITING:
            await writer.stored(TENANT)
    await writer.stored(TENANT)
    written = Written(time.monotonic() - started, (_cpu_s() - cpu) / records * 1e6)
    await writer.close(5)
    return written


async def verify(nc: Client, public: str) -> tuple[ChainVerifier, float]:
    """What `access.audit.verify` does, and how long it took in seconds."""
    verifier = ChainVerifier(TENANT, trusting({public}), sealed=True)
    started = time.monotonic()
    await verify_stored(nc.jetstream(timeout=30), verifier, keeps_all=True)
    return verifier, time.monotonic() - started


async def find_changes(nc: Client, changes: int, whole: int, public: str, chance: random.Random) -> tuple[int, int]:
    """How many of so many changes were found by the short way, and of `whole` by reading everything."""
    batches = [batch.lines async for batch in read_batches(nc.jetstream(timeout=30), TENANT)]
    trusted = trusting({public})
    heads: list[Head] = []
    reader = ChainVerifier(TENANT, trusted, sealed=True)
    for batch in batches:
        heads.append(reader.head)
        reader.feed(batch)
    assert reader.intact
    sizes = [len(batch) for batch in batches]
    found = found_whole = 0
    for change in range(changes):
        at = chance.choices(range(len(batches)), sizes)[0]
        changed = bytearray(batches[at])
        place = chance.randrange(len(changed))
        changed[place] ^= chance.randrange(1, 256)
        line = batches[at].count(b"\n", 0, place)
        verifier = ChainVerifier(TENANT, trusted, sealed=True, head=heads[at])
        for batch in (bytes(changed), *batches[at + 1 : at + 2]):
            verifier.feed(batch)
        verifier.end()
        here = range(heads[at].seq + 1, heads[at].seq + line + 3)
        found += bool(verifier.faults) and verifier.faults[0].seq in here
        if change < whole:
            full = ChainVerifier(TENANT, trusted, sealed=True)
            for number, batch in enumerate(batches):
                full.feed(bytes(changed) if number == at else batch)
            full.end()
            found_whole += bool(full.faults) and full.faults[0].seq in here
    return found, found_whole


def _cpu_s() -> float:
    return time.process_time()


async def run(options: argparse.Namespace) -> int:
    report = Report("audit", "The audit log", ("what", "value"))
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder, running_nats(Path(folder)) as server:
        assert server.credentials is not None
        seed = server.credentials.issuer_seed.read_text()
        public = Sealer(seed, "bench").public
        nc = await server.connect("access")
        written = await write(nc, options.records, seed)
        verifier, seconds = await verify(nc, public)
        found, found_whole = await find_changes(nc, options.changes, options.whole, public, chance)
        await nc.close()
    scaled = seconds * 1_000_000 / options.records
    report.rows += [
        ("records written", f"{options.records:,} in {written.seconds:.1f} s"),
        ("CPU of the writer a record", f"{written.cpu_us_per_record:.1f} µs"),
        ("verified", f"{verifier.records:,} in {seconds:.1f} s"),
        ("changes of one byte found, at their place", f"{found} of {options.changes}"),
        ("... of which also by reading the whole log", f"{found_whole} of {options.whole}"),
        ("memory, peak", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB"),
    ]
    report.bars += [
        Bar("verification of 1 000 000 records", scaled, VERIFY_LIMIT_S, "s"),
        Bar("faults in the log as written", float(len(verifier.faults)), 0, "faults"),
        Bar("changes not found", float(options.changes - found), 0, "changes"),
        Bar("changes not found by reading all", float(options.whole - found_whole), 0, "changes"),
    ]
    report.figures = {
        "records": options.records,
        "seed": options.seed,
        "write_s": written.seconds,
        "write_cpu_us_per_record": written.cpu_us_per_record,
        "verify_s": seconds,
        "changes": options.changes,
        "found": found,
        "whole_log_changes": options.whole,
        "whole_log_found": found_whole,
    }
    return report.finish(options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--changes", type=int, default=1000)
    parser.add_argument("--whole", type=int, default=5, help="changes also looked for by reading the whole log")
    parser.add_argument("--seed", type=int, default=7)
    sys.exit(asyncio.run(run(read_options(parser))))


if __name__ == "__main__":
    main()
