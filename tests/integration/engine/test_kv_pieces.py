"""The KV of running generations, read piece by piece and put into another engine: what goes on there is the same."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest
from support.engine import running_engine
from support.engine_client import events, stream

from aios_engine.core.kv_image import KvImage, decode, digest, encode

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PROMPT = "Once upon a time, in a village by the sea, there lived a"
GREEDY: dict[str, Any] = {}
SEEDED = {"do_sample": True, "temperature": 0.9, "top_p": 0.9, "repetition_penalty": 1.1, "seed": 5}
DEADLINE_S = 60


@pytest.fixture(scope="module")
def other_url() -> Iterator[str]:
    """An engine of another size, with little room for KV."""
    with running_engine({"AIOS_ENGINE_MAX_SEQUENCES": "2", "AIOS_ENGINE_KV_HOLD_BYTES": str(8 << 20)}) as url:
        yield url


@pytest.fixture
async def other(other_url: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(other_url, timeout=aiohttp.ClientTimeout(total=60)) as session:
        yield session


class Reader:
    """Reads the KV of a call in pieces, as whoever keeps it for the next engine does."""

    def __init__(self, http: aiohttp.ClientSession, key: str) -> None:
        self.http = http
        self.key = key
        self.pieces: list[bytes] = []
        self.end = 0
        self.digest = digest(())
        self.firsts: list[int] = []

    async def read(self, max_bytes: int | None = None) -> int:
        """Reads what is new; the status."""
        query = {"after": str(self.end), "digest": self.digest} | (
            {} if max_bytes is None else {"max_bytes": str(max_bytes)}
        )
        async with self.http.get(f"/aios/kv/{self.key}", params=query) as response:
            data = await response.read()
            if response.status == 200:
                self.pieces.append(data)
                self.firsts.append(int(response.headers["Aios-Kv-First"]))
                self.end, self.digest = int(response.headers["Aios-Kv-End"]), response.headers["Aios-Kv-Digest"]
            return response.status


async def run_and_read(http: aiohttp.ClientSession, key: str, sampling: dict[str, Any], tokens: int) -> Reader:
    """Generates so many tokens, however many more the engine makes, and reads pieces meanwhile, three at least."""
    reader = Reader(http, key)
    body = {"inputs": PROMPT, "kv_key": key, "parameters": {"max_new_tokens": 900, "details": True, **sampling}}
    async with asyncio.timeout(DEADLINE_S), http.post("/generate_stream", json=body) as response:
        count = 0
        async for _ in events(response):
            count += 1
            if count % 4 == 1:
                assert await reader.read() in (200, 204)
            if count >= tokens and len(reader.pieces) >= 3:
                break
        response.close()
    return reader


async def put(http: aiohttp.ClientSession, key: str, data: bytes) -> tuple[int, str]:
    """Status and text of the answer."""
    async with http.put(f"/aios/kv/{key}", data=io.BytesIO(data)) as response:
        return response.status, await response.text()


async def go_on(http: aiohttp.ClientSession, generated: list[int], **body: Any) -> list[dict[str, Any]]:
    """Events of a generation from a middle token to its 24th."""
    parameters = {"max_new_tokens": 24, "details": True, **body.pop("sampling", {})}
    body = {"inputs": PROMPT, "generated_ids": generated, "parameters": parameters, **body}
    async with asyncio.timeout(DEADLINE_S), http.post("/generate_stream", json=body) as response:
        return [event async for event in events(response)]


def fingerprint_of(image: bytes) -> str:
    said: str = json.loads(image.split(b"\n", 1)[0])["model"]
    return said


def images_of(pieces: list[bytes]) -> list[KvImage]:
    return decode(b"".join(pieces), fingerprint_of(pieces[0]))


def ids(answer: list[dict[str, Any]]) -> list[int]:
    return [event["token"]["id"] for event in answer]


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED], ids=["greedy", "seeded"])
async def test_another_engine_goes_on_with_the_pieces_of_a_generation_that_was_running(
    http: aiohttp.ClientSession, other: aiohttp.ClientSession, sampling: dict[str, Any]
) -> None:
    whole = await stream(http, PROMPT, max_new_tokens=24, **sampling)
    reader = await run_and_read(http, "running", sampling, 19)
    assert len(reader.pieces) >= 3
    assert reader.firsts[0] == 0
    assert reader.firsts == sorted(set(reader.firsts))
    prompt_tokens = whole[-1]["details"]["input_length"]
    read_of_answer = min(reader.end - prompt_tokens, 23)
    assert read_of_answer >= 8
    status, said = await put(other, "brought", b"".join(reader.pieces))
    assert status == 204, said
    async with other.head("/aios/kv/brought") as response:
        assert response.status == 200
    # From the middle of what was read: the KV behind the last known token is of no use.
    known = ids(whole)[: read_of_answer - 3]
    rest = await go_on(other, known, kv_from="brought", sampling=sampling)
    assert known + ids(rest) == ids(whole)
    assert rest[-1]["generated_text"] == whole[-1]["generated_text"]
    assert rest[-1]["details"]["cached_tokens"] == prompt_tokens + len(known) - 1


async def test_the_kv_of_a_running_generation_is_that_of_its_prompt_and_its_answer(
    http: aiohttp.ClientSession,
) -> None:
    whole = await stream(http, PROMPT, max_new_tokens=24)
    reader = await run_and_read(http, "exact", GREEDY, 9)
    tokens = [token for image in images_of(reader.pieces) for token in image.tokens]
    assert len(tokens) == reader.end
    answer = tokens[whole[-1]["details"]["input_length"] :][:24]
    assert len(answer) >= 8
    assert answer == ids(whole)[: len(answer)]


async def test_a_generation_that_has_ended_of_itself_has_no_kv_any_more(http: aiohttp.ClientSession) -> None:
    body = {"inputs": PROMPT, "kv_key": "ended", "parameters": {"max_new_tokens": 4}}
    async with asyncio.timeout(DEADLINE_S), http.post("/generate", json=body) as response:
        assert response.status == 200
    assert await Reader(http, "ended").read() == 404


async def test_a_paused_generation_is_read_in_pages_and_its_pieces_are_the_whole(
    http: aiohttp.ClientSession, other: aiohttp.ClientSession
) -> None:
    await run_and_read(http, "paused", GREEDY, 9)
    await held(http, "paused")
    async with http.get("/aios/kv/paused") as response:
        assert response.status == 200
        assert response.headers["Aios-Kv-First"] == "0"
        whole, end = await response.read(), int(response.headers["Aios-Kv-End"])
    (image,) = images_of([whole])
    assert (image.form, image.first, len(image.tokens)) == ("rows", 0, end)
    token_bytes = len(image.data) // end
    reader = Reader(http, "paused")
    while await reader.read(max_bytes=4 * token_bytes + 1) == 200:
        assert len(images_of(reader.pieces[-1:])[0].data) <= 4 * token_bytes
    assert reader.end == end
    assert len(reader.pieces) == -(-end // 4)
    # Read back from the shelf of another engine, the pages are what was read at once.
    assert (await put(other, "pages", b"".join(reader.pieces)))[0] == 204
    async with other.get("/aios/kv/pages") as response:
        assert await response.read() == whole
    async with other.get("/aios/kv/pages", params={"max_bytes": "1"}) as response:
        assert response.headers["Aios-Kv-End"] == "1"
    async with other.get("/aios/kv/pages", params={"after": str(end)}) as response:
        assert response.status == 204


async def held(http: aiohttp.ClientSession, key: str) -> None:
    """Waits until the engine has noticed that its client left."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            async with http.head(f"/aios/kv/{key}") as response:
                if response.status == 200:
                    return
            await asyncio.sleep(0.01)


