"""Where the text of an answer may be cut so that the engine, given the text alone, sees the same tokens again.

Text that a model made token by token is not always split into the same tokens when it is read, and the last tokens may
be a part of a character. So tokens are dropped from the end until prompt and text together give the same ids; the
dropped ones are made again.
"""

from collections.abc import Sequence

from aios_llm.generated import Snapshot
from aios_llm.ports import Continuation

MOST_DROPPED = 8
"""Tokens tried; two were always enough where any cut was (50 prompts with code, emoji, Chinese and JSON)."""


def candidates(made: Snapshot) -> list[Continuation]:
    """Cuts worth trying, the longest first; none for an answer whose ids are not known."""
    count = len(made.ids)
    return [made.first(count - dropped) for dropped in range(min(MOST_DROPPED + 1, count + 1))]


def fits(cut: Continuation, prompt_ids: Sequence[int], read: Sequence[int]) -> bool:
    """Whether a cut is read as the tokens it was made of.

    Args:
        cut: a beginning of the answer.
        prompt_ids: the prompt, read alone.
        read: prompt and the cut's text, read together.
    """
    return list(read) == [*prompt_ids, *cut.ids]


def at_word(made: Snapshot) -> Continuation:
    """The cut for an engine that neither tells ids nor reads texts for us: before the last word.

    Tokenisers of the byte-pair kind split at words first, so that what comes before a word is read alike without it.
    How many tokens are dropped is an estimate, by length; at least one is.
    """
    at = max(made.text.rstrip().rfind(" "), made.text.rstrip().rfind("\n"))
    if at <= 0 or made.tokens <= 1:
        return Continuation((), "", 0)
    text = made.text[:at].rstrip(" ")
    kept = min(made.tokens - 1, round(made.tokens * len(text) / len(made.text)))
    return Continuation((), text, kept)
