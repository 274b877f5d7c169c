"""The routes that tell about the engine: `/health`, `/info`, `/metrics`, `/v1/models`."""

from aiohttp import web

from aios_engine import __version__
from aios_engine.errors import UnhealthyError
from aios_engine.http.front import front_of
from aios_engine.startup import Stage

TGI_API = "3.3.7"
"""The version of text-generation-inference whose API this is."""


async def health(request: web.Request) -> web.Response:
    """`GET /health`: 200 once generations work; before, 503 with how far the model is."""
    front = front_of(request)
    try:
        _ = front.inference
    except UnhealthyError as error:
        body: dict[str, object] = {**error.body()}
        if front.startup.stage is not Stage.READY:
            body["progress"] = {"stage": front.startup.stage.name.lower(), "percent": front.startup.percent}
        return web.json_response(body, status=error.status)
    return web.Response()


async def info(request: web.Request) -> web.Response:
    """`GET /info`: what is served, as TGI tells it; what goes beyond TGI is under `aios`."""
    front = front_of(request)
    inference = front.inference
    facts, limits, settings = inference.backend.facts, inference.limits, front.settings
    return web.json_response(
        {
            "model_id": facts.id,
            "model_sha": settings.revision,
            "model_dtype": facts.dtype,
            "model_device_type": facts.device,
            "model_pipeline_tag": "text-generation",
            "max_concurrent_requests": settings.max_concurrent_requests,
            "max_best_of": limits.max_best_of,
            "max_stop_sequences": limits.max_stop_sequences,
            "max_input_tokens": limits.max_input_tokens,
            "max_total_tokens": limits.max_total_tokens,
            "max_batch_total_tokens": facts.kv_tokens,
            "max_batch_size": facts.slots,
            "validation_workers": 1,
            "max_client_batch_size": settings.max_client_batch_size,
            "router": "aios-engine",
            "version": TGI_API,
            "sha": None,
            "docker_label": None,
            "aios": {
                "engine_version": __version__,
                "id": front_of(request).id,
                "model": facts.description,
                "vocabulary": facts.vocabulary,
                "chat_template": facts.chat_template,
                "bos_token": facts.bos_token,
                "eos_token": facts.eos_token,
                "prompt_ids": True,
                "cached_tokens": True,
                "generated_ids": facts.resumes,
                "kv_hold": facts.resumes,
                "kv_pieces": facts.kv_pieces,
                "fingerprint": facts.fingerprint,
                "default_max_new_tokens": limits.default_max_new_tokens,
                "deterministic": settings.threads == 1 and facts.dtype == "q8_0",
            },
        }
    )


async def models(request: web.Request) -> web.Response:
    """`GET /v1/models`: the one model."""
    model_id = front_of(request).inference.backend.facts.id
    return web.json_response(
        {"object": "list", "data": [{"id": model_id, "object": "model", "created": 0, "owned_by": model_id}]}
    )


async def metrics(request: web.Request) -> web.Response:
    """`GET /metrics`: Prometheus text."""
    return web.Response(
        body=front_of(request).metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
    )
