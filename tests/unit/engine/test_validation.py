from typing import Any

import pytest

from aios_engine.backend import GenerationRequest, GrammarSource
from aios_engine.errors import ValidationError
from aios_engine.validation import Limits, validate, validate_best_of
from aios_engine.wire import GenerateRequest

LIMITS = Limits(
    max_best_of=2,
    max_stop_sequences=4,
    max_top_n_tokens=5,
    max_total_tokens=20,
    max_input_tokens=15,
    default_max_new_tokens=8,
    vocabulary=100,
)


def check(inputs: str = "x", ids: int = 3, input_ids: list[int] | None = None, **parameters: Any) -> GenerationRequest:
    request = GenerateRequest.model_validate(
        {"inputs": inputs, "parameters": parameters} | ({} if input_ids is None else {"input_ids": input_ids})
    )
    return validate(request, LIMITS, lambda: list(range(ids)), lambda: 99)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"temperature": 0.0}, "`temperature` must be strictly positive"),
        ({"temperature": -1.0}, "`temperature` must be strictly positive"),
        ({"repetition_penalty": 0.0}, "`repetition_penalty` must be strictly positive"),
        ({"frequency_penalty": 2.1}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
        ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
        ({"top_p": 0.0}, "`top_p` must be > 0.0 and < 1.0"),
        ({"typical_p": 1.5}, "`typical_p` must be > 0.0 and < 1.0"),
        ({"top_k": 0}, "`top_k` must be strictly positive"),
        ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
        ({"stop": ["a"] * 5}, "`stop` supports up to 4 stop sequences. Given: 5"),
        ({"stop": [""]}, "`stop` sequences cannot be empty"),
        ({"top_n_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
        ({"truncate": 0}, "`truncate` must be strictly positive and less than 15. Given: 0"),
        ({"truncate": 16}, "`truncate` must be strictly positive and less than 15. Given: 16"),
        ({"best_of": 2}, "you must use sampling when `best_of` is > 1"),
        ({"best_of": 2, "do_sample": True, "seed": 1}, "`seed` must not be set when `best_of` > 1"),
        (
            {"max_new_tokens": 18},
            "`inputs` tokens + `max_new_tokens` must be <= 20. Given: 3 `inputs` tokens and 18 `max_new_tokens`",
        ),
        ({"watermark": True}, "`watermark` is not supported by this engine"),
        ({"grammar": {"type": "json", "value": "{"}}, "grammar is not valid: "),
        ({"grammar": {"type": "json", "value": "[]"}}, "grammar is not supported"),
    ],
)
def test_bad_parameters_are_refused_in_tgis_words(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        check(**parameters)
    assert str(caught.value).startswith(f"Input validation error: {message}")


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ValidationError, match="`inputs` cannot be empty"):
        check(inputs="")


def test_a_prompt_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"`inputs` must have less than 15 tokens. Given: 16"):
        check(ids=16, max_new_tokens=2)


def test_a_prompt_without_room_for_an_answer_is_refused() -> None:
    with pytest.raises(ValidationError, match="`inputs`"):
        check(ids=20)


def test_without_max_new_tokens_the_default_is_taken_as_far_as_there_is_room() -> None:
    assert check(ids=3).max_new_tokens == 8
    assert check(ids=15).max_new_tokens == 5


def test_truncate_keeps_the_end_of_the_prompt() -> None:
    assert check(ids=10, truncate=4).prompt == (6, 7, 8, 9)


def test_token_ids_are_taken_instead_of_text() -> None:
    assert check(inputs="", input_ids=[5, 6]).prompt == (5, 6)
    with pytest.raises(ValidationError, match=r"`input_ids` must be less than 100. Given: 100"):
        check(inputs="", input_ids=[5, 100])
    with pytest.raises(ValidationError, match="`inputs` cannot be empty"):
        check(inputs="", input_ids=[])


def test_a_missing_seed_is_drawn_and_a_given_one_kept() -> None:
    assert check().sampling.seed == 99
    assert check(seed=0).sampling.seed == 0
    assert check(seed=2**64 - 1).sampling.seed == 2**64 - 1


def test_it_samples_where_parameters_are_absent_but_not_where_they_do_not_say_so() -> None:
    absent = validate(GenerateRequest.model_validate({"inputs": "x"}), LIMITS, lambda: [1])
    assert absent.sampling.samples
    assert not check().sampling.samples
    assert check(top_k=3).sampling.samples


@pytest.mark.parametrize(
    ("grammar", "expected"),
    [
        ({"type": "json", "value": {"a": 1}}, GrammarSource("json", '{"a": 1}')),
        ({"type": "json", "value": '{"a":1}'}, GrammarSource("json", '{"a": 1}')),
        ({"type": "regex", "value": "a+"}, GrammarSource("regex", "a+")),
        ({"type": "json_schema", "value": {"name": "n", "schema": {"a": 1}}}, GrammarSource("json", '{"a": 1}')),
    ],
)
def test_grammars_come_in_tgis_three_forms(grammar: dict[str, Any], expected: GrammarSource) -> None:
    assert check(grammar=grammar).grammar == expected


def test_best_of_has_a_limit() -> None:
    validate_best_of(2, LIMITS)
    with pytest.raises(ValidationError, match=r"`best_of` must be > 0 and <= 2. Given: 3"):
        validate_best_of(3, LIMITS)