async def test_whoever_has_other_tokens_gets_the_whole(http: aiohttp.ClientSession) -> None:
    await run_and_read(http, "digests", GREEDY, 5)
    await held(http, "digests")
    for query in ({"after": "3", "digest": digest((1, 2, 3))}, {"after": "3"}):
        async with http.get("/aios/kv/digests", params=query) as response:
            assert response.headers["Aios-Kv-First"] == "0"
            (image,) = images_of([await response.read()])
            assert response.headers["Aios-Kv-Digest"] == digest(image.tokens)
    query = {"after": "3", "digest": digest(image.tokens[:3])}
    async with http.get("/aios/kv/digests", params=query) as response:
        assert response.headers["Aios-Kv-First"] == "3"
        (rest,) = images_of([await response.read()])
    assert (rest.first, rest.before, rest.tokens) == (3, digest(image.tokens[:3]), image.tokens[3:])


async def test_a_running_generation_is_not_held_and_a_waiting_one_has_nothing_new(
    other: aiohttp.ClientSession,
) -> None:
    async def first_token(key: str, stack: list[aiohttp.ClientResponse]) -> None:
        body = {"inputs": PROMPT, "kv_key": key, "parameters": {"max_new_tokens": 400, "details": True}}
        response = await other.post("/generate_stream", json=body)
        stack.append(response)
        await anext(aiter(events(response)))

    async with asyncio.timeout(DEADLINE_S):
        running: list[aiohttp.ClientResponse] = []
        await first_token("one", running)
        await first_token("two", running)
        waiting = asyncio.create_task(first_token("three", running))
        try:
            async with other.head("/aios/kv/one") as response:
                assert response.status == 404
            status = 404
            while status == 404:  # until the engine has got the request
                status = await Reader(other, "three").read()
            assert status == 204
            assert await Reader(other, "one").read() == 200
        finally:
            waiting.cancel()
            for response in running:
                response.close()
        await asyncio.gather(waiting, return_exceptions=True)
        await held(other, "one")


