"""What the embedding worker can be told from outside."""

from pydantic import Field, SecretStr

from aios_kit.settings import ServiceSettings


class EmbedWorkerSettings(ServiceSettings):
    """Settings of `python -m aios_llm embed`, beside those all services share."""

    embed_url: str = Field("http://127.0.0.1:8081", description="base URL of a text-embeddings-inference server")
    embed_api_key: SecretStr | None = Field(None, description="bearer key of that server, if it wants one")
    embed_model_name: str | None = Field(
        None, description="name under which the model is offered; default: what the server says"
    )
    embed_window_s: float = Field(
        0.0,
        ge=0,
        le=1,
        description="seconds a text waits for others while the server is idle; they meet anyway while not",
    )
    embed_batch_texts: int = Field(
        32, ge=1, le=1024, description="most texts in one batch; the server's own limit holds too"
    )
    embed_in_flight: int = Field(2, ge=1, le=64, description="batches at the server at once")
    embed_check_s: float = Field(1.0, gt=0, description="seconds between looks at the server's health")
    embed_timeout_s: float = Field(30.0, gt=0, description="longest wait for one batch")
