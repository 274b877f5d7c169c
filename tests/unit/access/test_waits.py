"""What one replica knows of waiting calls, and who goes on where the same call waits twice."""

import asyncio

import pytest

from aios_access.charges import Charge, Pause
from aios_access.core import Admitted
from aios_access.directory import Identity
from aios_access.quotas import Price
from aios_access.waits import CANCELLED_S, News, Waits, cancelled
from aios_proto.errors import InvalidRequest, ResourceConflict, SyscallCancelled
from aios_proto.headers import CallHeaders
from aios_proto.operations import OPERATIONS

NOW_S = 1_000_000.0
NOW_US = int(NOW_S * 1e6)
NOW_MS = int(NOW_S * 1e3)
KEY = "acme.alice.c1"
ALICE = Identity("acme", "alice", "agent", "0" * 64, 0)


def call(call_id: str = "c1", reply: str = "_INBOX.acme.alice.0", name: str = "llm.chat") -> Admitted:
    headers = CallHeaders(
        call_id, tenant="acme", agent="alice", group="agent", reply=reply, deadline_ms=NOW_MS + 600_000, times_us=()
    )
    manager, _, operation = name.partition(".")
    return Admitted(ALICE, headers, OPERATIONS[manager, operation], name, f"aios.k.{name}", durable=True)


def charge() -> Charge:
    return Charge(KEY, Price(0, 0), 0)


def begun(by: str, since_us: int = NOW_US, until_ms: int = NOW_MS + 600_000) -> News:
    return News(kind="begun", by=by, key=KEY, since_us=since_us, until_ms=until_ms)


@pytest.mark.parametrize(("before_us", "winner"), [(-1, "r1"), (1, "r2"), (0, "r1")])
def test_of_the_same_call_at_two_replicas_the_one_that_waited_longer_goes_on(before_us: int, winner: str) -> None:
    first, second = Waits("r1"), Waits("r2")
    own = {"r1": first.begin(call(), charge(), NOW_US + before_us), "r2": second.begin(call(), charge(), NOW_US)}
    joins = {
        "r1": first.heard(own["r2"].news("r2"), NOW_S),
        "r2": second.heard(own["r1"].news("r1"), NOW_S),
    }
    loser = "r2" if winner == "r1" else "r1"
    assert joins[winner] is None
    assert joins[loser] is own[loser]
    known = (first if loser == "r1" else second).elsewhere(KEY, NOW_MS)
    assert known is not None
    assert known.by == winner


def test_a_call_sent_again_from_another_inbox_is_answered_there_too_and_from_the_same_only_once() -> None:
    waiting = Waits("r1").begin(call(), charge(), NOW_US)
    for reply in ("_INBOX.acme.alice.0", "_INBOX.acme.alice.1", "_INBOX.acme.alice.1"):
        waiting.join("llm.chat", reply)
    assert [copy.headers.reply for copy in waiting.copies()] == ["_INBOX.acme.alice.1"]
    assert {copy.headers.key for copy in waiting.copies()} == {KEY}
    assert (waiting.admitted.is_copy, [copy.is_copy for copy in waiting.copies()]) == (False, [True])
    for number in range(100):
        waiting.join("llm.chat", f"_INBOX.acme.alice.{number}")
    assert len(waiting.copies()) < 20
    with pytest.raises(ResourceConflict):
        waiting.join("memory.add", "_INBOX.acme.alice.0")


def test_who_attaches_to_a_waiting_call_is_answered_too_whatever_its_operation() -> None:
    waiting = Waits("r1").begin(call(), charge(), NOW_US)
    for reply in ("_INBOX.acme.alice.7", "_INBOX.acme.alice.0", "_INBOX.acme.alice.7"):
        waiting.listen(reply)
    assert [copy.headers.reply for copy in waiting.copies()] == ["_INBOX.acme.alice.7"]


async def test_a_call_that_was_given_up_can_neither_pass_nor_be_given_up_again() -> None:
    waits = Waits("r1")
    waiting = waits.begin(call(), charge(), NOW_US)
    waiting.task = asyncio.create_task(asyncio.Event().wait())  # type: ignore[arg-type]
    waits.give_up(waiting, cancelled())
    assert waits.here(KEY) is None
    with pytest.raises(asyncio.CancelledError):
        await waiting.task
    # The same id waits anew; the end of the old one does not end it.
    again = waits.begin(call(), charge(), NOW_US)
    waits.end(waiting)
    assert waits.here(KEY) is again