async def test_several_are_read_at_once(http: aiohttp.ClientSession) -> None:
    readers = [await run_and_read(http, f"together-{number}", GREEDY, 5) for number in range(3)]
    for reader in readers:
        await held(http, reader.key)
        while await reader.read() == 200:
            pass
    first, second, third = readers
    third_image = images_of(third.pieces)
    tokens = sum((image.tokens for image in third_image[:1]), ())
    reads = [
        {"key": first.key},
        {"key": second.key, "after": second.end, "digest": second.digest},
        {"key": third.key, "after": len(tokens), "digest": digest(tokens), "max_bytes": 1},
        {"key": "nobody"},
    ]
    async with http.post("/aios/kv", json={"reads": reads}) as response:
        assert response.status == 200
        data = await response.read()
    given = {}
    while data:
        line, _, data = data.partition(b"\n")
        head = json.loads(line)
        given[head["key"]] = head, images_of([data[: head["bytes"]]])
        data = data[head["bytes"] :]
    assert set(given) == {first.key, third.key}, "nothing is new of the second, and the fourth is not known"
    head, (whole,) = given[first.key]
    assert (head["first"], head["end"], head["digest"]) == (0, first.end, first.digest)
    assert (whole.first, digest(whole.tokens)) == (0, first.digest)
    head, (one,) = given[third.key]
    assert (head["first"], head["end"]) == (len(tokens), len(tokens) + 1)
    assert (one.before, len(one.tokens)) == (digest(tokens), 1)


@pytest.mark.parametrize(
    ("read", "field"),
    [
        ({}, "reads.0.key"),
        ({"key": "with a space"}, "reads.0.key"),
        ({"key": "any", "after": "3"}, "reads.0.after"),
        ({"key": "any", "digest": "short"}, "reads.0.digest"),
        ({"key": "any", "max_bytes": 0}, "reads.0.max_bytes"),
    ],
)
async def test_a_read_that_cannot_be_done_is_refused_by_name(
    http: aiohttp.ClientSession, read: dict[str, Any], field: str
) -> None:
    async with http.post("/aios/kv", json={"reads": [read]}) as response:
        assert response.status == 422
        assert field in (await response.json())["error"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"after": "-1"}, "after"),
        ({"after": "many"}, "after"),
        ({"digest": "short"}, "digest"),
        ({"max_bytes": "0"}, "max_bytes"),
    ],
)
async def test_what_cannot_be_asked_for_is_refused_by_name(
    http: aiohttp.ClientSession, query: dict[str, str], field: str
) -> None:
    async with http.get("/aios/kv/any", params=query) as response:
        assert response.status == 422
        assert f"`{field}`" in (await response.json())["error"]


async def test_an_unknown_key_has_no_kv(http: aiohttp.ClientSession) -> None:
    assert await Reader(http, "nobody").read() == 404


async def test_pieces_that_cannot_be_used_are_refused(
    http: aiohttp.ClientSession, other: aiohttp.ClientSession
) -> None:
    reader = await run_and_read(http, "refused", GREEDY, 9)
    pieces, model = reader.pieces, fingerprint_of(reader.pieces[0])
    first, second = images_of(pieces)[:2]
    foreign = encode(first, "another model")
    another_size = encode(KvImage("rows", 0, first.before, first.tokens, bytes(first.data)[:-2]), model)
    state = encode(KvImage("state", 0, first.before, first.tokens, first.data), model)
    for data, message in (
        (b"", "no KV image"),
        (pieces[0] + b"nonsense", "no KV image"),
        (pieces[0] + pieces[1][:-1], "damaged"),
        (pieces[0] + foreign, "another model"),
        (pieces[1], "begins with the first token"),
        (another_size, "a token has"),
        (state, "in the form 'state'"),
    ):
        status, said = await put(other, "refused", data)
        assert status == 422
        assert message in said
    async with other.head("/aios/kv/refused") as response:
        assert response.status == 404
    too_large = encode(KvImage("rows", 0, first.before, first.tokens * 40, bytes(first.data) * 40), model)
    assert len(too_large) > 8 << 20
    assert (await put(other, "refused", too_large))[0] == 413
    # A piece of another course of the same call is left out, and what goes with the first is used.
    stray = encode(KvImage("rows", second.first, digest((1,)), second.tokens, second.data), model)
    assert (await put(other, "used", pieces[0] + stray + pieces[1]))[0] == 204
    async with other.get("/aios/kv/used") as response:
        assert int(response.headers["Aios-Kv-End"]) == second.first + len(second.tokens)


async def test_an_engine_says_that_it_gives_pieces(http: aiohttp.ClientSession) -> None:
    async with http.get("/info") as response:
        assert (await response.json())["aios"]["kv_pieces"] is True
