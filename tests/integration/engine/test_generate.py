"""`/`, `/generate` and `/generate_stream` on the real model."""

import asyncio
from typing import Any

import aiohttp
import pytest
from support.engine_client import call, events, generate, stream

# The first test to run starts the engine, which requantises its model on a fresh machine.
pytestmark = pytest.mark.timeout(20, func_only=True)

PROMPT = "The capital of France is"


async def test_a_stream_gives_every_token_and_then_how_it_ended(http: aiohttp.ClientSession) -> None:
    found = await stream(http, PROMPT, max_new_tokens=4)
    assert [event["index"] for event in found] == [1, 2, 3, 4]
    assert [set(event) for event in found] == [{"index", "token", "generated_text", "details"}] * 4
    assert all(set(event["token"]) == {"id", "text", "logprob", "special"} for event in found)
    assert all(event["generated_text"] is None and event["details"] is None for event in found[:-1])
    assert found[-1]["generated_text"] == "".join(event["token"]["text"] for event in found) == " Paris.\n\n"
    details = found[-1]["details"]
    assert details["finish_reason"] == "length"
    assert (details["generated_tokens"], details["input_length"]) == (4, 5)
    assert 0 <= details["seed"] < 2**64


async def test_a_whole_answer_is_the_stream_in_one(http: aiohttp.ClientSession) -> None:
    found = await stream(http, PROMPT, max_new_tokens=6)
    answer = await generate(http, PROMPT, max_new_tokens=6)
    assert answer["generated_text"] == found[-1]["generated_text"]
    assert [token["id"] for token in answer["details"]["tokens"]] == [event["token"]["id"] for event in found]
    assert answer["details"]["prefill"] == []


async def test_without_details_a_whole_answer_is_only_text(http: aiohttp.ClientSession) -> None:
    async with http.post("/generate", json={"inputs": PROMPT, "parameters": {"max_new_tokens": 2}}) as response:
        assert await response.json() == {"generated_text": " Paris."}
        assert response.headers["x-prompt-tokens"] == "5"
        assert response.headers["x-generated-tokens"] == "2"
        assert response.headers["x-compute-characters"] == str(len(PROMPT))


async def test_the_root_route_streams_or_answers_with_a_list(http: aiohttp.ClientSession) -> None:
    body: dict[str, Any] = {"inputs": PROMPT, "parameters": {"max_new_tokens": 2}}
    assert await call(http, "/", body) == (200, [{"generated_text": " Paris."}])
    async with http.post("/", json=body | {"stream": True}) as response:
        assert [event["token"]["text"] async for event in events(response)] == [" Paris", "."]


async def test_the_prompt_can_be_part_of_the_answer(http: aiohttp.ClientSession) -> None:
    answer = await generate(http, PROMPT, max_new_tokens=1, return_full_text=True)
    assert answer["generated_text"] == PROMPT + " Paris"


async def test_an_end_token_ends_it_and_is_no_part_of_the_text(http: aiohttp.ClientSession) -> None:
    prompt = "<|im_start|>user\nSay only: yes<|im_end|>\n<|im_start|>assistant\n"
    found = await stream(http, prompt, max_new_tokens=60)
    end = found[-1]
    assert end["details"]["finish_reason"] == "eos_token"
    assert end["token"]["special"]
    assert end["token"]["text"] == "<|im_end|>"
    assert "<|im_end|>" not in end["generated_text"]
    # TGI tests the length first.
    exactly = await stream(http, prompt, max_new_tokens=len(found))
    assert exactly[-1]["details"]["finish_reason"] == "length"
    assert exactly[-1]["generated_text"] == end["generated_text"]


async def test_a_stop_sequence_ends_it_and_is_part_of_the_text(http: aiohttp.ClientSession) -> None:
    answer = await generate(http, PROMPT, max_new_tokens=30, stop=["never seen", "is."])
    assert (await generate(http, PROMPT, max_new_tokens=30, stop=["ris."]))["generated_text"] == " Paris."
    assert answer["details"]["finish_reason"] in ("length", "stop_sequence")


async def test_a_seed_repeats_a_sampled_answer(http: aiohttp.ClientSession) -> None:
    parameters = {"max_new_tokens": 12, "temperature": 1.2, "top_p": 0.95}
    first = await generate(http, PROMPT, seed=5, **parameters)
    assert first["details"]["seed"] == 5
    assert (await generate(http, PROMPT, seed=5, **parameters))["generated_text"] == first["generated_text"]
    assert (await generate(http, PROMPT, seed=6, **parameters))["generated_text"] != first["generated_text"]


async def test_sampling_is_the_default_only_where_parameters_are_absent(http: aiohttp.ClientSession) -> None:
    found = await asyncio.gather(
        *(generate(http, PROMPT, max_new_tokens=6, seed=seed) for seed in (1, 2)),
        *(generate(http, PROMPT, max_new_tokens=6, seed=seed, do_sample=True, temperature=2.0) for seed in (1, 2)),
    )
    greedy_1, greedy_2, sampled_1, sampled_2 = (answer["generated_text"] for answer in found)
    assert greedy_1 == greedy_2
    assert sampled_1 != sampled_2


async def test_alternatives_come_with_each_token(http: aiohttp.ClientSession) -> None:
    answer = await generate(http, PROMPT, max_new_tokens=2, top_n_tokens=3)
    tops = answer["details"]["top_tokens"]
    assert [len(top) for top in tops] == [3, 3]
    assert tops[0][0] == answer["details"]["tokens"][0]
    found = await stream(http, PROMPT, max_new_tokens=2, top_n_tokens=3)
    assert [event["top_tokens"] for event in found] == tops


