"""When a generation is over: at its length, at an end-of-sequence token, or at a stop sequence, tested in that order.

The order is text-generation-inference's (`StoppingCriteria` in `utils/tokens.py`), so a generation whose last allowed
token is the end-of-sequence token reports `length`. A stop sequence may begin and end inside tokens; TGI only sees
those that end with a token.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class FinishReason(StrEnum):
    """Why a generation ended, in TGI's words."""

    LENGTH = "length"
    EOS_TOKEN = "eos_token"
    STOP_SEQUENCE = "stop_sequence"


@dataclass(slots=True)
class Stopping:
    """Counts tokens and watches the text of one generation.

    Attributes:
        max_new_tokens: tokens after which it ends.
        stop_sequences: texts that end it.
    """

    max_new_tokens: int
    stop_sequences: Sequence[str] = ()
    generated: int = 0
    _tail: str = field(default="", init=False)

    def push(self, text: str, *, is_eos: bool) -> FinishReason | None:
        """Takes the text the next token added; says whether the generation is over and why."""
        self.generated += 1
        if self.generated >= self.max_new_tokens:
            return FinishReason.LENGTH
        if is_eos:
            return FinishReason.EOS_TOKEN
        if not self.stop_sequences:
            return None
        seen = self._tail + text
        if any(stop in seen for stop in self.stop_sequences):
            return FinishReason.STOP_SEQUENCE
        keep = max(map(len, self.stop_sequences)) - 1
        self._tail = seen[-keep:] if keep else ""
        return None
