"""What an agent can do with its conversations, and what it is told when it cannot."""

import asyncio
from typing import Any

import pytest
from support.context_caller import ContextCaller, said

from aios_proto.errors import AiosError, InvalidRequest, ResourceConflict, ResourceNotFound
from aios_proto.messages.context import ContextInfo, ContextListResult, ContextResult, SnapshotInfo

pytestmark = pytest.mark.usefixtures("contexts")


async def refused(kind: type[AiosError], call: object) -> AiosError:
    with pytest.raises(kind) as caught:
        await call  # type: ignore[misc]
    return caught.value


async def test_a_conversation_grows_and_is_read_back(alice: ContextCaller) -> None:
    opened = await alice.open("s:be kind", context="talk")
    assert (opened.version, opened.turns, opened.context) == (1, 1, "talk")
    grown = await alice.append("talk", "hello", "a:hi")
    assert (grown.version, grown.turns) == (2, 3)
    read = await alice.call("get", ContextResult, context="talk")
    assert [message.role for message in read.messages] == ["system", "user", "assistant"]
    assert [detail.turn for detail in read.details] == [0, 1, 2]
    assert read.digest == grown.digest
    assert read.next_skip is None


async def test_a_context_without_a_name_gets_one(alice: ContextCaller) -> None:
    first, second = await alice.open("a"), await alice.open("b")
    assert first.context != second.context
    assert await alice.texts(second.context) == ["b"]


async def test_an_empty_context_can_be_opened(alice: ContextCaller) -> None:
    assert (await alice.open(context="empty")).turns == 0
    assert await alice.texts("empty") == []


async def test_the_same_call_again_changes_nothing_and_is_answered_alike(alice: ContextCaller) -> None:
    opened = [await alice.open("a", context="talk", call_id="open-1") for _ in range(2)]
    assert opened[0] == opened[1]
    first = await alice.append("talk", "b", call_id="append-1")
    await alice.append("talk", "c", call_id="append-2")
    again = await alice.append("talk", "b", call_id="append-1")
    assert (again.version, again.turns, again.digest) == (first.version, first.turns, first.digest)
    assert await alice.texts("talk") == ["a", "b", "c"]
    forks = [await alice.call("fork", ContextInfo, context="talk", fork="other", call_id="fork-1") for _ in range(2)]
    assert forks[0] == forks[1]
    closed = [await alice.call("close", ContextInfo, context="talk", call_id="close-1") for _ in range(2)]
    assert closed[0] == closed[1]
    snapshots = [await alice.call("snapshot", SnapshotInfo, context="other", call_id="snap-1") for _ in range(2)]
    assert snapshots[0] == snapshots[1]


async def test_a_call_repeated_after_its_context_was_opened_anew_touches_nothing(alice: ContextCaller) -> None:
    await alice.open("old", context="talk")
    await alice.call("close", ContextInfo, context="talk", call_id="close-1")
    await alice.open("new", context="talk")
    await alice.call("close", ContextInfo, context="talk", call_id="close-1")
    assert await alice.texts("talk") == ["new"]


async def test_appends_at_the_same_time_all_arrive(alice: ContextCaller) -> None:
    await alice.open(context="talk")
    await asyncio.gather(*(alice.append("talk", f"turn {n}") for n in range(50)))
    assert sorted(str(text) for text in await alice.texts("talk")) == sorted(f"turn {n}" for n in range(50))


async def test_a_compare_and_set_lets_one_of_two_writers_through(alice: ContextCaller) -> None:
    await alice.open("a", context="talk")
    results = await asyncio.gather(
        *(alice.append("talk", f"w{n}", expect_version=1) for n in range(5)), return_exceptions=True
    )
    conflicts = [result for result in results if isinstance(result, ResourceConflict)]
    assert len(conflicts) == 4
    assert {error.field for error in conflicts} == {"expect_version"}
    assert len(await alice.texts("talk")) == 2


async def test_a_fork_shares_the_past_and_nothing_after(alice: ContextCaller) -> None:
    await alice.open("a", context="talk")
    await alice.append("talk", "b" * 40_000)
    await alice.append("talk", "c")
    forked = await alice.call("fork", ContextInfo, context="talk", fork="early", at_version=2)
    assert (forked.version, forked.turns) == (2, 2)
    await alice.append("early", "other end")
    assert [str(text)[:5] for text in await alice.texts("early")] == ["a", "bbbbb", "other"]
    assert [str(text)[:5] for text in await alice.texts("talk")] == ["a", "bbbbb", "c"]
    await alice.call("close", ContextInfo, context="talk")
    assert len(await alice.texts("early")) == 3


async def test_an_earlier_version_can_be_read(alice: ContextCaller) -> None:
    await alice.open("a", context="talk")
    await alice.append("talk", "b")
    assert await alice.texts("talk", at_version=1) == ["a"]
    error = await refused(ResourceNotFound, alice.texts("talk", at_version=9))
    assert error.field == "at_version"


