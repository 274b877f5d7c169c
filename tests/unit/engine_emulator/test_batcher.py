"""The emulated engine in virtual time: who is in which step, how long that takes, and what the caches hold."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios_engine.emulator.batcher import Batcher, Happened, Job
from aios_engine.emulator.timing import HARDWARE
from aios_engine.errors import OverloadedError, ValidationError

H100 = HARDWARE["h100"]


def job(
    name: str, prompt: int = 100, output: int = 10, limit: int = 50, path: tuple[tuple[str, int], ...] | None = None
) -> Job:
    segments = path or ((name, prompt),)
    return Job(name, tuple(key for key, _ in segments), tuple(n for _, n in segments), prompt, output, limit)


def run(batcher: Batcher) -> list[Happened]:
    """Lets time pass until nothing happens any more."""
    happened = []
    while (time := batcher.next_time()) is not None:
        happened += batcher.advance(time)
    return happened


def submit(batcher: Batcher, *jobs: Job, now: float = 0.0) -> None:
    for one in jobs:
        batcher.submit(one, now)
    batcher.advance(now)


def ends(happened: list[Happened]) -> dict[str, float]:
    return {one.job.key: one.at for one in happened if one.kind == "ended"}


def test_a_request_alone_takes_its_prefill_and_its_steps() -> None:
    batcher = Batcher(H100)
    submit(batcher, job("a", prompt=1000, output=3))
    first, end = run(batcher)
    prefill = H100.decode_s(0, 0) + H100.prefill_s + H100.chunk_s(0, 1000)
    assert first.at == pytest.approx(prefill)
    steps = H100.decode_s(1, 1001) + H100.decode_s(1, 1002)
    assert (end.kind, end.tokens) == ("ended", 3)
    assert end.at == pytest.approx(prefill + steps)


def test_the_published_figures_are_those_of_the_hardware() -> None:
    assert HARDWARE["h200"].decode_s(1, 0) == pytest.approx(4.8825e-3)
    assert HARDWARE["h100"].chunk_s(0, 1000) == pytest.approx((16.57 + 0.698) * 1e-3)
    assert HARDWARE["a100"].decode_s(0, 100_000) == pytest.approx((11.66 + 8.42) * 1e-3)
    assert (HARDWARE["h200"].kv_tokens, HARDWARE["h100"].kv_tokens) == (850_000, 420_000)


def test_a_large_head_of_the_queue_holds_up_the_small_ones_behind_it() -> None:
    batcher = Batcher(H100, kv_tokens=1000)
    submit(batcher, job("first", prompt=500, output=20, limit=100))
    submit(
        batcher, job("large", prompt=600, output=1, limit=100), job("small", prompt=10, output=1, limit=1), now=0.001
    )
    times = ends(run(batcher))
    assert times["first"] < times["small"]


def test_a_long_prompt_is_computed_in_chunks_beside_the_others() -> None:
    batcher = Batcher(H100, chunk_tokens=100)
    submit(batcher, job("talker", prompt=10, output=50))
    batcher.advance(0.05)
    submit(batcher, job("long", prompt=1000, output=1), now=0.05)
    before = batcher.tokens_of("talker", 0.05)
    while not any(one.kind == "first" for one in batcher.advance(batcher.next_time() or 0)):
        pass
    assert batcher.tokens_of("talker", batcher.next_time() or 0) >= before + 9


def test_a_second_turn_finds_the_first_prompt_in_the_cache_but_not_the_answer() -> None:
    batcher = Batcher(H100)
    submit(batcher, job("one", prompt=400, path=(("system", 100), ("turn", 300))))
    run(batcher)
    following = job("two", prompt=500, path=(("system", 100), ("turn", 300), ("more", 100)))
    other = job("other", prompt=150, path=(("system", 100), ("else", 50)))
    submit(batcher, following, other, now=10.0)
    run(batcher)
    assert (following.cached_tokens, other.cached_tokens) == (400, 100)


def test_a_prompt_that_is_cached_whole_still_computes_its_last_token() -> None:
    batcher = Batcher(H100)
    for number in range(2):
        again = job(f"same{number}", prompt=100, path=(("all", 100),))
        submit(batcher, again, now=float(number))
        run(batcher)
    assert again.cached_tokens == 99


def test_the_least_recently_used_prefix_goes_first() -> None:
    batcher = Batcher(H100, kv_tokens=1000)
    for number, name in enumerate(("old", "new")):
        submit(batcher, job(name, prompt=400, output=1, limit=1), now=float(number))
        run(batcher)
    submit(batcher, job("third", prompt=300, output=1, limit=1), now=2.0)
    run(batcher)
    kept = [name for name in ("old", "new") if batcher.cache.longest((name,)) is not None]
    assert kept == ["new"]


def test_cancelling_takes_effect_at_the_end_of_the_step() -> None:
    batcher = Batcher(H100)
    submit(batcher, job("a", output=1000, limit=1000), job("waits", prompt=10))
    batcher.advance(0.1)
    batcher.cancel("a", 0.1)
    batcher.cancel("a", 0.1)
    batcher.cancel("nobody", 0.1)
    (cancelled,) = [one for one in run(batcher) if one.kind == "cancelled"]
    assert 0.1 <= cancelled.at < 0.11
    assert 0 < cancelled.tokens < 20
    assert batcher.reserved_tokens == 0


def test_more_than_allowed_are_refused_at_once() -> None:
    batcher = Batcher(H100, max_concurrent=2)
    submit(batcher, job("a"), job("b"))
    with pytest.raises(OverloadedError):
        batcher.submit(job("c"), 0.0)
    run(batcher)
    submit(batcher, job("c"), now=10.0)


def test_what_would_never_fit_is_refused_instead_of_waiting_for_ever() -> None:
    with pytest.raises(ValidationError):
        Batcher(H100, kv_tokens=100).submit(job("a", prompt=80, limit=30), 0.0)


ARRIVALS = st.lists(
    st.tuples(st.floats(0, 0.3), st.integers(1, 900), st.integers(1, 40), st.sampled_from([0, 0, 1])),
    min_size=1,
    max_size=12,
)


@given(ARRIVALS, st.sampled_from([1500, 5000]))
@settings(max_examples=60, deadline=None)
def test_looking_often_changes_nothing(arrivals: list[tuple[float, int, int, int]], kv_tokens: int) -> None:
    """A leap over many steps gives the same times as advancing in tiny bits of time."""

    def play(look_every_s: float | None) -> dict[str, float]:
        batcher = Batcher(H100, kv_tokens=kv_tokens, chunk_tokens=256)
        happened: list[Happened] = []
        now = 0.0
        for number, (gap, prompt, output, cancelled) in enumerate(arrivals):
            arrival = now + gap
            while look_every_s is not None and now + look_every_s < arrival:
                now += look_every_s
                happened.extend(batcher.advance(now))
            now = arrival
            happened.extend(batcher.advance(now))
            batcher.submit(job(str(number), prompt, output, limit=50), now)
            if cancelled and number:
                batcher.cancel(str(number - 1), now)
            happened.extend(batcher.advance(now))
        happened.extend(run(batcher))
        assert batcher.reserved_tokens == 0
        assert batcher.running == 0
        assert batcher.cache.tokens <= kv_tokens
        return {f"{one.job.key} {one.kind}": one.at for one in happened}

    assert play(0.003) == pytest.approx(play(None))
