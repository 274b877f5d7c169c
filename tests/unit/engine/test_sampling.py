import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios_engine.core.sampling import Logits, Sampler, SamplingParameters, best, gumbel_noise, log_softmax, warp

VOCABULARY = 50


def logits(seed: int = 1) -> Logits:
    return np.random.default_rng(seed).normal(size=VOCABULARY).astype(np.float32) * 3


def kept(scores: Logits) -> set[int]:
    return set(np.flatnonzero(np.isfinite(scores)).tolist())


def choose(parameters: SamplingParameters, scores: Logits, position: int = 3) -> int:
    return Sampler(parameters, VOCABULARY, [1, 2, 3]).choose(scores, position).token


def test_without_sampling_the_best_token_is_chosen() -> None:
    choice = Sampler(SamplingParameters(), VOCABULARY, [1]).choose(logits(), 1)
    assert choice.token == int(logits().argmax())
    assert choice.logprob == pytest.approx(float(log_softmax(logits())[choice.token]))


def test_choosing_leaves_the_models_scores_as_they_are() -> None:
    scores = logits()
    Sampler(SamplingParameters(temperature=0.5, repetition_penalty=1.5), VOCABULARY, [1]).choose(scores, 1)
    assert np.array_equal(scores, logits())


@pytest.mark.parametrize(
    ("parameters", "samples"),
    [
        (SamplingParameters(), False),
        (SamplingParameters(do_sample=True), True),
        (SamplingParameters(temperature=0.7), True),
        (SamplingParameters(top_k=4), True),
        (SamplingParameters(top_p=0.9), True),
        (SamplingParameters(typical_p=0.9), True),
        (SamplingParameters(repetition_penalty=1.2), False),
    ],
)
def test_any_warper_makes_it_sample_as_in_tgi(parameters: SamplingParameters, samples: bool) -> None:
    assert parameters.samples is samples


def test_the_same_seed_and_position_draw_the_same_token_and_others_differ() -> None:
    def drawn(seed: int, start: int) -> list[int]:
        parameters = SamplingParameters(seed=seed, do_sample=True, temperature=2.0)
        return [choose(parameters, logits(), position) for position in range(start, start + 40)]

    assert drawn(7, 0) == drawn(7, 0)
    assert drawn(7, 0) != drawn(8, 0)
    assert drawn(7, 0) != drawn(7, 40)


def test_noise_is_the_same_on_every_machine_and_version() -> None:
    assert gumbel_noise(42, 17, 3) == pytest.approx([0.11976542, 1.02095581, -1.20601217], abs=1e-8)


@pytest.mark.parametrize("seed", [0, 1, 2**63, 2**64 - 1])
def test_every_64_bit_seed_works(seed: int) -> None:
    assert 0 <= choose(SamplingParameters(seed=seed, do_sample=True), logits()) < VOCABULARY


def test_draws_follow_the_distribution() -> None:
    scores = np.log(np.array([0.5, 0.3, 0.2], dtype=np.float32))
    draws = [
        Sampler(SamplingParameters(seed=5, do_sample=True), 3, [0]).choose(scores, position).token
        for position in range(4000)
    ]
    assert np.bincount(draws, minlength=3) / 4000 == pytest.approx([0.5, 0.3, 0.2], abs=0.03)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(1, 29))
def test_a_run_resumed_at_any_position_goes_on_as_if_it_had_not_stopped(seed: int, cut: int) -> None:
    parameters = SamplingParameters(
        seed=seed, do_sample=True, temperature=1.3, top_p=0.95, repetition_penalty=1.1, frequency_penalty=0.3
    )
    prompt = [4, 4, 9]

    def run(given_ids: list[int], count: int) -> list[int]:
        sampler = Sampler(parameters, VOCABULARY, given_ids)
        ids = list(given_ids)
        for _ in range(count):
            # A stand-in for a model: its scores depend on all tokens so far.
            ids.append(sampler.choose(logits(sum(ids) % 1000), len(ids)).token)
        return ids

    whole = run(prompt, 30)
    assert run(whole[: len(prompt) + cut], 30 - cut) == whole