async def test_a_snapshot_is_restored_as_it_was_into_a_new_context_or_over_the_old(alice: ContextCaller) -> None:
    await alice.open("a", context="talk", policy="sliding", window_tokens=100)
    taken = await alice.call("snapshot", SnapshotInfo, context="talk")
    await alice.append("talk", "b")
    copy = await alice.call("restore", ContextInfo, snapshot=taken.snapshot)
    assert (copy.digest, copy.version, copy.policy, copy.window_tokens) == (taken.digest, 1, "sliding", 100)
    back = await alice.call("restore", ContextInfo, snapshot=taken.snapshot, context="talk")
    assert (back.digest, back.version) == (taken.digest, 3)
    assert await alice.texts("talk") == ["a"]
    assert (await alice.append("talk", "c")).version == 4


async def test_a_discarded_snapshot_is_gone(alice: ContextCaller) -> None:
    await alice.open("a", context="talk")
    taken = await alice.call("snapshot", SnapshotInfo, context="talk")
    await alice.call("discard", SnapshotInfo, snapshot=taken.snapshot)
    error = await refused(ResourceNotFound, alice.call("restore", ContextInfo, snapshot=taken.snapshot))
    assert error.field == "snapshot"


async def test_the_list_shows_what_lives(alice: ContextCaller) -> None:
    for name in ("b", "a", "c"):
        await alice.open("x", context=name)
    await alice.call("close", ContextInfo, context="c")
    taken = await alice.call("snapshot", SnapshotInfo, context="a")
    listed = await alice.call("list", ContextListResult)
    assert [info.context for info in listed.contexts] == ["a", "b"]
    assert [info.snapshot for info in listed.snapshots] == [taken.snapshot]
    other = await alice.as_agent("bob").call("list", ContextListResult)
    assert other == ContextListResult(contexts=[])


async def test_nobody_but_the_owner_sees_a_context_until_it_is_granted(alice: ContextCaller) -> None:
    bob, stranger = alice.as_agent("bob"), alice.as_agent("alice", tenant="rivals")
    await alice.open("secret", context="talk")
    for caller, owner in ((bob, "alice"), (bob, None), (stranger, None), (stranger, "alice")):
        error = await refused(ResourceNotFound, caller.call("get", ContextResult, context="talk", owner=owner))
        assert error.field == "context"
    granted = await alice.call("grant", ContextInfo, context="talk", agent="bob")
    assert granted.readers == ["bob"]
    assert await bob.texts("talk", owner="alice") == ["secret"]
    forked = await bob.call("fork", ContextInfo, context="talk", owner="alice", fork="mine")
    assert forked.readers == []
    await bob.append("mine", "more")
    await refused(ResourceNotFound, bob.append("talk", "intrusion"))
    await alice.call("grant", ContextInfo, context="talk", agent="bob", revoke=True)
    await refused(ResourceNotFound, bob.texts("talk", owner="alice"))
    assert await bob.texts("mine") == ["secret", "more"]


async def test_the_turns_of_one_model_call_are_recorded_once(alice: ContextCaller) -> None:
    await alice.open("a", context="talk")
    for _ in range(3):
        recorded = await alice.call(
            "record", ContextInfo, context="talk", messages=said("q", "a:answer"), for_call="call-1"
        )
    assert recorded.version == 2
    assert await alice.texts("talk") == ["a", "q", "a:answer"]


async def test_a_long_context_is_read_in_several_answers(alice: ContextCaller) -> None:
    await alice.open(context="talk")
    for number in range(5):
        await alice.append("talk", str(number) * 900_000)
    texts: list[str] = []
    skip: int | None = 0
    answers = 0
    while skip is not None:
        read = await alice.call("get", ContextResult, context="talk", skip=skip)
        texts += [str(message.content)[0] for message in read.messages]
        skip, answers = read.next_skip, answers + 1
    assert texts == list("01234")
    assert answers > 1


@pytest.mark.parametrize(
    ("operation", "body", "field"),
    [
        ("append", {"context": "none", "messages": said("x")}, "context"),
        ("get", {"context": "none"}, "context"),
        ("fork", {"context": "none"}, "context"),
        ("snapshot", {"context": "none"}, "context"),
        ("close", {"context": "none"}, "context"),
        ("grant", {"context": "none", "agent": "bob"}, "context"),
        ("restore", {"snapshot": "none"}, "snapshot"),
        ("discard", {"snapshot": "none"}, "snapshot"),
        ("compress", {"context": "none", "target_tokens": 100}, "context"),
        ("window", {"context": "none"}, "context"),
    ],
)
async def test_what_is_not_there_is_named(
    alice: ContextCaller, operation: str, body: dict[str, Any], field: str
) -> None:
    error = await refused(ResourceNotFound, alice.call(operation, ContextInfo, **body))
    assert error.field == field


async def test_a_name_taken_and_a_grant_to_oneself_are_refused(alice: ContextCaller) -> None:
    await alice.open("a", context="talk")
    assert (await refused(ResourceConflict, alice.open("b", context="talk"))).field == "context"
    forking = alice.call("fork", ContextInfo, context="talk", fork="talk")
    assert (await refused(ResourceConflict, forking)).field == "context"
    granting = alice.call("grant", ContextInfo, context="talk", agent="alice")
    assert (await refused(InvalidRequest, granting)).field == "agent"
