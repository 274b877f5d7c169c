"""Hugging Face's own client, unmodified, cannot tell the engine from text-generation-inference."""

import json
from collections.abc import AsyncIterator

import pytest
from huggingface_hub import AsyncInferenceClient, ChatCompletionInputTool, TextGenerationInputGrammarType
from huggingface_hub.errors import ValidationError

pytestmark = [
    pytest.mark.timeout(20, func_only=True),
    # The client leaves its connections to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

PROMPT = "The capital of France is"
TOOL = ChatCompletionInputTool.parse_obj_as_instance(
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "maxLength": 12}},
                "required": ["city"],
            },
        },
    }
)


@pytest.fixture
async def client(engine_url: str) -> AsyncIterator[AsyncInferenceClient]:
    async with AsyncInferenceClient(base_url=engine_url, timeout=60) as client:
        yield client


@pytest.fixture
async def text_client(engine_url: str) -> AsyncIterator[AsyncInferenceClient]:
    async with AsyncInferenceClient(model=engine_url, timeout=60) as client:
        yield client


async def test_text_is_generated(text_client: AsyncInferenceClient) -> None:
    assert await text_client.text_generation(PROMPT, max_new_tokens=2) == " Paris."


async def test_text_is_generated_with_details(text_client: AsyncInferenceClient) -> None:
    answer = await text_client.text_generation(
        PROMPT, max_new_tokens=2, details=True, decoder_input_details=True, top_n_tokens=2
    )
    assert answer.generated_text == " Paris."
    assert answer.details is not None
    assert answer.details.finish_reason == "length"
    assert [token.text for token in answer.details.prefill] == ["The", " capital", " of", " France", " is"]
    assert [token.text for token in answer.details.tokens] == [" Paris", "."]


async def test_text_is_streamed_with_details(text_client: AsyncInferenceClient) -> None:
    stream = await text_client.text_generation(PROMPT, max_new_tokens=3, details=True, stream=True)
    found = [event async for event in stream]
    assert [event.token.text for event in found] == [" Paris", ".", "\n"]
    assert found[-1].generated_text == " Paris.\n"
    assert found[-1].details is not None
    assert (found[-1].details.generated_tokens, found[-1].details.input_length) == (3, 5)


async def test_text_keeps_to_a_grammar(text_client: AsyncInferenceClient) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 9}}, "required": ["n"]}
    grammar = TextGenerationInputGrammarType(type="json", value=schema)
    answer = await text_client.text_generation("Number:", max_new_tokens=30, grammar=grammar)
    assert json.loads(answer)["n"] <= 9


async def test_a_wrong_parameter_raises_the_clients_own_error(text_client: AsyncInferenceClient) -> None:
    with pytest.raises(ValidationError, match="`top_p` must be"):
        await text_client.text_generation(PROMPT, top_p=3.0)
    with pytest.raises(ValidationError, match="`top_p` must be"):
        async for _ in await text_client.text_generation(PROMPT, top_p=3.0, stream=True):
            pass


async def test_a_chat_turn_is_answered(client: AsyncInferenceClient) -> None:
    answer = await client.chat_completion([{"role": "user", "content": "Say hi"}], max_tokens=5, temperature=0)
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens <= 5


async def test_a_chat_turn_is_streamed(client: AsyncInferenceClient) -> None:
    messages = [{"role": "user", "content": "Say hi"}]
    whole = await client.chat_completion(messages, max_tokens=5, temperature=0)
    stream = await client.chat_completion(messages, max_tokens=5, temperature=0, stream=True)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == whole.choices[0].message.content


async def test_a_tool_is_called(client: AsyncInferenceClient) -> None:
    answer = await client.chat_completion(
        [{"role": "user", "content": "Weather in Paris?"}],
        tools=[TOOL],
        tool_choice="required",
        max_tokens=60,
        temperature=0,
    )
    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].function.name == "get_weather"
    assert set(json.loads(calls[0].function.arguments)) == {"city"}
