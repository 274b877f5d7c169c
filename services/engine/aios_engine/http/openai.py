"""The OpenAI-compatible routes: `/v1/chat/completions`, `/v1/completions`."""

import secrets

from aiohttp import web

from aios_engine.backend import TokenEvent
from aios_engine.chat import (
    ChatPrompt,
    chat_generation,
    chat_prompt,
    completion_generations,
    parse_call,
    without_tools,
)
from aios_engine.chat_wire import ChatRequest, CompletionRequest
from aios_engine.errors import EngineError, MalformedBodyError
from aios_engine.http.body import read_body
from aios_engine.http.front import COMPUTE_TYPE, HOP, Front, front_of
from aios_engine.http.openai_answers import Answers, Json
from aios_engine.http.sse import EventStream
from aios_engine.inference import gather_first_error
from aios_engine.tool_stream import NoToolChosen, ToolStream
from aios_engine.wire import GenerateRequest


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """`POST /v1/chat/completions`: the assistant's next turn."""
    front = front_of(request)
    body = await read_body(request, ChatRequest)
    inference = front.inference
    front.metrics.received()
    try:
        prompt = chat_prompt(body, front.chat_template)
    except EngineError as error:
        raise inference.refused(error) from None
    answers = Answers(inference.backend.facts.id)
    if body.stream:
        return await _stream_chat(request, front, body, prompt, answers)
    completed = await inference.complete(chat_generation(body, prompt), request[HOP])
    try:
        call = parse_call(completed.ending.text) if prompt.calls_tools else None
    except EngineError as error:
        raise inference.refused(error) from None
    if prompt.calls_tools and call is None:
        prompt = chat_prompt(without_tools(body), front.chat_template)
        completed = await inference.complete(chat_generation(body, prompt), request[HOP])
    return web.json_response(answers.chat(completed, call, logprobs=bool(body.logprobs)))


async def _stream_chat(
    request: web.Request, front: Front, body: ChatRequest, prompt: ChatPrompt, answers: Answers
) -> web.StreamResponse:
    async with EventStream(request, front.settings.keep_alive_s, {"x-compute-type": COMPUTE_TYPE}) as stream:
        try:
            try:
                await _stream_turn(request, front, body, prompt, answers, stream)
            except NoToolChosen:
                prompt = chat_prompt(without_tools(body), front.chat_template)
                await _stream_turn(request, front, body, prompt, answers, stream)
        except EngineError as error:
            await stream.send({"error": {"message": str(error), "http_status_code": error.status}})
        await stream.done()
    return stream.response


async def _stream_turn(
    request: web.Request, front: Front, body: ChatRequest, prompt: ChatPrompt, answers: Answers, stream: EventStream
) -> None:
    tools = ToolStream() if prompt.calls_tools else None
    call_id = f"call_{secrets.token_hex(8)}"
    async with front.inference.run(chat_generation(body, prompt), request[HOP]) as running:
        async for event in running.generation:
            if tools is None:
                chunks = [answers.text_chunk(event, logprobs=bool(body.logprobs))]
            else:
                chunks = _tool_chunks(tools, event, call_id, answers)
            for chunk in chunks:
                await stream.send(chunk)
            if event.ending is not None and body.stream_options is not None and body.stream_options.include_usage:
                await stream.send(answers.usage_chunk(running))


def _tool_chunks(tools: ToolStream, event: TokenEvent, call_id: str, answers: Answers) -> list[Json]:
    deltas = [tools.push("" if event.token.special else event.token.text)]
    if event.ending is not None:
        deltas.append(tools.finish(whole=event.ending.text.endswith("}}")))
    chunks = [answers.tool_chunk(delta, call_id) for delta in deltas if delta is not None]
    if event.ending is not None:
        chunks.append(answers.end_chunk(event.ending.reason))
    return chunks


async def completions(request: web.Request) -> web.StreamResponse:
    """`POST /v1/completions`: one or several texts continued."""
    front = front_of(request)
    body = await read_body(request, CompletionRequest)
    inference = front.inference
    front.metrics.received()
    if body.suffix is not None:
        raise MalformedBodyError("Suffix is not supported and can be achieved by preprocessing the prompt.", 422)
    if len(body.prompt) > front.settings.max_client_batch_size:
        limit = front.settings.max_client_batch_size
        raise MalformedBodyError(f"Number of prompts exceeds the maximum allowed batch size of {limit}", 422)
    generations = completion_generations(body)
    answers = Answers(inference.backend.facts.id)
    if body.stream:
        return await _stream_completions(request, front, body, generations, answers)
    completed = await gather_first_error(inference.complete(one, request[HOP]) for one in generations)
    return web.json_response(answers.completions(completed, logprobs=body.logprobs is not None))


async def _stream_completions(
    request: web.Request,
    front: Front,
    body: CompletionRequest,
    generations: list[GenerateRequest],
    answers: Answers,
) -> web.StreamResponse:
    async def one(index: int, generation: GenerateRequest) -> None:
        at = 0
        try:
            async with front.inference.run(generation, request[HOP]) as running:
                async for event in running.generation:
                    logprobs_at = None if body.logprobs is None else at
                    await stream.send(answers.completion_chunk(index, event, running, logprobs_at))
                    at += 0 if event.token.special else len(event.token.text)
        except EngineError as error:
            await stream.send(error.body())

    async with EventStream(request, front.settings.keep_alive_s, {"x-compute-type": COMPUTE_TYPE}) as stream:
        await gather_first_error(one(index, generation) for index, generation in enumerate(generations))
        await stream.done()
    return stream.response
