"""The routes that generate: `/`, `/generate`, `/generate_stream`."""

from aiohttp import web

from aios_engine.errors import EngineError, ValidationError
from aios_engine.http.answers import generate_answer, stream_event
from aios_engine.http.body import read_body
from aios_engine.http.front import COMPUTE_TYPE, HOP, Front, front_of, timing_headers
from aios_engine.http.sse import EventStream
from aios_engine.inference import Completed
from aios_engine.wire import GenerateRequest


async def compat_generate(request: web.Request) -> web.StreamResponse:
    """`POST /`: `stream` decides; a whole answer is a list of one, as Hugging Face's hosted API gives."""
    front = front_of(request)
    body = await read_body(request, GenerateRequest)
    if body.stream:
        return await _stream(request, front, body)
    return await _whole(request, front, body, in_list=True)


async def generate(request: web.Request) -> web.StreamResponse:
    """`POST /generate`: the whole answer."""
    return await _whole(request, front_of(request), await read_body(request, GenerateRequest), in_list=False)


async def generate_stream(request: web.Request) -> web.StreamResponse:
    """`POST /generate_stream`: a token an event; errors are events too."""
    return await _stream(request, front_of(request), await read_body(request, GenerateRequest))


async def _whole(request: web.Request, front: Front, body: GenerateRequest, *, in_list: bool) -> web.Response:
    inference = front.inference
    front.metrics.received()
    parameters = body.parameters
    others: list[Completed] = []
    if parameters.best_of is not None and parameters.best_of > 1:
        completed, others = await inference.complete_best_of(body, parameters.best_of, request[HOP])
    else:
        completed = await inference.complete(body, request[HOP])
    answer = generate_answer(
        completed,
        others,
        details=parameters.details or parameters.decoder_input_details,
        prompt=body.inputs if parameters.return_full_text else "",
    )
    return web.json_response([answer] if in_list else answer, headers=_headers(body, completed))


def _headers(body: GenerateRequest, completed: Completed) -> dict[str, str]:
    progress = completed.progress
    started_ns = progress.started_ns or progress.queued_ns
    return {
        **timing_headers(
            completed.received_ns,
            progress.queued_ns,
            started_ns,
            progress.ended_ns or started_ns,
            progress.generated_tokens,
        ),
        "x-compute-characters": str(len(body.inputs)),
        "x-prompt-tokens": str(len(completed.request.prompt)),
    }


async def _stream(request: web.Request, front: Front, body: GenerateRequest) -> web.StreamResponse:
    inference = front.inference
    front.metrics.received()
    headers = {"x-compute-type": COMPUTE_TYPE, "x-compute-characters": str(len(body.inputs))}
    prompt = body.inputs if body.parameters.return_full_text else ""
    async with EventStream(request, front.settings.keep_alive_s, headers) as stream:
        try:
            _refuse_in_streams(body)
            async with inference.run(body, request[HOP]) as running:
                index = len(running.request.generated)
                async for event in running.generation:
                    index += 1
                    await stream.send(
                        stream_event(index, event, running, details=body.parameters.details, prompt=prompt)
                    )
        except EngineError as error:
            await stream.send(error.body())
    return stream.response


def _refuse_in_streams(body: GenerateRequest) -> None:
    if body.parameters.best_of not in (None, 1):
        raise ValidationError("`best_of` != 1 is not supported when streaming tokens")
    if body.parameters.decoder_input_details:
        raise ValidationError("`decoder_input_details` == true is not supported when streaming tokens")
