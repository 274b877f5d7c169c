"""How two rankings become one: by the reciprocals of the ranks.

Source: Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual rank learning
methods", SIGIR 2009; k = 60 as there.
"""

from collections.abc import Sequence
from typing import Final

_K: Final = 60


def fused(rankings: Sequence[Sequence[str]], limit: int) -> list[tuple[str, float]]:
    """The best of several rankings with their scores, best first; of equals the one of the smaller name."""
    scores: dict[str, float] = {}
    for ranking in rankings:
        for rank, name in enumerate(ranking, 1):
            scores[name] = scores.get(name, 0.0) + 1 / (_K + rank)
    return sorted(scores.items(), key=lambda entry: (-entry[1], entry[0]))[:limit]
