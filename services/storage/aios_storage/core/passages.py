"""Which stretches of a text stand for what it means: whole lines, as much as an embedding model reads at once."""

from typing import Final

PASSAGE_CHARS: Final = 900
MAX_PASSAGES: Final = 16


def passages_of(text: str) -> list[str]:
    """The first passages of a text, none of them blank; a line that is too long is cut."""
    found: list[str] = []
    kept = ""
    for line in text.splitlines():
        for begin in range(0, max(1, len(line)), PASSAGE_CHARS):
            piece = line[begin : begin + PASSAGE_CHARS]
            if kept and len(kept) + len(piece) >= PASSAGE_CHARS:
                if kept.strip():
                    found.append(kept.strip())
                kept = ""
            kept += piece + "\n"
            if len(found) == MAX_PASSAGES:
                return found
    if kept.strip() and len(found) < MAX_PASSAGES:
        found.append(kept.strip())
    return found
