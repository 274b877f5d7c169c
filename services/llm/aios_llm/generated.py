"""What an engine has made of one answer so far, token by token, so that it can be gone on from."""

from collections.abc import Sequence
from dataclasses import dataclass

from aios_llm.logprobs import Scored
from aios_llm.ports import Continuation, Piece


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was made up to some token.

    Attributes:
        ids: token ids; empty where the engine does not tell them.
        ends: for each id, the code points of `text` there are with it.
        text: the engine's text, as it came.
        tokens: how many tokens it is.
        scored: how likely each was, where that was asked for.
    """

    ids: tuple[int, ...]
    ends: tuple[int, ...]
    text: str
    tokens: int
    scored: tuple[Scored, ...] = ()

    def first(self, tokens: int) -> Continuation:
        """What the first `tokens` tokens are, of an engine that tells ids."""
        text = self.text[: self.ends[tokens - 1]] if tokens else ""
        return Continuation(self.ids[:tokens], text, tokens)

    @property
    def whole(self) -> Continuation:
        """All of it."""
        return Continuation(self.ids, self.text, self.tokens)


class Generated:
    """Collects the pieces of one answer."""

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._ends: list[int] = []
        self._texts: list[str] = []
        self._length = 0
        self.tokens = 0

    def add(self, piece: Piece) -> None:
        """Takes some tokens in."""
        self._texts.append(piece.text)
        self._length += len(piece.text)
        self.tokens += piece.tokens
        self._ids += piece.ids
        self._ends += [self._length] * len(piece.ids)

    def restart(self, from_here: Continuation, ends: Sequence[int]) -> None:
        """Begins behind what was made before; `ends` are of all its ids at least."""
        self._ids = list(from_here.ids)
        self._ends = list(ends[: len(self._ids)])
        self._texts, self._length, self.tokens = [from_here.text], len(from_here.text), from_here.tokens

    def snapshot(self) -> Snapshot:
        """What there is now; without ids where not all tokens have one."""
        if len(self._texts) > 1:
            self._texts = ["".join(self._texts)]
        whole = len(self._ids) == self.tokens
        ids, ends = (tuple(self._ids), tuple(self._ends)) if whole else ((), ())
        return Snapshot(ids, ends, self._texts[0] if self._texts else "", self.tokens)
