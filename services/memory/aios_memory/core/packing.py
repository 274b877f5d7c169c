"""Which notes fit into a token budget: the best first, each whole or not at all."""

from collections.abc import Sequence
from typing import Final

from aios_memory.core.note import Note

HEADING: Final = "Notes from earlier that may help:"
ESTIMATED_BYTES_A_TOKEN: Final = 2


def line_of(note: Note) -> str:
    """A note as one line of the text."""
    content = " ".join(note.content.split())
    return f"- {content}" + (f" ({note.context})" if note.context else "")


def packed(counts: Sequence[int], budget: int) -> tuple[list[int], int]:
    """Which notes are taken, and the tokens of all of it.

    Args:
        counts: tokens of the heading, then of each note, best first.
        budget: the most tokens.

    Returns:
        Places of the notes, 0 for the best, in that order; none where not even one fits.
    """
    heading, *notes = counts
    total, chosen = heading, []
    for place, count in enumerate(notes):
        if total + count <= budget:
            total += count
            chosen.append(place)
    return (chosen, total) if chosen else ([], 0)
