"""What the engine knows about one generation while it runs: the tokens to give to the model, and what came back."""

import time
from collections.abc import Mapping

from aios_engine.backend import (
    Ending,
    GeneratedToken,
    GenerationRequest,
    Progress,
    PromptToken,
    TokenEvent,
)
from aios_engine.core.detokenizer import Detokenizer
from aios_engine.core.planner import PrefillChunk
from aios_engine.core.sampling import Logits, Sampler, log_softmax
from aios_engine.core.stopping import FinishReason, Stopping
from aios_engine.errors import ValidationError
from aios_engine.grammar import GrammarState
from aios_engine.llama.model import Token, Vocabulary


class Sequence:
    """One generation in the engine thread."""

    def __init__(
        self, identity: int, request: GenerationRequest, vocabulary: Vocabulary, grammar: GrammarState | None
    ) -> None:
        """Stands behind the tokens that were generated before.

        Raises:
            ValidationError: the generation had ended with them, or the grammar does not allow them.
        """
        self.id = identity
        self.request = request
        self.context = request.prompt + request.generated
        """What the model reads before it makes a token."""
        self.progress = Progress(queued_ns=time.time_ns(), generated_tokens=len(request.generated))
        self.slot = -1
        self._vocabulary = vocabulary
        self._grammar = grammar
        self._sampler = Sampler(request.sampling, vocabulary.size, self.context)
        self._stopping = Stopping(request.max_new_tokens, request.stop_sequences)
        self._detokenizer = Detokenizer()
        self._prompt_logprobs: list[float] = []
        self._length = len(self.context)
        self._last = -1
        for token in request.generated:
            self._replay(token)

    def _replay(self, token: int) -> None:
        """Brings everything but the model past a token that was generated before.

        Raises:
            ValidationError: the generation had ended with it, or the grammar does not allow it.
        """
        if self._grammar is not None and not self._grammar.accept(token):
            raise ValidationError("`generated_ids` do not match the grammar")
        if self._pass(token)[1] is not None:
            raise ValidationError("`generated_ids` are of a generation that has ended")

    def _pass(self, token: int) -> tuple[str, FinishReason | None]:
        """The text a token adds, and whether the generation is over with it."""
        special = token in self._vocabulary.special
        text = self._detokenizer.push(self._vocabulary.pieces[token], special=special)
        return text, self._stopping.push(text, is_eos=token in self._vocabulary.end_of_generation)

    def start(self, slot: int, reused: int) -> None:
        """Takes a slot that has the KV of the first `reused` tokens."""
        self.slot = slot
        self.progress.cached_tokens = reused
        self.progress.started_ns = time.time_ns()

    @property
    def last(self) -> int:
        """The last chosen token, whose KV is not computed yet."""
        return self._last

    def decode_token(self) -> Token:
        """The last chosen token, as input of the next step."""
        return Token(self._last, self._length - 1, self.slot, wants_logits=True)

    def prefill_tokens(self, chunk: PrefillChunk) -> list[Token]:
        """A chunk of the prompt, as input of the next step."""
        prompt = self.context
        return [
            Token(prompt[at], at, self.slot, self.request.prefill_details or at == len(prompt) - 1)
            for at in range(chunk.start, chunk.stop)
        ]

    def note_prefill(self, chunk: PrefillChunk, logits: Mapping[int, Logits], offset: int) -> None:
        """Keeps the log-probabilities of a chunk's tokens, if they were asked for.

        Args:
            chunk: what was computed.
            logits: of the step, by index.
            offset: index of the chunk's first token in the step.
        """
        if not self.request.prefill_details:
            return
        prompt = self.context
        for at in range(chunk.start, min(chunk.stop, len(prompt) - 1)):
            logprobs = log_softmax(logits[offset + at - chunk.start])
            self._prompt_logprobs.append(float(logprobs[prompt[at + 1]]))
        if chunk.last:
            self.progress.prefill = tuple(
                PromptToken(token, self._text(token), logprob)
                for token, logprob in zip(prompt, [None, *self._prompt_logprobs], strict=True)
            )

    def choose(self, logits: Logits) -> TokenEvent:
        """Chooses the next token.

        Raises:
            ValueError: the grammar failed.
        """
        allowed = None if self._grammar is None else self._grammar.allowed()
        choice = self._sampler.choose(logits, self._length, allowed=allowed, top_n=self.request.top_n_tokens)
        if self._grammar is not None:
            self._grammar.accept(choice.token)
        now = time.time_ns()
        if self.progress.prefilled_ns is None:
            self.progress.prefilled_ns = now
        special = choice.token in self._vocabulary.special
        text, reason = self._pass(choice.token)
        self._last = choice.token
        self._length += 1
        self.progress.generated_tokens += 1
        ending = None
        if reason is not None:
            self.progress.ended_ns = now
            ending = Ending(self._detokenizer.finish(), reason, self.progress.generated_tokens)
        return TokenEvent(
            self._told(choice.token, text, choice.logprob, special=special),
            tuple(
                self._told(token, self._text(token), logprob, special=token in self._vocabulary.special)
                for token, logprob in choice.top
            ),
            ending,
        )

    def _told(self, token: int, text: str, logprob: float, *, special: bool) -> GeneratedToken:
        piece = self._vocabulary.pieces[token]
        return GeneratedToken(token, text, logprob, special, None if text.encode() == piece else piece)

    def _text(self, token: int) -> str:
        return self._vocabulary.pieces[token].decode("utf-8", errors="replace")