async def test_the_prompts_own_probabilities_can_be_told(http: aiohttp.ClientSession) -> None:
    prompt = "one two three four five six seven eight nine ten " * 4
    answer = await generate(http, prompt, max_new_tokens=1, decoder_input_details=True)
    prefill = answer["details"]["prefill"]
    assert "".join(token["text"] for token in prefill) == prompt
    assert prefill[0]["logprob"] is None
    assert all(token["logprob"] <= 0 for token in prefill[1:])
    first, last = (sum(token["logprob"] for token in part) for part in (prefill[1:11], prefill[-10:]))
    assert last > first, "a repeated text is foreseen"


async def test_the_best_of_several_is_given_with_the_others(http: aiohttp.ClientSession) -> None:
    answer = await generate(http, PROMPT, max_new_tokens=5, best_of=2, temperature=1.5)

    def mean(sequence: dict[str, Any]) -> float:
        tokens = sequence["tokens"]
        return float(sum(token["logprob"] for token in tokens) / len(tokens))

    (other,) = answer["details"]["best_of_sequences"]
    assert mean(answer["details"]) >= mean(other)
    assert other["seed"] != answer["details"]["seed"]


async def test_only_the_end_of_a_truncated_prompt_counts(http: aiohttp.ClientSession) -> None:
    answer = await generate(http, "nonsense before it all. " + PROMPT, max_new_tokens=2, truncate=5)
    assert answer["generated_text"] == " Paris."
    assert answer["details"]["input_length"] == 5


async def test_sequences_that_run_together_say_what_they_say_alone(http: aiohttp.ClientSession) -> None:
    prompts = ["def add(a, b):", "Once upon a time", PROMPT, '{"name":', "1, 2, 3,", "The colour of the sky is"]
    alone = [(await generate(http, prompt, max_new_tokens=12))["generated_text"] for prompt in prompts]
    together = await asyncio.gather(*(generate(http, prompt, max_new_tokens=12) for prompt in prompts))
    assert [answer["generated_text"] for answer in together] == alone


async def test_more_sequences_than_slots_are_all_served(http: aiohttp.ClientSession) -> None:
    answers = await asyncio.gather(*(generate(http, f"{n} plus one is", max_new_tokens=3) for n in range(14)))
    assert all(answer["details"]["generated_tokens"] == 3 for answer in answers)


async def test_a_repeated_prompt_is_taken_from_the_cache_and_says_the_same(http: aiohttp.ClientSession) -> None:
    prompt = "A list of things one may find in an old house by the sea: " * 3
    first = await generate(http, prompt, max_new_tokens=8, decoder_input_details=True)
    assert first["details"]["cached_tokens"] == 0
    again = await generate(http, prompt, max_new_tokens=8)
    assert again["details"]["cached_tokens"] == again["details"]["input_length"] - 1
    assert again["details"]["tokens"] == first["details"]["tokens"]
    both = await asyncio.gather(*(generate(http, prompt + end, max_new_tokens=8) for end in ("cups,", "ropes,")))
    assert all(answer["details"]["cached_tokens"] >= 30 for answer in both)
    cold = await generate(http, prompt + "cups,", max_new_tokens=8, decoder_input_details=True)
    assert cold["details"]["tokens"] == both[0]["details"]["tokens"]


@pytest.mark.parametrize("parameters", [{}, {"seed": 11, "temperature": 1.1, "top_k": 40, "repetition_penalty": 1.1}])
async def test_an_answer_cut_anywhere_is_continued_from_its_token_ids_as_if_it_had_not_been_cut(
    http: aiohttp.ClientSession, parameters: dict[str, Any]
) -> None:
    prompt = "<|im_start|>user\nName three fruits, with emoji.<|im_end|>\n<|im_start|>assistant\n"
    _, tokens = await call(http, "/tokenize", {"inputs": prompt})
    ids = [token["id"] for token in tokens]
    whole = await generate(http, prompt, max_new_tokens=20, **parameters)
    told = [token["id"] for token in whole["details"]["tokens"]]
    for cut in (1, 7, 13):
        body = {
            "input_ids": ids + told[:cut],
            "parameters": {"max_new_tokens": 20 - cut, "details": True, **parameters},
        }
        _, rest = await call(http, "/generate", body)
        assert [token["id"] for token in rest["details"]["tokens"]] == told[cut:]


async def test_a_character_of_several_tokens_is_told_with_its_last(http: aiohttp.ClientSession) -> None:
    found = await stream(http, "Say: ", max_new_tokens=30, grammar={"type": "regex", "value": "é😀日本🦜"})
    texts = [event["token"]["text"] for event in found]
    assert "".join(texts[:-1]) == "é😀日本🦜" == found[-1]["generated_text"]
    assert "" in texts
    assert not any("\ufffd" in text for text in texts)


async def test_a_text_and_its_tokens_cover_each_other(http: aiohttp.ClientSession) -> None:
    text = "<|im_start|>Zoë said 😀日本"
    status, tokens = await call(http, "/tokenize", {"inputs": text})
    assert status == 200
    assert (tokens[0]["text"], tokens[0]["start"], tokens[0]["stop"]) == ("<|im_start|>", 0, 12)
    assert tokens[-1]["stop"] == len(text)
    for token in tokens:
        assert token["text"] == text[token["start"] : token["stop"]] != ""
