"""Which files speak of some words, the best first: Okapi BM25 over an inverted index in memory.

In memory only: an index on disk would say in clear what the files say under seal. It is built again at every start.
Scores are Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009), with k1 = 1.2 and
b = 0.75.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

K1: Final = 1.2
B: Final = 0.75
MAX_WORD: Final = 64

_WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """The words of a text as they are looked up: case-folded, in compatibility form, without accents."""
    if not text.isascii():
        decomposed = unicodedata.normalize("NFKD", text)
        text = "".join(one for one in decomposed if not unicodedata.combining(one))
    return [word[:MAX_WORD] for word in _WORD.findall(text.casefold())]


@dataclass(slots=True)
class KeywordIndex:
    """The words of one tenant's files, by the file's key."""

    _postings: dict[str, dict[str, int]] = field(default_factory=dict)
    _documents: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _lengths: dict[str, int] = field(default_factory=dict)
    _total: int = 0

    def __len__(self) -> int:
        return len(self._documents)

    def __contains__(self, document: str) -> bool:
        return document in self._documents

    def put(self, document: str, words: list[str]) -> None:
        """Takes a file's words in, in the place of those it had."""
        self.remove(document)
        counts = Counter(words)
        for word, count in counts.items():
            self._postings.setdefault(word, {})[document] = count
        self._documents[document] = tuple(counts)
        self._lengths[document] = len(words)
        self._total += len(words)

    def remove(self, document: str) -> None:
        """Takes a file out, if it is in."""
        for word in self._documents.pop(document, ()):
            postings = self._postings[word]
            del postings[document]
            if not postings:
                del self._postings[word]
        self._total -= self._lengths.pop(document, 0)

    def search(self, words: list[str], limit: int, allowed: Callable[[str], bool]) -> list[tuple[str, float]]:
        """The best files that hold any of the words, with their scores, the best first; ties by key."""
        if not self._documents:
            return []
        average = self._total / len(self._documents) or 1.0
        scores: dict[str, float] = {}
        for word in dict.fromkeys(words):
            postings = self._postings.get(word)
            if postings is None:
                continue
            rarity = math.log(1 + (len(self._documents) - len(postings) + 0.5) / (len(postings) + 0.5))
            for document, count in postings.items():
                norm = K1 * (1 - B + B * self._lengths[document] / average)
                scores[document] = scores.get(document, 0.0) + rarity * count * (K1 + 1) / (count + norm)
        ranked = sorted(scores.items(), key=lambda found: (-found[1], found[0]))
        best: list[tuple[str, float]] = []
        for document, score in ranked:
            if allowed(document):
                best.append((document, score))
                if len(best) == limit:
                    break
        return best


def excerpt(text: str, words: list[str], width: int = 160) -> str:
    """The stretch of a text where one of the words stands first, else its beginning; about `width` characters."""
    wanted = set(words)
    at = next((match.start() for match in _WORD.finditer(text) if wanted & set(words_of(match[0]))), 0)
    begin = max(0, at - width // 4)
    piece = " ".join(text[begin : begin + width].split())
    return f"{'…' if begin else ''}{piece}{'…' if begin + width < len(text) else ''}"


def fused(rankings: list[list[str]], limit: int, constant: float = 60.0) -> list[tuple[str, float]]:
    """Several rankings as one: reciprocal rank fusion, Cormack, Clarke and Büttcher (2009)."""
    scores: dict[str, float] = {}
    for ranking in rankings:
        for rank, document in enumerate(ranking, 1):
            scores[document] = scores.get(document, 0.0) + 1 / (constant + rank)
    return sorted(scores.items(), key=lambda found: (-found[1], found[0]))[:limit]
