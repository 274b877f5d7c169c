"""What a worker can be told from outside."""

from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, SecretStr

from aios_kit.settings import ServiceSettings
from aios_proto.names import NAME_PATTERN


class WorkerSettings(ServiceSettings):
    """Settings of one LLM worker, beside those all services share."""

    engine_kind: Literal["tgi", "openai", "instant"] = Field(
        "tgi",
        description="API of the endpoint: `tgi`, or `openai` for vLLM, SGLang, llama.cpp and Ollama;"
        " `instant` answers at once, for measuring the road",
    )
    engine_model: str | None = Field(
        None, description="which of an `openai` endpoint's models to use; default: the first it lists"
    )
    engine_chat_template: Path | None = Field(
        None,
        description="file with the chat template of an `openai` endpoint's model; with it, calls can be stopped"
        " and gone on with, without it the endpoint applies its own and they cannot; llama.cpp's server needs none",
    )
    engine_total_tokens: int = Field(
        0, ge=0, description="longest prompt and answer together, where an `openai` endpoint does not tell"
    )
    engine_url: str = Field("http://127.0.0.1:8080", description="base URL of the inference endpoint")
    engine_id: str | None = Field(
        None,
        pattern=NAME_PATTERN,
        description="which engine the endpoint is: workers that name the same are together given what it runs at once;"
        " default: what the engine says, and only this project's own says it",
    )
    engine_api_key: SecretStr | None = Field(None, description="bearer key of the endpoint, if it wants one")
    llm_engine_extensions: bool = Field(
        True, description="use what an engine announces beyond TGI: token ids, held KV, its chat template"
    )
    pool: str = Field("default", pattern=NAME_PATTERN, description="pool this worker belongs to")
    worker: str | None = Field(None, pattern=NAME_PATTERN, description="name in the pool; default: the instance's name")
    model: str | None = Field(
        None,
        validation_alias=AliasChoices("AIOS_MODEL_NAME", "AIOS_LLM_MODEL"),
        description="name under which the model is offered; default: what the engine says",
    )
    llm_in_flight: int | None = Field(
        None, ge=1, description="calls wanted at once; default: what the engine runs together, at most 128"
    )
    llm_default_max_tokens: int = Field(512, ge=1, description="new tokens of a call that names no limit")
    llm_delta_interval_s: float = Field(0.02, ge=0, description="longest time a token waits for others in its frame")
    llm_delta_tokens: int = Field(8, ge=1, description="most tokens that wait for each other in one frame")
    llm_checkpoint_tokens: int = Field(64, ge=1, description="tokens after which what was made is stored")
    llm_checkpoint_interval_s: float = Field(
        0.5, gt=0, description="seconds after which a token is stored at the latest, so that another worker can go on"
    )
    llm_kv_save_bytes_per_s: int = Field(
        16 << 20,
        ge=0,
        description="most KV of running calls that is stored beside their checkpoints in a second, where the engine"
        " gives it away, so that another engine goes on without computing it again; 0 stores none",
    )
    llm_context_timeout_s: float = Field(
        30, gt=0, description="longest wait for the context manager, which may have to count tokens first"
    )
    llm_engine_check_s: float = Field(0.5, gt=0, description="seconds between looks at the engine's health")
    llm_connect_timeout_s: float = Field(5.0, gt=0, description="longest wait for a connection to the engine")
    llm_silence_s: float = Field(
        120, gt=0, description="longest silence of a running engine: it sends tokens or keep-alives more often"
    )

    @property
    def worker_name(self) -> str:
        """The worker's name in its pool."""
        return self.worker or self.instance
