"""What every service can be told from outside, through environment variables that start with `AIOS_`."""

import socket
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from aios_proto.names import NAME_PATTERN


def _default_instance() -> str:
    name = "".join(c if c.isalnum() or c in "-_" else "-" for c in socket.gethostname())
    return name[:64] or "local"


class ServiceSettings(BaseSettings):
    """Settings that all services share; each service adds its own in a subclass. An empty variable is one not set."""

    model_config = SettingsConfigDict(
        env_prefix="AIOS_", env_ignore_empty=True, extra="forbid", populate_by_name=True, frozen=True
    )

    nats_url: str = Field("nats://127.0.0.1:4222", description="NATS servers, separated by commas")
    nats_nkey_file: Path | None = Field(None, description="file with this service's nkey seed; none on an open bus")
    tls_ca: Path | None = Field(None, description="authority that signed the bus' certificate, PEM; none without TLS")
    tls_cert: Path | None = Field(None, description="this service's certificate for a bus that asks for one, PEM")
    tls_key: Path | None = Field(None, description="its private key, PEM")
    instance: str = Field(default_factory=_default_instance, pattern=NAME_PATTERN, description="name of this replica")
    http_host: str = Field("127.0.0.1", description="address of /healthz, /readyz and /metrics")
    http_port: int = Field(0, ge=0, le=65535, description="port of the same; 0 takes any free one")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    drain_timeout_s: float = Field(10, gt=0, description="seconds given to accepted work after SIGTERM")
    request_timeout_s: float = Field(5, gt=0, description="longest wait for one answer of the bus or of JetStream")
    jetstream_replicas: int = Field(1, ge=1, le=5, description="copies of each stream; 3 on a cluster of three")
    trace_sample_ratio: float = Field(1.0, ge=0, le=1, description="share of traces begun here that are recorded")
    otlp_endpoint: str | None = Field(
        None,
        validation_alias=AliasChoices("OTEL_EXPORTER_OTLP_ENDPOINT", "AIOS_OTLP_ENDPOINT"),
        description="base URL of an OTLP/HTTP receiver; none switches tracing off",
    )
