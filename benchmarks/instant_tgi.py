"""A TGI endpoint that answers at once, over HTTP: what remains of a call's time is the road to it.

Speaks just what a worker and a direct client need: `/health`, `/info`, `/generate_stream`, `/chat_tokenize`.
"""

import argparse
import asyncio

import orjson
from aiohttp import web

_WORD = "word "


async def health(_: web.Request) -> web.Response:
    return web.Response()


async def info(_: web.Request) -> web.Response:
    return web.json_response(
        {
            "model_id": "instant-http",
            "version": "0",
            "max_concurrent_requests": 1024,
            "max_input_tokens": 100_000,
            "max_total_tokens": 200_000,
            "max_batch_size": 128,
            "aios": {"chat_template": "{% for m in messages %}{{ m.content }}\n{% endfor %}"},
        }
    )


async def generate_stream(request: web.Request) -> web.StreamResponse:
    parameters = orjson.loads(await request.read()).get("parameters", {})
    count = parameters.get("max_new_tokens", 1)
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for index in range(count):
        last = index == count - 1
        event = {
            "index": index + 1,
            "token": {"id": 1, "text": _WORD, "logprob": 0.0, "special": False},
            "generated_text": _WORD * count if last else None,
            "details": {"finish_reason": "length", "generated_tokens": count, "input_length": 1} if last else None,
        }
        await response.write(b"data:" + orjson.dumps(event) + b"\n\n")
    await response.write_eof()
    return response


async def serve(port: int) -> None:
    app = web.Application()
    app.add_routes([web.get("/health", health), web.get("/info", info), web.post("/generate_stream", generate_stream)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    import uvloop

    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    uvloop.run(serve(parser.parse_args().port))
