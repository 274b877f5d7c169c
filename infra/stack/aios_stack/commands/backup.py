"""`aios backup` and `aios restore`: all that is kept for a tenant, in one file."""

import asyncio
import os
import time
from base64 import b64decode, b64encode
from pathlib import Path

import click

from aios_kit.key_ring import FileKeyRing
from aios_proto.errors import InvalidRequest, ResourceNotFound
from aios_proto.names import is_name
from aios_proto.permissions import ROLES
from aios_stack.backup.archive import ArchiveWriter, Head, read_head
from aios_stack.backup.passphrase import lock, unlock
from aios_stack.backup.transfer import Bus, load, save, storage_schema
from aios_stack.commands.options import data_option, running_state
from aios_stack.data_folder import DataFolder

PASSPHRASE = "AIOS_BACKUP_PASSPHRASE"

_url_option = click.option("--url", help="The bus; default is that of the stack in the data folder.")
_secrets_option = click.option(
    "--secrets", type=click.Path(path_type=Path, file_okay=False), help="Folder of the services' nkeys."
)
_ring_option = click.option("--key-ring", type=click.Path(path_type=Path, file_okay=False), help="Folder of the keys.")


@click.command()
@click.argument("tenant")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--with-keys", is_flag=True, help=f"Put the tenant's keys in, under ${PASSPHRASE} or what you type.")
@_url_option
@_secrets_option
@_ring_option
@data_option
def backup(
    tenant: str,
    file: Path,
    with_keys: bool,
    url: str | None,
    secrets: Path | None,
    key_ring: Path | None,
    data: Path | None,
) -> None:
    """Write all that is kept for TENANT to FILE, while it goes on working.

    Without its keys a backup can be read only where the key ring still has them: shredding the tenant then reaches
    its backups too.
    """
    if not is_name(tenant):
        raise InvalidRequest(f"{tenant!r} is not a legal tenant", field="tenant")
    folder = DataFolder.find(data)
    keys, salt = None, None
    if with_keys:
        exported = FileKeyRing(key_ring or folder.key_ring).export(tenant)
        if exported is None:
            raise ResourceNotFound(f"tenant {tenant} has no keys here", field="tenant")
        locked = lock(exported, _passphrase(confirm=True), tenant)
        keys, salt = (b64encode(part).decode() for part in locked)
    partial = file.with_name(f".{file.name}.partial")
    bus = _bus(folder, url, secrets)
    schema = asyncio.run(storage_schema(bus))
    made_ms = time.time_ns() // 1_000_000
    head = Head(tenant=tenant, made_ms=made_ms, storage_schema=schema, keys=keys, salt=salt)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as out:
            archive = ArchiveWriter(out, head)
            counts = asyncio.run(save(bus, tenant, archive))
            archive.finish()
            out.flush()
            os.fsync(out.fileno())
        partial.replace(file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _say(f"{tenant} is saved in {file}", counts)


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--replace", is_flag=True, help="Remove what the tenant has now.")
@_url_option
@_secrets_option
@_ring_option
@data_option
def restore(
    file: Path, replace: bool, url: str | None, secrets: Path | None, key_ring: Path | None, data: Path | None
) -> None:
    """Bring back the tenant whose backup is FILE. Its agents should not work until this has ended."""
    head = read_head(file)
    folder = DataFolder.find(data)
    bus = _bus(folder, url, secrets)
    if head.storage_schema is not None and (here := asyncio.run(storage_schema(bus))) != head.storage_schema:
        raise InvalidRequest(
            f"the backup's files are of form {head.storage_schema}, those here of form {here}: "
            "restore it with the version that made it, then upgrade",
            field="file",
        )
    if head.keys is not None and head.salt is not None:
        exported = unlock(b64decode(head.keys), b64decode(head.salt), _passphrase(confirm=False), head.tenant)
        FileKeyRing(key_ring or folder.key_ring).restore(head.tenant, exported)
    counts = asyncio.run(load(bus, head.tenant, file, replace=replace))
    _say(f"{head.tenant} is back", counts)


def _bus(folder: DataFolder, url: str | None, secrets: Path | None) -> Bus:
    where = secrets or folder.secrets
    return Bus(url or running_state(folder).url, {role: where / f"{role}.nk" for role in ROLES})


def _passphrase(*, confirm: bool) -> str:
    given = os.environ.get(PASSPHRASE)
    if given is None:
        given = click.prompt("Passphrase of the backup", hide_input=True, confirmation_prompt=confirm)
    if not given:
        raise InvalidRequest("the passphrase is empty", field="passphrase")
    return str(given)


def _say(what: str, counts: dict[str, int]) -> None:
    parts = ", ".join(f"{count} in {stream}" for stream, count in counts.items() if count)
    click.echo(f"{what}: {parts or 'nothing is kept for it'}")
