"""Log probabilities as servers of OpenAI's API tell them: of a chat an entry a token, of a completion parallel lists.

llama.cpp's server tells those of a completion in a chat's form, so which form it is is seen, not assumed.
"""

from collections.abc import Iterable
from typing import Any

from aios_llm.logprobs import Likelihood, likeliest_not_told, not_told, scored
from aios_llm.ports import Piece


def asked(top: int, *, chat: bool) -> dict[str, Any]:
    """The fields of a request for log probabilities, with so many of the likeliest tokens.

    A completion asks for one at least: zero is no wish to some servers.
    """
    if not chat:
        return {"logprobs": max(1, top)}
    return {"logprobs": True, "top_logprobs": top} if top else {"logprobs": True}


def pieces(
    text: str,
    told: dict[str, Any] | None,
    top: int,
    *,
    first: bool,
    ids: tuple[int, ...] = (),
    tokens: int = 0,
) -> list[Piece]:
    """What one event of a stream says, token by token.

    A server may keep some of its tokens to itself, such as all but the last of a character. They count with the last
    piece, and such an answer is not gone on with: whose entry is whose could not be told.

    Args:
        text: of the event.
        told: its `logprobs`.
        top: how many of the likeliest tokens were asked for.
        first: whether no token has come yet.
        ids: of its tokens, where the server tells them.
        tokens: how many they are, where it counts them.

    Raises:
        EngineRefused: the server does not tell what was asked for.
        KeyError, TypeError, ValueError, AttributeError: it makes no sense.
    """
    entries = list(_entries(told)) if told else []
    if not entries:
        if text and first:
            raise not_told()
        return [Piece(text, tokens)] if text or tokens else []
    if top and not any(best for _, best in entries):
        raise likeliest_not_told()
    texts = [chosen.token for chosen, _ in entries]
    if "".join(texts) != text:  # a part of a character, or text held back for a stop sequence
        texts = [*[""] * (len(entries) - 1), text]
    each = [(one,) for one in ids] if len(ids) == len(entries) else [()] * len(entries)
    counts = [*[1] * (len(entries) - 1), max(1, tokens - len(entries) + 1)]
    return [
        Piece(own, count, number, scored(chosen, best, top))
        for own, count, number, (chosen, best) in zip(texts, counts, each, entries, strict=True)
    ]


def _entries(told: dict[str, Any]) -> Iterable[tuple[Likelihood, list[Likelihood]]]:
    if "tokens" not in told:
        for entry in told.get("content") or ():
            yield _likelihood(entry), [_likelihood(other) for other in entry.get("top_logprobs") or ()]
        return
    tokens, values = told["tokens"], told["token_logprobs"]
    for token, value, best in zip(tokens, values, told.get("top_logprobs") or [None] * len(tokens), strict=True):
        yield Likelihood(token, value), [Likelihood(*pair) for pair in (best or {}).items()]


def _likelihood(entry: dict[str, Any]) -> Likelihood:
    return Likelihood(entry["token"], entry["logprob"], entry.get("bytes"))
