"""Which tokens a JSON Schema or a regular expression allows next, by llguidance, on the engine's logits."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from llguidance import LLMatcher, LLTokenizer

from aios_engine.backend import GrammarSource
from aios_engine.core.sampling import Allowed
from aios_engine.errors import ValidationError
from aios_engine.llama.model import Vocabulary

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

# One way to write each document: small models otherwise fill their answer with white space.
_JSON_STYLE: "JsonCompileOptions" = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class GrammarState:
    """Where one generation stands in its grammar. Replaying the generated tokens brings another one there."""

    def __init__(self, matcher: LLMatcher, vocabulary: int) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary

    def allowed(self) -> Allowed:
        """Tokens that may come next, shape (vocabulary,); only end-of-sequence tokens once the grammar is complete.

        Raises:
            ValueError: the grammar grew past llguidance's limits.
        """
        mask = self._matcher.compute_bitmask()
        if self._matcher.is_error():
            raise ValueError(f"the grammar failed: {self._matcher.get_error()}")
        bits = np.unpackbits(np.frombuffer(mask, dtype=np.uint8), count=self._vocabulary, bitorder="little")
        return bits.astype(np.bool_)

    def accept(self, token: int) -> bool:
        """Moves past a token; False if it is not allowed here, and then the state is of no use any more."""
        return bool(self._matcher.consume_token(token))


class GrammarCompiler:
    """Compiles grammars for one vocabulary. Making it takes about half a second of CPU; compiling, milliseconds."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        special = vocabulary.special
        # llguidance marks control tokens, which no text may match, with a leading byte that is no UTF-8.
        tokens = [b"\xff" + piece if token in special else piece for token, piece in enumerate(vocabulary.pieces)]
        build: Callable[..., LLTokenizer] = LLTokenizer.from_llamacpp  # type: ignore[attr-defined]
        self._tokenizer = build(
            tokens=tokens,
            vocab_ptr=vocabulary.pointer,
            tokenize_fptr=vocabulary.tokenize_address,
            eos_token=sorted(vocabulary.end_of_generation),
        )
        self._vocabulary = vocabulary.size

    def compile(self, grammar: GrammarSource) -> GrammarState:
        """The state at the beginning of an answer.

        Raises:
            ValidationError: the schema or the expression is not valid, or uses what cannot be enforced.
        """
        try:
            if grammar.kind == "regex":
                source = LLMatcher.grammar_from_regex(grammar.source)
            else:
                source = LLMatcher.grammar_from_json_schema(grammar.source, overrides=_JSON_STYLE)
        except ValueError as error:
            raise ValidationError(f"grammar is not valid: {error}") from error
        matcher = LLMatcher(self._tokenizer, source, log_level=0)
        if matcher.is_error():
            raise ValidationError(f"grammar is not valid: {matcher.get_error().strip()}")
        return GrammarState(matcher, self._vocabulary)
