"""The answers of text-generation-inference's own routes, as JSON objects."""

from aios_engine.backend import GeneratedToken, TokenEvent
from aios_engine.inference import Completed, Running

Json = dict[str, object]


def token_json(token: GeneratedToken) -> Json:
    """A generated token; of one that is no whole character also its bytes, which TGI does not tell."""
    told: Json = {"id": token.id, "text": token.text, "logprob": token.logprob, "special": token.special}
    if token.raw is not None:
        told["bytes"] = list(token.raw)
    return told


def stream_event(index: int, event: TokenEvent, running: Running, *, details: bool, prompt: str) -> Json:
    """One event of a stream.

    Args:
        index: of the token, from 1.
        event: the token.
        running: its generation.
        details: whether the last event tells how it ended.
        prompt: what the generated text is put after (`return_full_text`).
    """
    answer: Json = {"index": index, "token": token_json(event.token)}
    if event.top_tokens:
        answer["top_tokens"] = [token_json(token) for token in event.top_tokens]
    answer["generated_text"] = None
    answer["details"] = None
    if event.ending is not None:
        answer["generated_text"] = prompt + event.ending.text
        if details:
            answer["details"] = {
                "finish_reason": event.ending.reason,
                "generated_tokens": event.ending.generated_tokens,
                "seed": running.request.sampling.seed,
                "input_length": len(running.request.prompt),
                "cached_tokens": running.generation.progress.cached_tokens,
            }
    return answer


def generate_answer(completed: Completed, others: list[Completed], *, details: bool, prompt: str) -> Json:
    """The answer of `/generate`.

    Args:
        completed: the generation.
        others: those it was the best of.
        details: whether tokens and their log-probabilities are wanted.
        prompt: what the generated text is put after (`return_full_text`).
    """
    answer: Json = {"generated_text": prompt + completed.ending.text}
    if details:
        body = _sequence(completed)
        if others:
            body["best_of_sequences"] = [
                {"generated_text": prompt + other.ending.text, **_sequence(other)} for other in others
            ]
        body["input_length"] = len(completed.request.prompt)
        body["cached_tokens"] = completed.progress.cached_tokens
        answer["details"] = body
    return answer


def _sequence(completed: Completed) -> Json:
    body: Json = {
        "finish_reason": completed.ending.reason,
        "generated_tokens": completed.ending.generated_tokens,
        "seed": completed.request.sampling.seed,
        "prefill": [{"id": token.id, "text": token.text, "logprob": token.logprob} for token in completed.prefill],
        "tokens": [token_json(token) for token in completed.tokens],
    }
    if completed.top_tokens:
        body["top_tokens"] = [[token_json(token) for token in best] for best in completed.top_tokens]
    return body
