"""A generation that goes on behind tokens made before, with KV that was held, moved or is gone: always the same."""

import asyncio
from typing import Any

import aiohttp
import pytest
from support.engine_client import call, events, stream

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PROMPT = "Once upon a time, in a village by the sea, there lived a"
SEEDED = {"do_sample": True, "temperature": 0.9, "top_p": 0.9, "repetition_penalty": 1.1, "seed": 5}


async def ask(http: aiohttp.ClientSession, stop_at: int | None = None, **body: Any) -> list[dict[str, Any]]:
    """Events of a stream with fields beside `parameters`, up to a number of them."""
    answer: list[dict[str, Any]] = []
    async with http.post("/generate_stream", json=body) as response:
        async for event in events(response):
            answer.append(event)
            if len(answer) == stop_at:
                response.close()
                break
    return answer


async def held(http: aiohttp.ClientSession, key: str) -> None:
    """Waits until the engine has noticed that its client left."""
    async with asyncio.timeout(20):
        while True:
            async with http.head(f"/aios/kv/{key}") as response:
                if response.status == 200:
                    return
            await asyncio.sleep(0.01)


def ids(answer: list[dict[str, Any]]) -> list[int]:
    return [event["token"]["id"] for event in answer]


@pytest.mark.parametrize("sampling", [{}, SEEDED], ids=["greedy", "seeded"])
@pytest.mark.parametrize("level", ["hot", "warm", "cold"])
async def test_the_rest_is_what_it_would_have_been(
    http: aiohttp.ClientSession, sampling: dict[str, Any], level: str
) -> None:
    whole = await stream(http, PROMPT, max_new_tokens=24, **sampling)
    body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 24, "details": True, **sampling}}
    longer = {**body, "parameters": {**body["parameters"], "max_new_tokens": 200}}  # type: ignore[dict-item]
    begun = await ask(http, 9, kv_key="paused", **longer)
    assert ids(begun) == ids(whole)[:9]
    await held(http, "paused")
    more: dict[str, Any] = {"kv_from": "paused"}
    if level == "warm":
        async with http.get("/aios/kv/paused") as response:
            image = await response.read()
        async with http.delete("/aios/kv/paused") as response:
            assert response.status == 204
        async with http.put("/aios/kv/brought", data=image) as response:
            assert response.status == 204
        more = {"kv_from": "brought"}
    elif level == "cold":
        more = {"cache_prompt": False}
    rest = await ask(http, **{**body, **more, "generated_ids": ids(begun)})
    assert ids(begun) + ids(rest) == ids(whole)
    details, wanted = rest[-1]["details"], whole[-1]["details"]
    for field in ("finish_reason", "generated_tokens", "input_length"):
        assert details[field] == wanted[field]
    assert rest[-1]["generated_text"] == whole[-1]["generated_text"]
    assert (details["cached_tokens"] >= wanted["input_length"]) == (level != "cold")


async def test_five_continuations_of_one_paused_generation_share_what_it_computed(http: aiohttp.ClientSession) -> None:
    body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 200, "details": True}}
    begun = await ask(http, 40, kv_key="parent", **body)
    await held(http, "parent")
    continued = await asyncio.gather(
        *(
            ask(
                http,
                inputs=PROMPT,
                generated_ids=ids(begun),
                kv_from="parent",
                kv_key=f"child{seed}",
                parameters={"max_new_tokens": 48, "details": True, **SEEDED, "seed": seed},
            )
            for seed in range(5)
        )
    )
    prompt_tokens = continued[0][-1]["details"]["input_length"]
    for answer in continued:
        # All but the last token made before, whose scores give the next one.
        assert answer[-1]["details"]["cached_tokens"] >= prompt_tokens + len(begun) - 1
    assert len({tuple(ids(answer)) for answer in continued}) > 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"generated_ids": [1] * 8}, "fewer than `max_new_tokens`"),
        ({"generated_ids": [10_000_000]}, "`generated_ids` must be less than"),
        ({"generated_ids": [2]}, "a generation that has ended"),
        ({"kv_key": "not a key"}, "kv_key"),
    ],
)
async def test_what_cannot_be_gone_on_with_is_refused_by_name(
    http: aiohttp.ClientSession, fields: dict[str, Any], message: str
) -> None:
    status, said = await call(http, "/generate", {"inputs": "x", "parameters": {"max_new_tokens": 8}, **fields})
    assert status == 422
    assert message in said["error"]


async def test_kv_that_is_not_held_or_is_none_is_refused(http: aiohttp.ClientSession) -> None:
    async with http.get("/aios/kv/nobody") as response:
        assert response.status == 404
    async with http.delete("/aios/kv/nobody") as response:
        assert response.status == 404
    async with http.put("/aios/kv/broken", data=b"nonsense") as response:
        assert response.status == 422
        assert "no KV image" in (await response.json())["error"]
    async with http.head("/aios/kv/broken") as response:
        assert response.status == 404


async def test_an_engine_says_what_it_offers_beyond_tgi(http: aiohttp.ClientSession) -> None:
    async with http.get("/info") as response:
        said = (await response.json())["aios"]
    assert said["generated_ids"] is said["kv_hold"] is True
    assert said["fingerprint"]
