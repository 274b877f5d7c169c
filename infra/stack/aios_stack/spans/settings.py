"""What the span store can be told from outside, through environment variables that start with `AIOS_SPANS_`."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class SpanStoreSettings(BaseSettings):
    """Where spans come in and how many are kept."""

    model_config = SettingsConfigDict(env_prefix="AIOS_SPANS_", extra="ignore", frozen=True)

    path: Path = Field(description="the SQLite file")
    host: str = Field("127.0.0.1", description="address of the OTLP/HTTP receiver")
    port: int = Field(4318, ge=0, le=65535, description="its port; 0 takes any free one")
    max_bytes: int = Field(256 << 20, ge=1 << 20, description="size above which the oldest traces are dropped")
    max_request_bytes: int = Field(16 << 20, ge=1 << 10, description="largest request, after decompression")
    queue_requests: int = Field(256, ge=1, description="requests waiting for the disk; with more, senders retry")
    forward_endpoint: str | None = Field(None, description="base URL of another OTLP/HTTP receiver that gets a copy")
