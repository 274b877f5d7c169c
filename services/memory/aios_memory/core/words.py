"""Which notes a query's words find, and how well: BM25 over the notes of one owner.

Source: Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009; k1 = 1.2, b = 0.75, and
the inverse document frequency with one added inside the logarithm, so that no word counts against a note.
"""

import heapq
import math
import re
import sys
from collections import Counter
from collections.abc import Callable
from typing import Final

_K1: Final = 1.2
_B: Final = 0.75
_LONGEST_WORD: Final = 64
# Scripts without spaces between words: each character is a word of its own.
_WORDS: Final = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")


def words_of(text: str) -> list[str]:
    """The words of a text, as they are compared."""
    return [sys.intern(word[:_LONGEST_WORD]) for word in _WORDS.findall(text.casefold())]


class WordIndex:
    """The words of some notes."""

    def __init__(self) -> None:
        self._places: dict[str, dict[str, int]] = {}
        self._words: dict[str, tuple[str, ...]] = {}
        self._lengths: dict[str, int] = {}
        self._total = 0

    def put(self, note: str, text: str) -> None:
        """Indexes a note's text, instead of what was indexed before."""
        self.remove(note)
        counts = Counter(words_of(text))
        for word, count in counts.items():
            self._places.setdefault(word, {})[note] = count
        self._words[note] = tuple(counts)
        self._lengths[note] = length = counts.total()
        self._total += length

    def remove(self, note: str) -> None:
        """Forgets a note; one that is not there is no error."""
        for word in self._words.pop(note, ()):
            places = self._places[word]
            del places[note]
            if not places:
                del self._places[word]
        self._total -= self._lengths.pop(note, 0)

    def search(self, query: str, allowed: Callable[[str], bool], limit: int) -> list[tuple[str, float]]:
        """The best notes that are allowed, with their scores, best first."""
        count = len(self._lengths)
        if not count:
            return []
        average = max(1.0, self._total / count)
        scores: dict[str, float] = {}
        for word in dict.fromkeys(words_of(query)):
            places = self._places.get(word)
            if not places:
                continue
            weight = math.log(1 + (count - len(places) + 0.5) / (len(places) + 0.5))
            for note, times in places.items():
                norm = _K1 * (1 - _B + _B * self._lengths[note] / average)
                scores[note] = scores.get(note, 0.0) + weight * times * (_K1 + 1) / (times + norm)
        found = ((note, score) for note, score in scores.items() if allowed(note))
        return heapq.nsmallest(limit, found, key=lambda entry: (-entry[1], entry[0]))
