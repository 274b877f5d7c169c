"""The routes that only tokenise: `/tokenize`, `/chat_tokenize`."""

import bisect
from collections.abc import Sequence
from itertools import accumulate

from aiohttp import web

from aios_engine.backend import Backend
from aios_engine.chat import chat_prompt
from aios_engine.chat_wire import ChatRequest
from aios_engine.errors import ValidationError
from aios_engine.http.body import read_body
from aios_engine.http.front import front_of
from aios_engine.wire import GenerateRequest


async def tokenize(request: web.Request) -> web.Response:
    """`POST /tokenize`: the tokens of `inputs`, with where each begins and ends in it, in characters."""
    inference = front_of(request).inference
    body = await read_body(request, GenerateRequest)
    if not body.inputs:
        raise ValidationError("`inputs` cannot be empty")
    ids = await inference.tokenize(body.inputs, add_special=body.add_special_tokens)
    truncate = body.parameters.truncate
    return web.json_response(token_spans(inference.backend, ids if not truncate else ids[-truncate:], body.inputs))


async def chat_tokenize(request: web.Request) -> web.Response:
    """`POST /chat_tokenize`: the prompt a conversation becomes, and its tokens."""
    front = front_of(request)
    inference = front.inference
    body = await read_body(request, ChatRequest)
    front.metrics.received()
    prompt = chat_prompt(body, front.chat_template)
    ids = await inference.tokenize(prompt.text)
    return web.json_response(
        {"tokenize_response": token_spans(inference.backend, ids, prompt.text), "templated_text": prompt.text}
    )


def token_spans(backend: Backend, ids: Sequence[int], text: str) -> list[dict[str, object]]:
    """Tokens with the characters they cover; where the tokens do not spell the text, only their ids.

    A character that several tokens make up belongs to each of them.
    """
    pieces = [backend.piece(token) for token in ids]
    data = text.encode("utf-8", errors="replace")
    joined = b"".join(pieces)
    if not data.endswith(joined):
        return [{"id": token, "text": "", "start": 0, "stop": 0} for token in ids]
    # The byte at which each character begins; a truncated text lacks its first tokens.
    begins = [0, *accumulate(len(character.encode("utf-8", errors="replace")) for character in text)]
    spans: list[dict[str, object]] = []
    at = len(data) - len(joined)
    for token, piece in zip(ids, pieces, strict=True):
        start = bisect.bisect_right(begins, at) - 1
        stop = bisect.bisect_left(begins, at + len(piece))
        spans.append({"id": token, "text": text[start:stop], "start": start, "stop": stop})
        at += len(piece)
    return spans
