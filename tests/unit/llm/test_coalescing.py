"""When tokens are sent on."""

from hypothesis import given
from hypothesis import strategies as st

from aios_llm.coalescing import Coalescer


def test_the_first_token_is_sent_at_once() -> None:
    assert Coalescer(0.02, 8).add(1, 100.0) is None


def test_the_next_waits_no_longer_than_the_interval() -> None:
    coalescer = Coalescer(0.02, 8)
    coalescer.add(1, 100.0)
    coalescer.sent(100.0)
    assert coalescer.add(1, 100.005) == 100.02
    assert coalescer.add(1, 100.01) == 100.02
    assert coalescer.add(1, 100.02) is None


def test_so_many_tokens_do_not_wait_for_the_interval() -> None:
    coalescer = Coalescer(10, 3)
    coalescer.add(1, 100.0)
    coalescer.sent(100.0)
    assert [coalescer.add(1, 100.0) is None for _ in range(3)] == [False, False, True]


def test_an_interval_of_zero_sends_every_token_alone() -> None:
    coalescer = Coalescer(0, 8)
    for _ in range(5):
        assert coalescer.add(1, 100.0) is None
        coalescer.sent(100.0)


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 0.05)), max_size=60), st.integers(1, 8))
def test_no_token_waits_longer_than_it_may_and_no_frame_holds_more(steps: list[tuple[int, float]], most: int) -> None:
    coalescer, now, waiting, sent_at = Coalescer(0.02, most), 100.0, 0, None
    for tokens, passed in steps:
        now += passed
        waiting += tokens
        due = coalescer.add(tokens, now)
        if due is None:
            coalescer.sent(now)
            waiting, sent_at = 0, now
        else:
            assert waiting < most
            assert sent_at is not None
            assert now < due <= sent_at + 0.02
