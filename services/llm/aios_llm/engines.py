"""Which adapter a worker speaks to its engine through."""

from dataclasses import replace

from aios_llm.adapters.instant import InstantEngine
from aios_llm.adapters.openai import OpenAiEngine, template_of
from aios_llm.adapters.tgi import TgiEngine
from aios_llm.ports import Engine, EngineInfo
from aios_llm.settings import WorkerSettings


def make_engine(settings: WorkerSettings) -> Engine:
    """The adapter the settings ask for."""
    if settings.engine_kind == "instant":
        return InstantEngine()
    secret = settings.engine_api_key
    key = None if secret is None else secret.get_secret_value()
    if settings.engine_kind == "openai":
        return OpenAiEngine(
            settings.engine_url,
            key,
            settings.llm_connect_timeout_s,
            settings.llm_silence_s,
            model=settings.engine_model,
            template=template_of(settings.engine_chat_template),
            total_tokens=settings.engine_total_tokens,
        )
    return TgiEngine(
        settings.engine_url,
        key,
        settings.llm_connect_timeout_s,
        settings.llm_silence_s,
        extensions=settings.llm_engine_extensions,
    )


def renamed(info: EngineInfo, model: str) -> EngineInfo:
    """What an engine says of itself, with the model under another name."""
    return replace(info, model=model)
