"""Which vector store a service uses: the embedded one in a folder, or a Qdrant server."""

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from aios_kit.vectors.port import VectorStore


class VectorSettings(BaseSettings):
    """Settings of the vector store, `AIOS_VECTORS_*`; a service that keeps vectors reads them beside its own."""

    model_config = SettingsConfigDict(env_prefix="AIOS_VECTORS_", extra="ignore", frozen=True)

    url: str | None = Field(None, description="base URL of a Qdrant server; none uses the embedded engine")
    api_key: SecretStr | None = Field(None, description="API key of that server, if it wants one")
    folder: Path = Field(Path("vectors"), description="where the embedded engine keeps its files; one process only")
    timeout_s: float = Field(10.0, gt=0, description="longest wait for one answer of the server")
    flush_s: float = Field(1.0, gt=0, description="embedded: seconds after which what was written is on disk")
    index_after: int = Field(
        20_000, ge=1000, description="embedded: vectors without an index after which one is built, in the background"
    )


def open_vector_store(settings: VectorSettings) -> VectorStore:
    """The adapter the settings ask for; it connects or opens files at its first use.

    Raises:
        ModuleNotFoundError: the extra `aios-kit[vectors]` is not installed.
    """
    # Here, so that a service without vectors needs neither package.
    if settings.url is not None:
        from aios_kit.vectors.qdrant_server import QdrantServer

        key = settings.api_key
        return QdrantServer(settings.url, None if key is None else key.get_secret_value(), settings.timeout_s)
    from aios_kit.vectors.qdrant_edge import QdrantEdge

    return QdrantEdge(settings.folder, flush_s=settings.flush_s, index_after=settings.index_after)
