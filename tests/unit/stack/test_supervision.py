"""The supervisor's decisions, in virtual time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_stack.supervision import (
    BecameReady,
    Command,
    Exited,
    Kill,
    ProcessPlan,
    RestartPolicy,
    Start,
    State,
    StopAsked,
    Supervision,
    Terminate,
    TimePassed,
    WakeAt,
    start_order,
)

PLANS = (
    ProcessPlan("nats"),
    ProcessPlan("spans"),
    ProcessPlan("engine", uses=frozenset({"spans"})),
    ProcessPlan("access", needs=frozenset({"nats"}), uses=frozenset({"spans"})),
    ProcessPlan("llm", needs=frozenset({"nats"}), uses=frozenset({"engine", "spans"})),
)


def acts(commands: list[Command]) -> list[Command]:
    return [command for command in commands if not isinstance(command, WakeAt)]


def wake(commands: list[Command]) -> float:
    (at,) = (command.at_s for command in commands if isinstance(command, WakeAt))
    return at


def up() -> Supervision:
    supervision = Supervision(PLANS)
    supervision.begin(0)
    for name in ("nats", "spans", "engine", "access", "llm"):
        supervision.on_event(BecameReady(name), 1)
    assert supervision.all_ready
    return supervision


def test_what_needs_nothing_starts_at_once_and_the_rest_when_it_can() -> None:
    supervision = Supervision(PLANS)
    assert acts(supervision.begin(0)) == [Start("nats"), Start("spans"), Start("engine")]
    assert acts(supervision.on_event(BecameReady("engine"), 1)) == []
    assert acts(supervision.on_event(BecameReady("nats"), 2)) == [Start("access"), Start("llm")]
    assert not supervision.all_ready


def test_a_dead_process_is_started_again_after_a_pause_that_doubles() -> None:
    supervision = up()
    now, pauses = 2.0, []
    for _ in range(8):
        commands = supervision.on_event(Exited("access", -9), now)
        assert acts(commands) == []
        pauses.append(wake(commands) - now)
        assert acts(supervision.on_event(TimePassed(), wake(commands) - 0.01)) == []
        assert acts(supervision.on_event(TimePassed(), wake(commands))) == [Start("access")]
        now = wake(commands) + 1
        supervision.on_event(BecameReady("access"), now)
    assert pauses == pytest.approx([0.25, 0.5, 1, 2, 4, 8, 10, 10])
    assert supervision.status["access"].restarts == 8


def test_deaths_are_forgotten_after_a_while_of_health() -> None:
    supervision = up()
    first = supervision.on_event(Exited("nats", 1), 10)
    supervision.on_event(TimePassed(), wake(first))
    supervision.on_event(BecameReady("nats"), 11)
    second = supervision.on_event(Exited("nats", 1), 11 + 31)
    assert wake(second) - 42 == pytest.approx(0.25)


def test_others_keep_running_while_what_they_need_is_restarted() -> None:
    supervision = up()
    commands = supervision.on_event(Exited("nats", -9), 5)
    assert acts(commands) == []
    assert supervision.status["access"].state is State.READY
    restarted = supervision.on_event(Exited("access", 1), 5.1)
    assert supervision.status["nats"].state is State.PAUSED
    assert acts(supervision.on_event(TimePassed(), wake(restarted))) == [Start("nats")]


def test_a_process_that_never_becomes_ready_is_given_up_and_named() -> None:
    supervision = Supervision([ProcessPlan("engine", restart=RestartPolicy(attempts=3))])
    supervision.begin(0)
    now = 0.0
    for _ in range(2):
        now = wake(supervision.on_event(Exited("engine", 1), now))
        assert acts(supervision.on_event(TimePassed(), now)) == [Start("engine")]
    assert acts(supervision.on_event(Exited("engine", 1), now)) == []
    assert supervision.failed == ["engine"]
    assert supervision.all_ended


def test_a_process_that_hangs_before_it_is_ready_is_killed_once() -> None:
    supervision = Supervision([ProcessPlan("engine", start_timeout_s=30)])
    commands = supervision.begin(0)
    assert wake(commands) == 30
    assert acts(supervision.on_event(TimePassed(), 30)) == [Kill("engine")]
    assert acts(supervision.on_event(TimePassed(), 31)) == []
    supervision.on_event(BecameReady("engine"), 31.5)
    assert supervision.on_event(Exited("engine", -9), 32)
    assert supervision.status["engine"].state is State.PAUSED


def test_stopping_ends_users_before_what_they_use() -> None:
    supervision = up()
    assert acts(supervision.on_event(StopAsked(), 10)) == [Terminate("access"), Terminate("llm")]
    assert acts(supervision.on_event(Exited("access", 0), 11)) == []
    assert acts(supervision.on_event(Exited("llm", 0), 12)) == [Terminate("nats"), Terminate("engine")]
    assert acts(supervision.on_event(Exited("nats", 0), 12)) == []
    assert acts(supervision.on_event(Exited("engine", 0), 12)) == [Terminate("spans")]
    supervision.on_event(Exited("spans", 0), 12)
    assert supervision.all_ended


def test_a_process_that_does_not_stop_is_killed() -> None:
    supervision = up()
    commands = supervision.on_event(StopAsked(), 10)
    assert wake(commands) == 22
    assert acts(supervision.on_event(TimePassed(), 22)) == [Kill("access"), Kill("llm")]


def test_nothing_is_started_any_more_once_a_stop_was_asked_for() -> None:
    supervision = Supervision(PLANS)
    supervision.begin(0)
    supervision.on_event(Exited("engine", 1), 0.1)
    assert acts(supervision.on_event(StopAsked(), 0.2)) == [Terminate("nats"), Terminate("spans")]
    assert acts(supervision.on_event(TimePassed(), 100)) == [Kill("nats"), Kill("spans")]
    supervision.on_event(Exited("nats", -9), 100)
    supervision.on_event(Exited("spans", -9), 100)
    assert supervision.all_ended


@pytest.mark.parametrize(
    "plans",
    [
        [ProcessPlan("a"), ProcessPlan("a")],
        [ProcessPlan("a", needs=frozenset({"b"}))],
        [ProcessPlan("a", needs=frozenset({"b"})), ProcessPlan("b", uses=frozenset({"a"}))],
    ],
)
def test_an_impossible_plan_is_refused(plans: list[ProcessPlan]) -> None:
    with pytest.raises(ValueError, match=r"twice|no process|wait for each other"):
        Supervision(plans)


def test_start_order_puts_everything_after_what_it_needs() -> None:
    order = start_order(PLANS)
    assert order.index("nats") < order.index("access")
    assert order.index("engine") < order.index("llm")


@given(st.lists(st.tuples(st.sampled_from(["ready", "exit", "time"]), st.integers(0, 4)), max_size=60))
def test_whatever_happens_a_stop_ends_everything(history: list[tuple[str, int]]) -> None:
    supervision = Supervision(PLANS)
    running: set[str] = set()
    now = 0.0

    def obey(commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Start):
                assert command.name not in running, "started twice"
                running.add(command.name)
            elif isinstance(command, Terminate | Kill):
                assert command.name in running, "signalled a process that does not run"

    obey(supervision.begin(now))
    for kind, index in history:
        now += 0.7
        name = PLANS[index].name
        if kind == "time":
            obey(supervision.on_event(TimePassed(), now))
        elif name in running and kind == "ready":
            obey(supervision.on_event(BecameReady(name), now))
        elif name in running:
            running.discard(name)
            obey(supervision.on_event(Exited(name, 1), now))
    obey(supervision.on_event(StopAsked(), now))
    for _ in range(2 * len(PLANS)):
        for name in list(running):
            if supervision.status[name].state is State.STOPPING:
                running.discard(name)
                obey(supervision.on_event(Exited(name, 0), now))
    assert supervision.all_ended
    assert not running
