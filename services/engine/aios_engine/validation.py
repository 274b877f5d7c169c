"""Whether a request can be served and what exactly it asks for, in text-generation-inference's words.

Checks, their order and their messages are those of TGI's `router/src/validation.rs`.
"""

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pydantic import JsonValue

from aios_engine.backend import GenerationRequest, GrammarSource
from aios_engine.core.json_schema import closed
from aios_engine.core.sampling import SamplingParameters
from aios_engine.errors import ValidationError
from aios_engine.wire import GenerateParameters, GenerateRequest, JsonGrammar, JsonSchemaGrammar, RegexGrammar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may ask for.

    Attributes:
        max_best_of: largest `best_of`.
        max_stop_sequences: how many stop sequences.
        max_top_n_tokens: largest `top_n_tokens`.
        max_total_tokens: prompt and answer.
        max_input_tokens: prompt.
        default_max_new_tokens: where none is named; less if the prompt leaves less.
        vocabulary: token ids below this exist.
        resumes: whether `generated_ids` can be gone on from.
    """

    max_best_of: int
    max_stop_sequences: int
    max_top_n_tokens: int
    max_total_tokens: int
    max_input_tokens: int
    default_max_new_tokens: int
    vocabulary: int
    resumes: bool = False


def sampling_of(parameters: GenerateParameters, new_seed: Callable[[], int]) -> SamplingParameters:
    """How tokens are chosen.

    Raises:
        ValidationError: a parameter is out of its range.
    """
    temperature = _or(parameters.temperature, 1.0)
    if temperature <= 0:
        raise ValidationError("`temperature` must be strictly positive")
    repetition_penalty = _or(parameters.repetition_penalty, 1.0)
    if repetition_penalty <= 0:
        raise ValidationError("`repetition_penalty` must be strictly positive")
    frequency_penalty = _or(parameters.frequency_penalty, 0.0)
    if not -2 <= frequency_penalty <= 2:
        raise ValidationError("`frequency_penalty` must be >= -2.0 and <= 2.0")
    for name, share in (("top_p", parameters.top_p), ("typical_p", parameters.typical_p)):
        if share is not None and not 0 < share < 1:
            raise ValidationError(f"`{name}` must be > 0.0 and < 1.0")
    if parameters.top_k is not None and parameters.top_k <= 0:
        raise ValidationError("`top_k` must be strictly positive")
    return SamplingParameters(
        seed=new_seed() if parameters.seed is None else parameters.seed,
        do_sample=parameters.do_sample,
        temperature=temperature,
        top_k=_or(parameters.top_k, 0),
        top_p=_or(parameters.top_p, 1.0),
        typical_p=_or(parameters.typical_p, 1.0),
        repetition_penalty=repetition_penalty,
        frequency_penalty=frequency_penalty,
    )


def _or(value: T | None, default: T) -> T:
    return default if value is None else value


def random_seed() -> int:
    """A seed for a request that names none."""
    return secrets.randbits(64)


def validate(
    request: GenerateRequest,
    limits: Limits,
    tokenize: Callable[[], list[int]],
    new_seed: Callable[[], int] = random_seed,
) -> GenerationRequest:
    """What a request asks for.

    Args:
        request: as it came.
        limits: what it may ask for.
        tokenize: the ids of `inputs`; called once, when all else is right.
        new_seed: for a request without one.

    Raises:
        ValidationError: it cannot be served.
    """
    parameters = request.parameters
    best_of = _or(parameters.best_of, 1)
    samples = parameters.do_sample or any(
        value is not None
        for value in (parameters.temperature, parameters.top_k, parameters.top_p, parameters.typical_p)
    )
    if best_of > 1 and not samples:
        raise ValidationError("you must use sampling when `best_of` is > 1")
    sampling = sampling_of(parameters, new_seed)
    if parameters.max_new_tokens == 0:
        raise ValidationError("`max_new_tokens` must be strictly positive")
    if len(parameters.stop) > limits.max_stop_sequences:
        raise ValidationError(
            f"`stop` supports up to {limits.max_stop_sequences} stop sequences. Given: {len(parameters.stop)}"
        )
    if "" in parameters.stop:
        raise ValidationError("`stop` sequences cannot be empty")
    if parameters.seed is not None and best_of > 1:
        raise ValidationError("`seed` must not be set when `best_of` > 1")
    top_n_tokens = _or(parameters.top_n_tokens, 0)
    if top_n_tokens > limits.max_top_n_tokens:
        raise ValidationError(f"`top_n_tokens` must be >= 0 and <= {limits.max_top_n_tokens}. Given: {top_n_tokens}")
    if parameters.watermark:
        raise ValidationError("`watermark` is not supported by this engine")
    prompt = _prompt(request, limits, tokenize)
    max_new_tokens = _max_new_tokens(parameters, limits, len(prompt))
    return GenerationRequest(
        prompt=prompt,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        stop_sequences=tuple(parameters.stop),
        top_n_tokens=top_n_tokens,
        prefill_details=parameters.decoder_input_details,
        grammar=_grammar(parameters),
        generated=_generated(request, limits, max_new_tokens),
        cache_prompt=request.cache_prompt,
        kv_key=request.kv_key,
        kv_from=request.kv_from or request.kv_key,
    )


def validate_best_of(best_of: int, limits: Limits) -> None:
    """Whether so many generations of one request may be compared.

    Raises:
        ValidationError: they may not.
    """
    if limits.max_best_of == 1 and best_of != 1:
        raise ValidationError("`best_of` != 1 is not allowed for this endpoint")
    if best_of > limits.max_best_of:
        raise ValidationError(f"`best_of` must be > 0 and <= {limits.max_best_of}. Given: {best_of}")


def _prompt(request: GenerateRequest, limits: Limits, tokenize: Callable[[], list[int]]) -> tuple[int, ...]:
    if not request.inputs and not request.input_ids:
        raise ValidationError("`inputs` cannot be empty")
    truncate = request.parameters.truncate
    if truncate is not None and not 0 < truncate <= limits.max_input_tokens:
        raise ValidationError(
            f"`truncate` must be strictly positive and less than {limits.max_input_tokens}. Given: {truncate}"
        )
    if request.input_ids is None:
        ids = tokenize()
    else:
        ids = request.input_ids
        _check_known("input_ids", ids, limits)
    return tuple(ids if truncate is None else ids[-truncate:])


def _generated(request: GenerateRequest, limits: Limits, max_new_tokens: int) -> tuple[int, ...]:
    ids = request.generated_ids
    if not ids:
        return ()
    if not limits.resumes:
        raise ValidationError("`generated_ids` is not supported by this engine")
    _check_known("generated_ids", ids, limits)
    if len(ids) >= max_new_tokens:
        raise ValidationError(
            f"`generated_ids` must be fewer than `max_new_tokens`. Given: {len(ids)} and {max_new_tokens}"
        )
    return tuple(ids)


def _check_known(name: str, ids: list[int], limits: Limits) -> None:
    unknown = next((token for token in ids if token >= limits.vocabulary), None)
    if unknown is not None:
        raise ValidationError(f"`{name}` must be less than {limits.vocabulary}. Given: {unknown}")


def _max_new_tokens(parameters: GenerateParameters, limits: Limits, input_tokens: int) -> int:
    max_new_tokens = parameters.max_new_tokens
    if max_new_tokens is None:
        max_new_tokens = min(limits.default_max_new_tokens, max(0, limits.max_total_tokens - input_tokens))
    if input_tokens + max_new_tokens > limits.max_total_tokens:
        raise ValidationError(
            f"`inputs` tokens + `max_new_tokens` must be <= {limits.max_total_tokens}. "
            f"Given: {input_tokens} `inputs` tokens and {max_new_tokens} `max_new_tokens`"
        )
    if input_tokens > limits.max_input_tokens:
        raise ValidationError(f"`inputs` must have less than {limits.max_input_tokens} tokens. Given: {input_tokens}")
    return max_new_tokens


def _grammar(parameters: GenerateParameters) -> GrammarSource | None:
    match parameters.grammar:
        case None:
            return None
        case RegexGrammar(value=expression):
            return GrammarSource("regex", expression)
        case JsonSchemaGrammar(value=named):
            return GrammarSource("json", json.dumps(closed(named.schema_)))
        case JsonGrammar(value=schema):
            return GrammarSource("json", json.dumps(closed(_schema(schema))))


def _schema(value: JsonValue) -> dict[str, JsonValue]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValidationError(f"grammar is not valid: {error}") from error
    if not isinstance(value, dict):
        raise ValidationError("grammar is not supported")
    return value
