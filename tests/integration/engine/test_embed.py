"""The embedding server on its real model, as a client of text-embeddings-inference sees it."""

from collections.abc import AsyncIterator, Iterator

import aiohttp
import numpy as np
import pytest
from support.embedding import running_embedder
from support.engine_client import call


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running_embedder({"AIOS_EMBED_MAX_CLIENT_BATCH_SIZE": "8"}) as url:
        yield url


@pytest.fixture
async def tei(url: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(total=60)) as session:
        yield session


async def vectors(
    tei: aiohttp.ClientSession, *texts: str, **options: object
) -> "np.ndarray[tuple[int, int], np.dtype[np.float64]]":
    status, said = await call(tei, "/embed", {"inputs": list(texts), **options})
    assert status == 200, said
    return np.array(said)


async def test_texts_that_mean_the_same_are_nearer_than_others(tei: aiohttp.ClientSession) -> None:
    cat, kitten, market = await vectors(
        tei, "a cat sits on the mat", "a kitten rests on a rug", "the stock market fell today"
    )
    assert cat @ kitten > 0.5 > cat @ market


async def test_a_vector_has_length_one_unless_asked_otherwise(tei: aiohttp.ClientSession) -> None:
    normal = await vectors(tei, "hello")
    raw = await vectors(tei, "hello", normalize=False)
    assert np.linalg.norm(normal) == pytest.approx(1, abs=1e-5)
    assert np.linalg.norm(raw) != pytest.approx(1, abs=1e-2)


async def test_one_text_may_come_without_a_list(tei: aiohttp.ClientSession) -> None:
    status, said = await call(tei, "/embed", {"inputs": "hello"})
    assert (status, len(said), len(said[0])) == (200, 1, 384)


async def test_info_names_model_dimensions_and_limits(tei: aiohttp.ClientSession) -> None:
    async with tei.get("/info") as response:
        info = await response.json()
    assert info["model_id"] == "all-minilm-l6-v2-int8"
    assert info["aios"]["dimensions"] == 384
    assert (info["max_client_batch_size"], info["max_input_length"]) == (8, 256)


async def test_a_long_text_is_refused_or_cut_at_its_end_as_the_request_says(tei: aiohttp.ClientSession) -> None:
    long = "word " * 2000
    status, said = await call(tei, "/embed", {"inputs": long})
    assert (status, said["error_type"]) == (413, "validation")
    cut = await vectors(tei, long, long + "and another end", truncate=True)
    assert cut[0] @ cut[1] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"inputs": []}, 400, "empty"),
        ({"inputs": ["a", ""]}, 400, "empty"),
        ({"inputs": ["a"] * 9}, 413, "validation"),
        ({"inputs": [1]}, 422, "validation"),
        ({}, 422, "validation"),
    ],
)
async def test_bad_requests_get_tei_errors(
    tei: aiohttp.ClientSession, body: dict[str, object], status: int, kind: str
) -> None:
    got, said = await call(tei, "/embed", body)
    assert (got, said["error_type"]) == (status, kind)


async def test_emoji_and_chinese_have_vectors_too(tei: aiohttp.ClientSession) -> None:
    found = await vectors(tei, "🙂", "你好", "\u0000")
    assert np.isfinite(found).all()
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-4)


async def test_metrics_count_requests(tei: aiohttp.ClientSession) -> None:
    await vectors(tei, "hello")
    async with tei.get("/metrics") as response:
        assert 'te_embed_count_total{outcome="ok"}' in await response.text()
