"""When a call is sent again, asked for again, or given up; the times are the test's own."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from aios._course import (
    DESERTED_PATIENCE_S,
    FIRST_RETRY_S,
    GRACE_S,
    LONGEST_RETRY_S,
    MOST_UNKNOWN,
    SILENCE_S,
    Action,
    Course,
)


def at(course: Course, now: float, *, connected: bool = True) -> Action:
    return course.decide(now, connected=connected)[0]


def test_a_call_is_sent_at_once_and_again_with_growing_pauses_until_it_is_heard_of() -> None:
    course = Course(0.0, 1000.0)
    sent: list[float] = []
    now = 0.0
    while len(sent) < 12:
        action, until = course.decide(now, connected=True)
        if action is Action.SEND:
            sent.append(now)
        else:
            assert action is Action.WAIT
        assert until > now
        now = until
    pauses = [later - earlier for earlier, later in itertools.pairwise(sent)]
    assert sent[0] == 0.0
    assert pauses[0] == FIRST_RETRY_S
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_RETRY_S


def test_a_call_that_was_answered_is_asked_for_only_after_long_silence() -> None:
    course = Course(0.0, 1000.0)
    assert at(course, 0.0) is Action.SEND
    course.frame(1.0)
    assert at(course, 1.0 + FIRST_RETRY_S) is Action.WAIT
    assert at(course, 1.0 + SILENCE_S) is Action.ATTACH
    assert at(course, 1.1 + SILENCE_S) is Action.WAIT


def test_after_a_reconnect_a_call_is_sent_again_or_asked_for() -> None:
    course = Course(0.0, 1000.0)
    at(course, 0.0)
    course.reconnected(0.5)
    assert at(course, 0.5) is Action.SEND
    course.frame(0.6)
    course.reconnected(0.7)
    assert at(course, 0.7) is Action.ATTACH


def test_nothing_is_sent_while_there_is_no_connection() -> None:
    course = Course(0.0, 10.0)
    action, until = course.decide(0.0, connected=False)
    assert (action, until) == (Action.WAIT, 10.0 + GRACE_S)
    assert at(course, 10.0 + GRACE_S, connected=False) is Action.EXPIRE


def test_a_call_the_kernel_does_not_know_is_sent_again() -> None:
    course = Course(0.0, 1000.0)
    at(course, 0.0)
    course.frame(0.1)
    course.reconnected(1.0)
    assert at(course, 1.0) is Action.ATTACH
    assert course.unknown(1.1)
    assert at(course, 1.1) is Action.SEND


def test_a_call_the_kernel_never_knows_is_not_sent_for_ever() -> None:
    course = Course(0.0, 1000.0)
    now, sent = 0.0, 0
    while course.unknown(now):
        course.frame(now)
        _, until = course.decide(now, connected=True)
        now = max(until, now)
        sent += 1
    assert sent == MOST_UNKNOWN


def test_a_call_that_waits_for_a_human_is_asked_for_until_its_deadline() -> None:
    course = Course(0.0, 3600.0)
    at(course, 0.0)
    for round_number in range(1, 100):
        now = round_number * 30.0
        course.parked()
        course.frame(now - 25.0)
        assert at(course, now) is Action.ATTACH
        assert course.unknown(now)
        assert at(course, now) is Action.SEND


def test_a_call_the_kernel_could_not_store_is_sent_again_for_a_while() -> None:
    course = Course(0.0, 1000.0)
    at(course, 0.0)
    assert course.postponed(0.1, retry_after_s=1.0)
    assert at(course, 0.5) is Action.WAIT
    assert at(course, 1.1) is Action.SEND
    assert not course.postponed(DESERTED_PATIENCE_S, retry_after_s=1.0)


def test_gaps_are_asked_for_at_once_but_not_in_a_storm() -> None:
    course = Course(0.0, 1000.0)
    at(course, 0.0)
    asked = 0
    for tick in range(1, 200):
        now = tick / 100
        course.frame(now)
        course.gap(now)
        asked += at(course, now) is Action.ATTACH
    assert asked == 2


def test_an_absent_kernel_is_asked_again_soon_and_given_up_after_a_while() -> None:
    course = Course(0.0, 1000.0)
    now, sent = 0.0, 0
    while True:
        action, until = course.decide(now, connected=True)
        if action is Action.DESERT:
            break
        if action is Action.SEND:
            sent += 1
            course.deserted(now)
            _, until = course.decide(now, connected=True)
        now = until
    assert DESERTED_PATIENCE_S <= now < DESERTED_PATIENCE_S + 3
    assert 10 < sent < 30


def test_a_call_the_kernel_has_taken_is_not_given_up_when_the_kernel_is_away() -> None:
    course = Course(0.0, 100.0)
    at(course, 0.0)
    course.frame(0.1)
    course.deserted(30.0)
    assert at(course, 90.0) is Action.ATTACH


def test_a_call_of_somebody_else_is_only_asked_for() -> None:
    course = Course(0.0, 1000.0, attach_only=True)
    assert at(course, 0.0) is Action.ATTACH
    assert at(course, FIRST_RETRY_S) is Action.ATTACH


events = st.sampled_from(["frame", "gap", "reconnected", "unknown", "postponed", "deserted", "none"])


@given(st.lists(st.tuples(st.floats(0.001, 40), events, st.booleans()), max_size=60), st.floats(0.1, 200))
def test_whatever_happens_the_wait_has_an_end_and_sending_a_bound(
    steps: list[tuple[float, str, bool]], deadline: float
) -> None:
    course = Course(0.0, deadline)
    now, sends = 0.0, 0
    for pause, event, connected in steps:
        action, until = course.decide(now, connected=connected)
        assert until <= deadline + GRACE_S or action is Action.EXPIRE
        assert (action is Action.EXPIRE) == (now >= deadline + GRACE_S)
        if action in (Action.SEND, Action.ATTACH):
            assert connected
            sends += 1
            assert at(course, now) not in (Action.SEND, Action.ATTACH), "sent twice in one moment"
        now += pause
        if event == "postponed":
            course.postponed(now, 0.5)
        elif event != "none":
            getattr(course, event)(now)
    assert sends <= len(steps)
