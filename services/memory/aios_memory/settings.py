"""What the memory manager can be told from outside."""

from pydantic import Field

from aios_kit.envelope_settings import EncryptedServiceSettings


class MemorySettings(EncryptedServiceSettings):
    """Settings of the memory manager, `AIOS_MEMORY_*`, beside those all services share and `AIOS_VECTORS_*`."""

    memory_max_items: int = Field(100_000, ge=1, description="notes of one agent or pool")
    memory_max_bytes: int = Field(256 << 20, ge=1024, description="bytes of the notes of one agent or pool")
    memory_hot_bytes: int = Field(4 << 20, ge=1, description="bytes of notes kept in memory for each agent or pool")
    memory_lru_k: int = Field(2, ge=1, le=16, description="K of LRU-K: how many uses of a note count")
    memory_spaces: int = Field(256, ge=1, description="agents and pools whose notes are indexed in memory at once")
    memory_embed_batch: int = Field(16, ge=1, le=1024, description="most notes embedded in one call")
    memory_embed_timeout_s: float = Field(30.0, gt=0, description="longest wait for one embedding call")
    memory_embed_retry_s: float = Field(1.0, gt=0, description="first wait after embedding failed; doubles up to 30 s")
    memory_search_wait_s: float = Field(
        2.0, ge=0, description="longest wait of a semantic search for notes that are not embedded yet"
    )
    memory_lease_s: float = Field(
        2.0,
        ge=0.4,
        le=30,
        description="seconds without a sign of life of the active memory manager after which a standby takes over",
    )
    memory_agentic_timeout_s: float = Field(120.0, gt=0, description="longest wait for the model on an agentic note")
    memory_agentic_neighbours: int = Field(5, ge=0, le=50, description="similar notes an agentic note is shown with")
