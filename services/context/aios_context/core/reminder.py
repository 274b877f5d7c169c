"""Which pinned turns are said once more right before the new turns, because they stand too far ahead of them.

What a model reads last weighs most: the default model of 135 M parameters finds a fact 400 tokens back, and none that
is 2 000 back; larger ones lose theirs later, and much in the middle of long prompts (Liu et al., "Lost in the Middle",
TACL 2024). So pinned turns stay where they were said, word for word, and are repeated in one short turn of the system.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from aios_context.core.record import Message
from aios_context.core.view import Turn
from aios_context.core.window import Sized

_HEADING = "Facts to remember:"
_REPEATED = ("user", "assistant")
"""Instructions of the system stand in front of everything anyway; what a tool said must not speak for the system."""


@dataclass(frozen=True, slots=True)
class Reminding:
    """When pinned turns are repeated.

    Attributes:
        after_tokens: that follow one, before it is.
        most_tokens: of all that are; 0 repeats none.
    """

    after_tokens: int
    most_tokens: int


def reminder(turns: Sequence[Sized], new: Sequence[Turn], reminding: Reminding) -> Message | None:
    """The turn to put before the new ones; None where none is needed.

    Args:
        turns: of the window, in order.
        new: that follow; nothing comes between a call of a tool and its answer.
        reminding: what is repeated; where that is too much, the newest are.
    """
    if not new or new[0].message["role"] != "user":
        return None
    behind = used = 0
    found: list[str] = []
    for sized in reversed(turns):
        message, text = sized.turn.message, str(sized.turn.message.get("content") or "").strip()
        far = behind >= reminding.after_tokens and used + sized.tokens <= reminding.most_tokens
        if sized.turn.pinned and message["role"] in _REPEATED and text and far:
            found.append(f"- {text}")
            used += sized.tokens
        behind += sized.tokens
    return {"role": "system", "content": "\n".join((_HEADING, *reversed(found)))} if found else None