def test_what_waits_elsewhere_is_forgotten_when_it_is_over_or_its_deadline_is() -> None:
    waits = Waits("r1")
    waits.heard(begun("r2"), NOW_S)
    waits.heard(News(kind="over", by="r3", key=KEY), NOW_S)
    assert waits.owners("acme.alice", NOW_MS) == {"r2"}
    assert waits.owners("acme.ali", NOW_MS) == set()
    waits.heard(News(kind="over", by="r2", key=KEY), NOW_S)
    assert waits.elsewhere(KEY, NOW_MS) is None
    waits.heard(begun("r2", until_ms=NOW_MS), NOW_S)
    assert waits.owners("acme.alice", NOW_MS + 1) == set()
    waits.heard(begun("r2"), NOW_S)
    waits.forget("r3")
    assert waits.elsewhere(KEY, NOW_MS) is not None
    waits.forget("r2")
    assert not waits.has_any


def test_a_call_that_was_cancelled_anywhere_is_refused_for_a_while_and_not_for_ever() -> None:
    waits = Waits("r1")
    waits.heard(News(kind="over", by="r2", key=KEY, cancelled=True), NOW_S)
    assert isinstance(waits.was_cancelled(KEY, NOW_S + CANCELLED_S), SyscallCancelled)
    assert waits.was_cancelled("acme.alice.c2", NOW_S) is None
    assert waits.was_cancelled(KEY, NOW_S + CANCELLED_S + 1) is None
    assert not waits.has_any


def test_so_many_cancelled_calls_are_remembered_and_no_more() -> None:
    waits = Waits("r1")
    for number in range(20_000):
        waits.cancelled(f"acme.alice.{number}", NOW_S)
    assert waits.was_cancelled("acme.alice.0", NOW_S) is None
    assert waits.was_cancelled("acme.alice.19999", NOW_S) is not None
    for number in range(20_000, 40_000):
        waits.cancelled(f"acme.alice.{number}", NOW_S + CANCELLED_S + 1)
    assert waits.was_cancelled("acme.alice.19999", NOW_S) is None


def test_an_open_call_says_which_quota_it_waits_for_and_until_when() -> None:
    waiting = Waits("r1").begin(call(), charge(), NOW_US)
    assert "leased" in (waiting.info(NOW_S).why or "")
    waiting.charge.pause = Pause("calls of the agent alice", NOW_S + 0.5, NOW_S + 5)
    info = waiting.info(NOW_S + 0.25)
    assert (info.id, info.operation, info.state, info.program, info.age_s) == (
        "c1",
        "llm.chat",
        "queued",
        "alice",
        0.25,
    )
    assert info.deadline_ms == NOW_MS + 600_000
    assert info.why == (
        "the quota of calls of the agent alice is used up; there is more in 0.2 s, and it waits for 4.8 s at most"
    )
    waiting.charge.pause = Pause("open calls of the agent alice", None, NOW_S + 5)
    assert "there is more when a call ends" in (waiting.info(NOW_S).why or "")


@pytest.mark.parametrize(
    "name", ["llm.chat", "llm.complete", "tool.call", "memory.add", "storage.write", "context.open"]
)
def test_who_attaches_to_a_waiting_call_that_runs_once_is_answered_too(name: str) -> None:
    waiting = Waits("r1").begin(call(name=name), charge(), NOW_US)
    waiting.attach("_INBOX.acme.alice.1")
    assert [copy.headers.reply for copy in waiting.copies()] == ["_INBOX.acme.alice.1"]


@pytest.mark.parametrize(
    "name", ["access.agent.rotate", "llm.embed", "memory.forget", "storage.rotate", "tool.register"]
)
def test_who_attaches_to_a_waiting_call_that_would_run_twice_is_refused(name: str) -> None:
    waiting = Waits("r1").begin(call(name=name), charge(), NOW_US)
    with pytest.raises(InvalidRequest) as refused:
        waiting.attach("_INBOX.acme.alice.1")
    assert refused.value.field == "id"
    assert waiting.copies() == []
