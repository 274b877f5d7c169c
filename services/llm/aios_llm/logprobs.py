"""How likely the tokens of an answer were: an entry for each, up to the first stop sequence.

An entry is written as JSON once, when its token comes, and is sent, stored and sent again as it is.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from aios_llm.stop_sequences import StopFilter
from aios_proto.errors import EngineRefused, InvalidRequest

MAX_BYTES: Final = 640 << 10
"""Of all entries of an answer: they travel in one message with it, and are stored in one with its checkpoint."""

_DIGITS: Final = 6


@dataclass(frozen=True, slots=True)
class Scored:
    """A token and how likely it was.

    Attributes:
        token: its text.
        json: its entry, as `TokenLogprob` has it.
    """

    token: str
    json: bytes


@dataclass(frozen=True, slots=True)
class Likelihood:
    """What an engine says of one token.

    Attributes:
        token: its text.
        logprob: natural logarithm of its probability.
        raw: its bytes, where the engine tells them.
    """

    token: str
    logprob: float
    raw: Sequence[int] | None = None

    def entry(self) -> dict[str, object]:
        """As the wire has it: bytes only where the text does not tell them."""
        entry: dict[str, object] = {"token": self.token, "logprob": round(self.logprob, _DIGITS) + 0.0}  # never -0.0
        if self.raw is not None and bytes(self.raw) != self.token.encode(errors="replace"):
            entry["bytes"] = list(self.raw)
        return entry


def scored(chosen: Likelihood, best: Iterable[Likelihood], count: int) -> Scored:
    """The entry of a token.

    Args:
        chosen: the token.
        best: the likeliest at its place, in any order; an engine may tell more than asked for.
        count: how many were asked for.
    """
    entry = chosen.entry()
    if count:
        likeliest = sorted(best, key=lambda other: -other.logprob)[:count]
        entry["top_logprobs"] = [other.entry() for other in likeliest]
    return Scored(chosen.token, orjson.dumps(entry))


def read(entry: object) -> Scored:
    """An entry that was stored.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(entry, dict) or not isinstance(entry.get("token"), str):
        raise TypeError("not an entry")
    return Scored(entry["token"], orjson.dumps(entry))


def not_told() -> EngineRefused:
    """What a call is told whose engine keeps its log probabilities to itself."""
    return EngineRefused("the engine does not tell log probabilities", field="logprobs")


def likeliest_not_told() -> EngineRefused:
    """The same where it keeps only the likeliest tokens to itself."""
    return EngineRefused("the engine does not tell which tokens were likeliest", field="top_logprobs")


class Scores:
    """The entries of one answer.

    Which tokens belong to it is told by their own texts: servers that cut the stop sequence off themselves are behind
    with the text, and tell the tokens all the same.

    Attributes:
        made: all entries, one for each token the engine made.
        sent: how many of them listeners were sent.
        given: how many of those the bus has taken.
    """

    def __init__(self, stop: tuple[str, ...], count: int) -> None:
        self.made: list[Scored] = []
        self.sent = self.given = 0
        self._stop = stop
        self._count = count
        self._clear()

    def _clear(self) -> None:
        self.made.clear()
        self._starts: list[int] = []
        self._length = self._bytes = self._passed = 0
        self._filter = StopFilter(self._stop) if self._stop else None
        self._whole = False

    def add(self, token: Scored) -> None:
        """Takes a token in.

        Raises:
            InvalidRequest: there are more than the bus carries in one message.
        """
        self._bytes += len(token.json)
        if self._bytes > MAX_BYTES:
            raise InvalidRequest(
                f"the log probabilities of {len(self.made) + 1} tokens have more than {MAX_BYTES >> 10} KiB;"
                " ask for fewer tokens, or fewer of the likeliest",
                field="top_logprobs" if self._count else "logprobs",
            )
        self.made.append(token)
        self._starts.append(self._length)
        self._length += len(token.token)
        if self._filter is not None:
            self._passed += len(self._filter.feed(token.token))

    def restart(self, tokens: Sequence[Scored], sent: int) -> None:
        """Begins behind tokens that were made before, of which listeners have so many."""
        self._clear()
        for token in tokens:
            self.add(token)
        self.sent = self.given = sent

    def finish(self) -> None:
        """There will be no more."""
        if self._filter is not None:
            self._passed += len(self._filter.finish())
            self._whole = not self._filter.stopped

    @property
    def certain(self) -> int:
        """How many of the first tokens are part of the answer, whatever comes."""
        if self._filter is None or self._whole:
            return len(self.made)
        return bisect_left(self._starts, self._passed)

    def news(self) -> tuple[int, list[bytes]] | None:
        """The entries, as JSON, that are certain and were not sent, behind the place of the first; None if none are.

        They count as sent from now on. After a stop there are none while those are made again that were sent before it.
        """
        start, end = self.sent, self.certain
        if end <= start:
            return None
        self.sent = end
        return start, self.entries(end, start)

    def entries(self, end: int, start: int = 0) -> list[bytes]:
        """The entries of some tokens, as JSON."""
        return [token.json for token in self.made[start:end]]
