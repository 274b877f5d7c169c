"""Where the text of an answer may be cut so that the engine, given the text alone, sees the same tokens again.

Text that a model made token by token is not always split into the same tokens when it is read, and the last tokens may
be a part of a character. So tokens are dropped from the end until prompt and text together give the same ids; the
dropped ones are made again.
"""

from collections.abc import Awaitable, Callable, Sequence

from aios_llm.generated import Snapshot
from aios_llm.ports import Continuation

Read = Callable[[str], Awaitable[list[int]]]
"""Has the engine read a text: its token ids."""

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


async def where_read_alike(prompt: str, made: Snapshot, read: Read) -> Continuation:
    """The longest cut of an answer, whose ids are known, that the engine reads as the tokens it was made of."""
    prompt_ids = await read(prompt)
    for cut in candidates(made):
        if fits(cut, prompt_ids, await read(prompt + cut.text)):
            return cut
    return made.first(0)


async def at_word_as_read(prompt: str, made: Snapshot, read: Read) -> Continuation:
    """`at_word`, with as many tokens as the engine reads there where it is not known how many were made."""
    cut = at_word(made)
    if made.scored or not cut.tokens:
        return cut
    tokens = len(await read(prompt + cut.text)) - len(await read(prompt))
    return Continuation((), cut.text, min(max(1, tokens), made.tokens - 1))


def at_word(made: Snapshot) -> Continuation:
    """The cut for an engine that neither tells ids nor reads texts for us: before the last word.

    Tokenisers of the byte-pair kind split at words first, so that what comes before a word is read alike without it.
    How many tokens are dropped is an estimate, by length, unless their log probabilities tell; at least one is.
    """
    if made.scored:
        return _at_word_of_tokens(made)
    at = max(made.text.rstrip().rfind(" "), made.text.rstrip().rfind("\n"))
    if at <= 0 or made.tokens <= 1:
        return Continuation((), "", 0)
    text = made.text[:at].rstrip(" ")
    kept = min(made.tokens - 1, round(made.tokens * len(text) / len(made.text)))
    return Continuation((), text, kept)


def _at_word_of_tokens(made: Snapshot) -> Continuation:
    """The same where the text of each token is known: between two tokens, so that each is told of once."""
    kept, kept_at, at = 0, 0, 0
    for count, token in enumerate(made.scored[:-1], start=1):
        if not made.text.startswith(token.token, at):
            break  # a part of a character: which text is whose cannot be told from here on
        at += len(token.token)
        # A token without text belongs to what comes after it.
        if at > kept_at and made.text[at : at + 1] in (" ", "\n") and not made.text[at - 1].isspace():
            kept, kept_at = count, at
    return Continuation((), made.text[:kept_at], kept)
