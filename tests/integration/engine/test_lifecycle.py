"""How an engine comes up, tells how far it is, and goes."""

import socket
from pathlib import Path

import aiohttp
import pytest
from support.engine import engine_process
from support.engine_client import events, generate
from support.otlp_sink import OtlpSink

pytestmark = pytest.mark.timeout(20, func_only=True)


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_health_tells_how_far_the_model_is_while_the_port_is_open(tmp_path: Path) -> None:
    with engine_process(cache_dir=tmp_path / "cache") as engine:
        async with aiohttp.ClientSession(engine.url) as http:
            engine.wait_for_log("bringing the model to Q8_0")
            async with http.get("/health") as response:
                health = await response.json()
            assert response.status == 503
            assert health["error_type"] == "healthcheck"
            assert health["progress"]["stage"] in ("requantising", "loading")
            for path in ("/info", "/v1/models"):
                assert (await http.get(path)).status == 503
            async with http.post("/generate", json={"inputs": "x"}) as response:
                assert response.status == 503
            assert (await http.get("/metrics")).status == 200
            engine.wait_for_log("%")
            engine.wait_until_ready()
            assert (await http.get("/health")).status == 200
            assert (await generate(http, "The capital of France is", max_new_tokens=1))["generated_text"] == " Paris"


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"AIOS_ENGINE_MODEL": "/nowhere/m.gguf"}, "there is no file /nowhere/m.gguf"),
        ({"AIOS_ENGINE_MODEL": "what is this"}, "no hub name"),
        ({"AIOS_ENGINE_MODEL": __file__, "AIOS_ENGINE_REQUANTISE": "false"}, "cannot be loaded"),
    ],
)
def test_an_engine_without_its_model_says_why_and_ends(env: dict[str, str], message: str) -> None:
    with engine_process(env) as engine:
        engine.wait_for_log(message)
        assert engine.wait() == 1


def test_a_wrong_setting_is_told_by_its_name() -> None:
    with engine_process({"AIOS_ENGINE_N_CTX": "many"}) as engine:
        engine.wait_for_log("n_ctx")
        assert engine.wait() == 2


def test_a_taken_port_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with engine_process(flags=("--port", str(taken.getsockname()[1]))) as engine:
            engine.wait_for_log("in use")
            assert engine.wait() == 1


async def test_an_engine_that_is_asked_to_stop_finishes_what_it_began() -> None:
    with engine_process() as engine:
        engine.wait_until_ready()
        async with aiohttp.ClientSession(engine.url) as http:
            body = {"inputs": "Once upon a time", "parameters": {"max_new_tokens": 20, "details": True}}
            async with http.post("/generate_stream", json=body) as response:
                found = [await anext(events(response))]
                engine.terminate()
                engine.wait_for_log("stopping")
                found += [event async for event in events(response)]
            assert found[-1]["details"]["generated_tokens"] == 20
        assert engine.wait() == 0


async def test_an_engine_that_is_asked_to_stop_does_not_wait_for_ever() -> None:
    with engine_process({"AIOS_DRAIN_TIMEOUT_S": "0.2"}) as engine:
        engine.wait_until_ready()
        async with aiohttp.ClientSession(engine.url) as http:
            body = {"inputs": "Once upon a time", "parameters": {"max_new_tokens": 1000}}
            async with http.post("/generate_stream", json=body) as response:
                await anext(events(response))
                engine.terminate()
                assert engine.wait() == 0


async def test_a_silent_stream_is_kept_alive() -> None:
    with engine_process({"AIOS_ENGINE_MAX_SEQUENCES": "1", "AIOS_ENGINE_KEEP_ALIVE_S": "0.05"}) as engine:
        engine.wait_until_ready()
        async with aiohttp.ClientSession(engine.url) as http:
            body = {"inputs": "Once upon a time", "parameters": {"max_new_tokens": 900}}
            async with http.post("/generate_stream", json=body) as first:
                await anext(events(first))
                async with http.post("/generate_stream", json=body) as waiting:
                    assert await waiting.content.readline() == b":\n"
                    waiting.close()
                first.close()


async def test_a_traced_request_shows_queue_prefill_and_decode_below_the_callers_span() -> None:
    with OtlpSink() as sink, engine_process({"OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint}) as engine:
        engine.wait_until_ready()
        async with aiohttp.ClientSession(engine.url) as http:
            trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
            headers = {"traceparent": f"00-{trace}-{parent}-01"}
            body = {"inputs": "Hi", "parameters": {"max_new_tokens": 3}}
            async with http.post("/generate", json=body, headers=headers) as response:
                assert response.status == 200
            unsampled = {"traceparent": f"00-{'1' * 32}-{parent}-00"}
            async with http.post("/generate", json=body, headers=unsampled) as response:
                assert response.status == 200
        spans = await sink.trace(trace, lambda found: len(found) >= 4)
        server = next(span for span in spans if span.name == "POST /generate")
        assert server.parent_id == parent
        phases = [span for span in spans if span is not server]
        assert sorted(span.name for span in phases) == ["engine.decode", "engine.prefill", "engine.queue"]
        assert all(span.parent_id == server.span_id for span in phases)
        assert all(server.start_ns <= span.start_ns <= span.end_ns <= server.end_ns for span in phases)
        engine.terminate()
        assert engine.wait() == 0
        assert {span.trace_id for span in sink.spans} == {trace}
