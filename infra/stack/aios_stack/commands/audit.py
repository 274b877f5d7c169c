"""`aios audit`: looks for traces of tampering in the audit log, here or in an exported file, and exports it."""

import sys
from pathlib import Path
from typing import TextIO

import click

from aios_access.audit_chain import ChainVerifier, Head
from aios_access.audit_seal import trusting
from aios_proto.errors import InvalidRequest
from aios_proto.messages.access import AuditExportRequest, AuditExportResult, AuditVerifyRequest, AuditVerifyResult
from aios_stack.commands.operator_call import ask_access, checked
from aios_stack.commands.options import data_option

_VERIFY_S = 600.0
_CHUNK_BYTES = 1 << 20


@click.group()
def audit() -> None:
    """Verify and export the audit log: at AIOS_URL with AIOS_TOKEN, else at the stack of the data folder."""


@audit.command()
@click.option("--tenant", help="Whose log; default is the operator's. `kernel` holds what belongs to no tenant.")
@click.option("--anchor", help="A head kept elsewhere, `<number>:<hash>`: the log must pass through it.")
@click.option(
    "--file",
    "exported",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Verify this export instead.",
)
@click.option("--key", "keys", multiple=True, help="With --file: a public nkey whose seals are trusted.")
@data_option
def verify(
    tenant: str | None, anchor: str | None, exported: Path | None, keys: tuple[str, ...], data: Path | None
) -> None:
    """Say whether the log is as it was written, and its head. Exit code 2 and each fault's place where it is not."""
    if exported is None:
        request = checked(AuditVerifyRequest, tenant=tenant, anchor=anchor)
        result = AuditVerifyResult.model_validate(ask_access(data, "audit.verify", request, deadline_s=_VERIFY_S))
    else:
        result = _verify_file(exported, tenant, anchor, keys)
    for fault in result.faults:
        click.echo(f"record {fault.seq}: {fault.kind}: {fault.detail}", err=True)
    seals = "seals checked" if result.sealed else "seals not checked"
    what = "intact" if result.intact else "NOT intact"
    click.echo(f"{result.tenant}: {result.records} records, {what}, {seals}; head {result.head}")
    if not result.intact:
        sys.exit(2)


@audit.command()
@click.option("--tenant", help="Whose log; default is the operator's.")
@click.option("--output", "-o", "target", type=click.File("w", encoding="utf-8"), default="-", help="Default stdout.")
@data_option
def export(tenant: str | None, target: TextIO, data: Path | None) -> None:
    """Write the log as JSON lines, as they are stored; `aios audit verify --file` reads them."""
    cursor: int | None = 0
    while cursor is not None:
        request = checked(AuditExportRequest, tenant=tenant, cursor=cursor)
        page = AuditExportResult.model_validate(ask_access(data, "audit.export", request))
        target.write(page.lines)
        cursor = page.cursor


def _verify_file(exported: Path, tenant: str | None, anchor: str | None, keys: tuple[str, ...]) -> AuditVerifyResult:
    try:
        check = trusting(keys) if keys else None
        head = None if anchor is None else Head.parse(anchor)
    except ValueError as error:
        raise InvalidRequest(str(error)) from error
    with exported.open("rb") as lines:
        first = lines.readline()
        whose = tenant or ChainVerifier.tenant_of(first)
        if whose is None:
            raise InvalidRequest(f"{exported} does not begin with a record of an audit log", field="file")
        verifier = ChainVerifier(whose, check, sealed=check is not None, anchor=head)
        verifier.feed(first)
        while chunk := lines.readlines(_CHUNK_BYTES):
            verifier.feed(b"".join(chunk))
    verifier.end()
    return verifier.verdict()