def test_top_k_keeps_the_k_best() -> None:
    scores = logits()
    warp(scores, SamplingParameters(top_k=3))
    assert kept(scores) == set(np.argsort(logits())[-3:].tolist())


def test_a_top_k_beyond_the_vocabulary_keeps_all() -> None:
    scores = logits()
    warp(scores, SamplingParameters(top_k=1000))
    assert len(kept(scores)) == VOCABULARY


def test_top_p_keeps_the_smallest_set_with_that_probability() -> None:
    scores = np.log(np.array([0.5, 0.3, 0.15, 0.05], dtype=np.float32))
    for top_p, expected in ((0.4, {0}), (0.6, {0, 1}), (0.9, {0, 1, 2}), (0.001, {0})):
        one = scores.copy()
        warp(one, SamplingParameters(top_p=top_p))
        assert kept(one) == expected


def test_typical_p_keeps_tokens_of_typical_information() -> None:
    probabilities = np.array([0.4, 0.2, 0.2, 0.1, 0.1], dtype=np.float32)
    scores = np.log(probabilities)
    warp(scores, SamplingParameters(typical_p=0.3))
    # The entropy is 1.47 nats; 0.2 carries 1.61, the nearest.
    assert kept(scores) == {1, 2}


def test_warpers_after_each_other_leave_at_least_one_token() -> None:
    scores = logits()
    warp(scores, SamplingParameters(temperature=0.1, top_k=2, top_p=0.01, typical_p=0.01))
    assert len(kept(scores)) >= 1


def test_a_repetition_penalty_makes_seen_tokens_less_likely_whatever_their_sign() -> None:
    scores = np.array([2.0, -2.0, 1.0, 0.0], dtype=np.float32)
    choice = Sampler(SamplingParameters(repetition_penalty=2.0), 4, [0, 1]).choose(scores, 2, top_n=4)
    assert [token for token, _ in choice.top] == [0, 2, 3, 1]
    gaps = dict(choice.top)
    assert gaps[0] - gaps[3] == pytest.approx(1.0)
    assert gaps[3] - gaps[1] == pytest.approx(4.0)


def test_a_frequency_penalty_grows_with_a_tokens_share() -> None:
    scores = np.zeros(3, dtype=np.float32)
    choice = Sampler(SamplingParameters(frequency_penalty=1.0), 3, [0, 0, 0, 1]).choose(scores, 4, top_n=3)
    gaps = dict(choice.top)
    assert gaps[2] - gaps[0] == pytest.approx(0.75)
    assert gaps[2] - gaps[1] == pytest.approx(0.25)


def test_generated_tokens_count_for_the_penalties_too() -> None:
    sampler = Sampler(SamplingParameters(repetition_penalty=10.0), 3, [2])
    scores = np.array([1.0, 0.9, 0.5], dtype=np.float32)
    assert [sampler.choose(scores, position).token for position in (1, 2)] == [0, 1]


def test_a_grammar_rules_tokens_out_before_anything_is_chosen() -> None:
    allowed = np.zeros(VOCABULARY, dtype=np.bool_)
    allowed[[3, 5]] = True
    for parameters in (SamplingParameters(), SamplingParameters(do_sample=True, top_k=4)):
        choice = Sampler(parameters, VOCABULARY, [1]).choose(logits(), 1, allowed=allowed, top_n=5)
        assert choice.token in (3, 5)
        assert {token for token, _ in choice.top} == {3, 5}


def test_alternatives_come_best_first() -> None:
    logprobs = log_softmax(logits())
    assert [token for token, _ in best(logprobs, 5)] == np.argsort(-logprobs)[:5].tolist()
    assert best(logprobs, 0) == ()
