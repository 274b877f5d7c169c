"""What the emulator can be told, beside the engine's own settings: `AIOS_ENGINE_*`, or flags after `emulate`."""

from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from aios_engine.settings import EngineSettings


class EmulatorSettings(EngineSettings):
    """The engine's settings with others in the place of those about a real model."""

    model_config = SettingsConfigDict(cli_prog_name="python -m aios_engine emulate")

    model: str = Field("emulated-8b", description="name the emulated model goes by")
    n_ctx: int = Field(32_768, ge=64, description="tokens of one sequence, prompt and answer together")
    max_sequences: int = Field(128, ge=1, le=4096, description="sequences decoded at once")
    hardware: Literal["h100", "h200", "a100"] = Field("h100", description="whose times are taken")
    kv_tokens: int | None = Field(None, ge=64, description="tokens of KV; default: the hardware's for an 8B model")
    chunk_tokens: int = Field(2048, ge=1, description="prompt tokens computed in one step")
    tick_s: float = Field(0.01, gt=0, description="seconds between deliveries of tokens; steps are shorter")
