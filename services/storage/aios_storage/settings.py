"""What the storage manager can be told from outside."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from aios_kit.envelope_settings import EncryptedServiceSettings
from aios_proto.names import NAME_PATTERN


class MountRoot(BaseModel):
    """A host folder that agents may mount, or mount parts of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path
    writable: bool = False
    tenants: list[str] = Field(description="who may; `*` is everyone")


class StorageSettings(EncryptedServiceSettings):
    """Settings of the storage manager, `AIOS_STORAGE_*`, beside those of all services that store data."""

    storage_mount_roots: list[MountRoot] = Field(
        default_factory=list, description="host folders that may be mounted, as a JSON list; none by default"
    )
    storage_root_tenant: str = Field(
        "default", pattern=NAME_PATTERN, description="operators of this tenant may rotate and shred any tenant's keys"
    )
    storage_quota_bytes: int = Field(0, ge=0, description="bytes of a tenant's newest versions at most; 0: no limit")
    storage_indexed_bytes: int = Field(
        256 << 10, ge=0, description="of each text file, from its beginning, what a search can find"
    )
    storage_semantic: bool = Field(True, description="search by meaning, through `llm.embed` and AIOS_VECTORS_*")
    storage_interactions_days: float = Field(90, gt=0, description="days for which the facts of calls are kept")
    storage_sweep_s: float = Field(3600, gt=0, description="seconds between removals of parts that no version needs")
