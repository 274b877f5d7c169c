"""How many tokens turns have for a model, each counted once."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import orjson

from aios_context.core.record import Message
from aios_context.core.view import Turn
from aios_context.core.window import Sized
from aios_context.ports import Counts, Tokeniser
from aios_proto.headers import CallHeaders

_CACHED_COUNTS = 200_000


@dataclass(frozen=True, slots=True)
class Measured:
    """Turns with their tokens, and the model that counted them."""

    turns: list[Sized]
    counts: Counts


class Counting:
    """Counts through a tokeniser and remembers by model and text.

    Args:
        tokeniser: counts what is not known.
    """

    def __init__(self, tokeniser: Tokeniser) -> None:
        self._tokeniser = tokeniser
        self._known: OrderedDict[tuple[str, bytes], int] = OrderedDict()
        self._models: dict[str, Counts] = {}

    async def measure(self, turns: Sequence[Turn], model: str | None, on_behalf: CallHeaders) -> Measured:
        """Turns with their tokens, what the chat template adds to each included.

        Raises:
            AiosError: no worker of that model could be asked.
        """
        counts = await self.count([counted_text(turn.message) for turn in turns], model, on_behalf)
        sized = [Sized(turn, tokens + counts.turn_overhead) for turn, tokens in zip(turns, counts.tokens, strict=True)]
        return Measured(sized, counts)

    async def count(self, texts: Sequence[str], model: str | None, on_behalf: CallHeaders) -> Counts:
        """Tokens of texts.

        Raises:
            AiosError: no worker of that model could be asked.
        """
        said = None if model is None else self._models.get(model)
        if said is None:  # who the model is, and what its template adds, is asked with the first texts
            said = await self._ask(texts, model, on_behalf)
        keys = [_key(said.model, text) for text in texts]
        found = {key: self._known[key] for key in keys if key in self._known}
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
        if missing:
            said = await self._ask(list(missing.values()), said.model, on_behalf)
            found |= zip(missing, said.tokens, strict=True)
        for key in keys:
            self._known[key] = found[key]
            self._known.move_to_end(key)
        while len(self._known) > _CACHED_COUNTS:
            self._known.popitem(last=False)
        return replace(said, tokens=[found[key] for key in keys])

    def known(self, turns: Sequence[Turn], model: str | None) -> list[int] | None:
        """Their tokens if all were counted before; asks nobody."""
        said = None if model is None else self._models.get(model)
        if model is None or said is None:
            return None
        found = [self._known.get(_key(model, counted_text(turn.message))) for turn in turns]
        tokens = [count + said.turn_overhead for count in found if count is not None]
        return tokens if len(tokens) == len(found) else None

    def prompt_overhead(self, model: str) -> int:
        """What a conversation costs once, for a model that was asked before."""
        return self._models[model].prompt_overhead

    async def _ask(self, texts: Sequence[str], model: str | None, on_behalf: CallHeaders) -> Counts:
        said = await self._tokeniser.count(texts, model, on_behalf)
        self._models[said.model] = replace(said, tokens=())
        for text, tokens in zip(texts, said.tokens, strict=True):
            self._known[_key(said.model, text)] = tokens
        return said


def counted_text(message: Message) -> str:
    """What of a turn is counted: its content and the calls it makes; its role is part of the template's cost."""
    content = str(message.get("content") or "")
    calls = message.get("tool_calls")
    return content if not calls else content + orjson.dumps(calls).decode()


def _key(model: str, text: str) -> tuple[str, bytes]:
    return model, hashlib.blake2b(text.encode(), digest_size=16).digest()
