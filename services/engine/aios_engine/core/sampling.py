"""Which token comes next, given the model's logits: penalties, warpers and a draw whose noise can be made again.

The order and the meaning of each parameter are text-generation-inference's (`HeterogeneousNextTokenChooser` in
`server/text_generation_server/utils/tokens.py`): repetition penalty, frequency penalty, grammar, temperature, top-k,
top-p, typical-p; log-probabilities are those of the distribution the token is drawn from. The draw is ours: the
Gumbel-max trick with noise from a counter-based generator (Philox; Salmon et al., SC 2011) keyed by seed and absolute
position, so a generation that is resumed at any position, from token ids alone, goes on as if it had not stopped.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]
"""One score for each token of the vocabulary."""
Allowed = npt.NDArray[np.bool_]
"""Which tokens of the vocabulary a grammar allows."""


@dataclass(frozen=True, slots=True)
class SamplingParameters:
    """How to choose tokens; the defaults change nothing and choose greedily.

    Attributes:
        seed: 64 bits; with the position it determines the noise.
        do_sample: whether to draw at temperature 1 even where nothing else asks for sampling.
        temperature: divides the scores; above 0.
        top_k: keeps the k best tokens; 0 keeps all.
        top_p: keeps the smallest set of tokens with this probability; 1 keeps all.
        typical_p: keeps tokens of typical information (Meister et al., TACL 2023); 1 keeps all.
        repetition_penalty: divides the scores of tokens seen in prompt or answer (Keskar et al., CTRL, 2019).
        frequency_penalty: subtracts this times a token's share of all tokens so far.
    """

    seed: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn; TGI draws as soon as any warper is set, whatever `do_sample` says."""
        return self.do_sample or self.temperature != 1.0 or self.top_k > 0 or self.top_p < 1.0 or self.typical_p < 1.0


@dataclass(frozen=True, slots=True)
class Choice:
    """A chosen token, its log-probability, and the best `(token, log-probability)` pairs if they were asked for."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Chooses the tokens of one sequence."""

    def __init__(self, parameters: SamplingParameters, vocabulary: int, prompt: Sequence[int]) -> None:
        self._parameters = parameters
        self._counts: npt.NDArray[np.int32] | None = None
        self._length = len(prompt)
        if parameters.repetition_penalty != 1.0 or parameters.frequency_penalty != 0.0:
            self._counts = np.bincount(np.asarray(prompt, dtype=np.int64), minlength=vocabulary).astype(np.int32)

    def choose(self, logits: Logits, position: int, *, allowed: Allowed | None = None, top_n: int = 0) -> Choice:
        """Chooses the token at `position` and counts it for the penalties.

        Args:
            logits: the model's scores, shape (vocabulary,); left as they are.
            position: of the token to choose, from the beginning of the prompt.
            allowed: tokens a grammar allows, shape (vocabulary,).
            top_n: how many of the best tokens to report.
        """
        scores = self._penalised(logits)
        if allowed is not None:
            scores[~allowed] = -np.inf
        warp(scores, self._parameters)
        logprobs = log_softmax(scores)
        token = self._draw(scores, position) if self._parameters.samples else int(scores.argmax())
        if self._counts is not None:
            self._counts[token] += 1
        self._length += 1
        return Choice(token, float(logprobs[token]), best(logprobs, top_n))

    def _penalised(self, logits: Logits) -> Logits:
        scores = logits.astype(np.float32, copy=True)
        if self._counts is None:
            return scores
        seen = np.flatnonzero(self._counts)
        if self._parameters.repetition_penalty != 1.0:
            penalty = np.float32(self._parameters.repetition_penalty)
            found = scores[seen]
            scores[seen] = np.where(found < 0, found * penalty, found / penalty)
        if self._parameters.frequency_penalty != 0.0:
            share = self._counts[seen].astype(np.float32) / np.float32(self._length)
            scores[seen] -= share * np.float32(self._parameters.frequency_penalty)
        return scores

    def _draw(self, scores: Logits, position: int) -> int:
        noise = gumbel_noise(self._parameters.seed, position, scores.size)
        return int(np.argmax(scores.astype(np.float64) + noise))


def gumbel_noise(seed: int, position: int, size: int) -> npt.NDArray[np.float64]:
    """Standard Gumbel noise that depends on (seed, position) only, shape (size,)."""
    # Raw words, because numpy keeps the stream of a bit generator across versions, not that of a distribution.
    words = np.random.Philox(key=np.array([seed, position], dtype=np.uint64)).random_raw(size)
    uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return -np.log(-np.log(uniform))


def warp(scores: Logits, parameters: SamplingParameters) -> None:
    """Applies temperature, top-k, top-p and typical-p in place; tokens that are out get minus infinity."""
    if parameters.temperature != 1.0:
        scores /= np.float32(parameters.temperature)
    if 0 < parameters.top_k < scores.size:
        worst = np.partition(scores, -parameters.top_k)[-parameters.top_k]
        scores[scores < worst] = -np.inf
    if parameters.top_p < 1.0:
        order = np.argsort(scores, kind="stable")
        below = np.cumsum(np.exp(log_softmax(scores[order])))
        out = below <= 1.0 - parameters.top_p
        out[-1] = False
        scores[order[out]] = -np.inf
    if parameters.typical_p < 1.0:
        _keep_typical(scores, parameters.typical_p)


def _keep_typical(scores: Logits, mass: float) -> None:
    logprobs = log_softmax(scores)
    probabilities = np.exp(logprobs)
    entropy = -np.sum(probabilities[probabilities > 0] * logprobs[probabilities > 0])
    # Tokens that are already out have minus infinity here and must sort last.
    distance = np.where(np.isfinite(logprobs), np.abs(-logprobs - entropy), np.inf)
    order = np.argsort(distance, kind="stable")
    kept = int(np.searchsorted(np.cumsum(probabilities[order]), mass)) + 1
    scores[order[kept:]] = -np.inf


def log_softmax(scores: Logits) -> Logits:
    """Log-probabilities of scores, shape kept."""
    shifted = scores - scores.max()
    result: Logits = shifted - np.log(np.sum(np.exp(shifted)))
    return result


def best(logprobs: Logits, count: int) -> tuple[tuple[int, float], ...]:
    """The `count` most probable tokens with their log-probabilities, best first, leaving out impossible ones."""
    if count <= 0:
        return ()
    count = min(count, logprobs.size)
    found = np.argpartition(logprobs, -count)[-count:]
    order = found[np.lexsort((found, -logprobs[found]))]
    return tuple((int(token), float(logprobs[token])) for token in order if np.isfinite(logprobs[token]))
