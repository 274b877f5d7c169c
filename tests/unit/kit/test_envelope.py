"""What is stored can be opened by its own tenant and name only, and not at all once the tenant's keys are gone."""

import asyncio
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_kit.envelope import OVERHEAD_BYTES, Envelope, is_sealed, key_version
from aios_kit.key_ring import FileKeyRing, Tampered, TenantShredded
from aios_proto.errors import InternalError, InvalidRequest, ResourceConflict

MARKER = b"the launch code is 0000"


@pytest.fixture
def ring(tmp_path: Path) -> FileKeyRing:
    return FileKeyRing(tmp_path / "ring")


@pytest.fixture
def envelope(ring: FileKeyRing) -> Envelope:
    return Envelope(ring)


async def test_a_sealed_blob_opens_again_and_hides_its_content(envelope: Envelope) -> None:
    blob = await envelope.seal("acme", "note/1", MARKER)
    assert MARKER not in blob
    assert len(blob) == len(MARKER) + OVERHEAD_BYTES
    assert is_sealed(blob)
    assert await envelope.open("acme", "note/1", blob) == MARKER


async def test_the_same_content_is_sealed_differently_each_time(envelope: Envelope) -> None:
    assert await envelope.seal("acme", "a", MARKER) != await envelope.seal("acme", "a", MARKER)


@pytest.mark.parametrize(("tenant", "name"), [("acme", "note/2"), ("other", "note/1"), ("acme", "note/1\0")])
async def test_a_blob_under_another_name_or_tenant_does_not_open(envelope: Envelope, tenant: str, name: str) -> None:
    blob = await envelope.seal("acme", "note/1", MARKER)
    await envelope.seal("other", "note/1", MARKER)
    with pytest.raises(Tampered):
        await envelope.open(tenant, name, blob)


async def test_no_changed_byte_goes_unnoticed(envelope: Envelope) -> None:
    blob = await envelope.seal("acme", "note/1", MARKER)
    for place in range(len(blob)):
        changed = blob[:place] + bytes([blob[place] ^ 1]) + blob[place + 1 :]
        with pytest.raises(Tampered):
            await envelope.open("acme", "note/1", changed)


@given(st.binary(max_size=200))
def test_bytes_that_were_never_sealed_are_refused(junk: bytes) -> None:
    with pytest.raises(Tampered):
        asyncio.run(Envelope(FileKeyRing(Path("/nonexistent"))).open("acme", "x", junk))


async def test_another_process_opens_what_this_one_sealed(envelope: Envelope, tmp_path: Path) -> None:
    blob = await envelope.seal("acme", "note/1", MARKER)
    assert await Envelope(FileKeyRing(tmp_path / "ring")).open("acme", "note/1", blob) == MARKER


async def test_processes_that_start_together_make_one_key(tmp_path: Path) -> None:
    envelopes = [Envelope(FileKeyRing(tmp_path / "ring")) for _ in range(8)]
    blobs = await asyncio.gather(*(one.seal("acme", "x", MARKER) for one in envelopes))
    for one in envelopes:
        for blob in blobs:
            assert await one.open("acme", "x", blob) == MARKER


async def test_rotation_is_seen_at_once_and_loses_nothing(envelope: Envelope, tmp_path: Path) -> None:
    old = await envelope.seal("acme", "x", MARKER)
    elsewhere = Envelope(FileKeyRing(tmp_path / "ring"))
    assert await elsewhere.ring.rotate("acme") == 2
    new = await envelope.seal("acme", "x", MARKER)
    assert (key_version(old), key_version(new)) == (1, 2)
    assert await envelope.open("acme", "x", old) == MARKER
    assert await envelope.rewrap("acme", new) is None
    again = await envelope.rewrap("acme", old)
    assert again is not None
    await envelope.ring.retire("acme", 2)
    assert await elsewhere.open("acme", "x", again) == MARKER
    with pytest.raises(Tampered):
        await elsewhere.open("acme", "x", old)


async def test_the_current_key_cannot_be_retired(ring: FileKeyRing) -> None:
    await ring.data_key("acme")
    with pytest.raises(InvalidRequest):
        await ring.retire("acme", 2)


async def test_a_shredded_tenant_is_gone_everywhere_at_once_and_for_good(envelope: Envelope, tmp_path: Path) -> None:
    blob = await envelope.seal("acme", "x", MARKER)
    kept = await envelope.seal("other", "x", MARKER)
    elsewhere = Envelope(FileKeyRing(tmp_path / "ring"))
    assert await elsewhere.open("acme", "x", blob) == MARKER
    await envelope.ring.destroy("acme")
    for one in (envelope, elsewhere, Envelope(FileKeyRing(tmp_path / "ring"))):
        with pytest.raises(TenantShredded):
            await one.open("acme", "x", blob)
        with pytest.raises(TenantShredded):
            await one.seal("acme", "x", MARKER)
        with pytest.raises(TenantShredded):
            await one.ring.rotate("acme")
        assert await one.open("other", "x", kept) == MARKER
    assert (await elsewhere.ring.describe("acme")).destroyed


async def test_only_the_owner_can_read_the_keys(envelope: Envelope, tmp_path: Path) -> None:
    await envelope.seal("acme", "x", MARKER)
    assert stat.S_IMODE((tmp_path / "ring").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "ring" / "acme.json").stat().st_mode) == 0o600
    assert not list((tmp_path / "ring").glob("*.partial"))
    assert not list((tmp_path / "ring").glob(".*.partial"))


@pytest.mark.parametrize("tenant", ["../evil", "", "a/b", ".", "a\0b", "ä", "x" * 65])
async def test_a_tenant_that_is_no_name_reaches_no_file(envelope: Envelope, tmp_path: Path, tenant: str) -> None:
    with pytest.raises(InvalidRequest):
        await envelope.seal(tenant, "x", MARKER)
    assert not (tmp_path / "ring").exists()


async def test_keys_show_in_no_representation(ring: FileKeyRing) -> None:
    key = await ring.data_key("acme")
    assert repr(key.plain)[2:-1] not in repr(key)
    assert "\\x" not in repr(ring._known)


async def test_exported_keys_open_the_data_elsewhere(envelope: Envelope, tmp_path: Path) -> None:
    blob = await envelope.seal("acme", "x", MARKER)
    exported = FileKeyRing(tmp_path / "ring").export("acme")
    assert exported is not None
    elsewhere = FileKeyRing(tmp_path / "other")
    elsewhere.restore("acme", exported)
    elsewhere.restore("acme", exported)
    assert await Envelope(elsewhere).open("acme", "x", blob) == MARKER


async def test_keys_are_not_put_over_others_nor_over_destroyed_ones(ring: FileKeyRing, tmp_path: Path) -> None:
    await ring.data_key("acme")
    exported = ring.export("acme")
    assert exported is not None
    other = FileKeyRing(tmp_path / "other")
    await other.data_key("acme")
    with pytest.raises(ResourceConflict):
        other.restore("acme", exported)
    with pytest.raises(InternalError):
        other.restore("beta", exported)
    await ring.destroy("acme")
    with pytest.raises(TenantShredded):
        ring.restore("acme", exported)
    assert ring.export("nobody") is None
