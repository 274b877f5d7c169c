"""What becomes of a parked call, step by step."""

from dataclasses import replace

import pytest

from aios_access import approvals
from aios_access.approvals import Parked
from aios_proto import headers as wire
from aios_proto.errors import (
    AccessDenied,
    ApprovalDenied,
    InvalidRequest,
    ResourceConflict,
    ResourceNotFound,
    SyscallCancelled,
)
from aios_proto.headers import CallHeaders, Durability

NOW = 1_000_000
BODY = b'{"name":"wipe"}'


def headers(call_id: str = "c1", agent: str = "alice", deadline_ms: int = NOW + 600_000) -> CallHeaders:
    return CallHeaders(
        call_id,
        program="p",
        tenant="acme",
        agent=agent,
        group="agent",
        reply="_INBOX.acme.alice.0",
        deadline_ms=deadline_ms,
    )


def call(*, keeps_deadline: bool = False, timeout_s: float = 3600, deadline_ms: int = NOW + 600_000) -> Parked:
    return approvals.parked(
        headers(deadline_ms=deadline_ms),
        "tool.call",
        BODY,
        why="default:ask",
        durable=False,
        keeps_deadline=keeps_deadline,
        now_ms=NOW,
        timeout_s=timeout_s,
    )


def approved(known: Parked) -> Parked:
    return approvals.decided(known, "approved", tenant="acme", by="boss", reason=None, now_ms=NOW)


def test_a_parked_call_keeps_all_of_the_call() -> None:
    kept = approvals.read(call().model_dump_json().encode())
    assert kept is not None
    assert (kept.call_headers(), kept.call_body()) == (headers(), BODY)
    assert kept.info().summary == 'tool.call {"name":"wipe"}'


def test_it_waits_as_long_as_it_may_but_not_past_a_deadline_of_its_own() -> None:
    assert call().expires_ms == NOW + 3_600_000
    assert call(keeps_deadline=True).expires_ms == NOW + 600_000
    assert call(keeps_deadline=True, timeout_s=10).expires_ms == NOW + 10_000


def test_the_same_call_has_the_same_id_and_another_one_another() -> None:
    assert approvals.approval_id_of(headers()) == approvals.approval_id_of(headers())
    ids = {approvals.approval_id_of(headers(call_id, agent)) for call_id in "ab" for agent in ("alice", "bob")}
    assert len(ids) == 4


def test_nothing_is_done_about_it_until_its_time_is_over() -> None:
    known = call(timeout_s=10)
    assert approvals.due(known, NOW) == ("nothing", NOW + 10_000)
    assert approvals.due(known, NOW + 10_000)[0] == "expire"


def test_an_approved_call_is_sent_until_somebody_runs_it() -> None:
    known = approved(call())
    assert approvals.due(known, NOW)[0] == "send"
    known = approvals.sent(known, NOW)
    assert approvals.due(known, NOW + 100) == ("nothing", NOW + 2000)
    assert approvals.due(known, NOW + 2000)[0] == "send"
    released = approvals.redeemed(known, "h1", NOW + 2100)
    assert released is not None
    assert approvals.due(released, NOW + 9_999_999) == ("nothing", 0)
    assert released.body == ""


def test_only_the_first_delivery_runs_it_and_may_ask_twice() -> None:
    released = approvals.redeemed(approved(call()), "h1", NOW)
    assert released is not None
    assert approvals.redeemed(released, "h1", NOW) is None
    with pytest.raises(ResourceConflict):
        approvals.redeemed(released, "h2", NOW)


def test_what_no_human_approved_cannot_be_redeemed() -> None:
    denied = approvals.decided(call(), "denied", tenant="acme", by="boss", reason=None, now_ms=NOW)
    for known in (call(), denied, approvals.expired(call())):
        with pytest.raises(ResourceConflict):
            approvals.redeemed(known, "h", NOW)


def test_an_approved_call_that_nobody_ran_in_time_runs_no_more() -> None:
    known = approved(call(keeps_deadline=True))
    over = NOW + 600_000
    with pytest.raises(ResourceConflict, match="out of time"):
        approvals.redeemed(known, "h", over)
    assert approvals.due(known, over)[0] == "expire"
    assert "nobody ran" in approvals.refusal_of(approvals.expired(known)).message


def test_a_refusal_is_told_until_it_was_told() -> None:
    known = approvals.decided(call(), "denied", tenant="acme", by="boss", reason="no", now_ms=NOW)
    assert approvals.due(known, NOW)[0] == "tell"
    known = approvals.sent(known, NOW)
    assert approvals.due(known, NOW + 1)[0] == "nothing"
    assert approvals.due(known, NOW + 2000)[0] == "tell"
    assert approvals.due(approvals.told(known), NOW + 9_999_999) == ("nothing", 0)
    assert approvals.refusal_of(known).message == "tool.call was refused by boss: no"
    assert (known.body, known.reason) == ("", "no")


def test_nobody_decides_twice_or_late_or_on_his_own_call() -> None:
    for state in ("approved", "denied"):
        with pytest.raises(ResourceConflict):
            approvals.decided(approved(call()), state, tenant="acme", by="boss", reason=None, now_ms=NOW)
        with pytest.raises(ResourceNotFound):
            approvals.decided(call(timeout_s=1), state, tenant="acme", by="boss", reason=None, now_ms=NOW + 1000)
        with pytest.raises(AccessDenied):
            approvals.decided(call(), state, tenant="acme", by="alice", reason=None, now_ms=NOW)
    # An agent of the same name in another tenant is somebody else.
    assert approvals.decided(call(), "denied", tenant="root", by="alice", reason=None, now_ms=NOW).state == "denied"


def test_who_asks_again_is_answered_at_the_new_place() -> None:
    moved = CallHeaders("c1", tenant="acme", agent="alice", reply="_INBOX.acme.alice.9")
    again = approvals.asked_again(call(), moved, "tool.call", BODY)
    assert again.call_headers().reply == "_INBOX.acme.alice.9"
    assert again.headers[wire.PROGRAM] == "p"
    with pytest.raises(ResourceConflict, match="another call"):
        approvals.asked_again(call(), moved, "tool.call", b"{}")
    with pytest.raises(ApprovalDenied):
        approvals.asked_again(approvals.expired(call()), moved, "tool.call", BODY)
    released = approvals.redeemed(approved(call()), "h", NOW)
    assert released is not None
    with pytest.raises(ResourceConflict, match="has begun"):
        approvals.asked_again(released, moved, "tool.call", BODY)


def test_a_deadline_nobody_named_counts_from_the_consent_on() -> None:
    later = NOW + 1_800_000
    out = approvals.outgoing(approved(call()), now_ms=later, default_deadline_ms=600_000)
    assert out.headers.deadline_ms == later + 600_000
    own = approvals.outgoing(approved(call(keeps_deadline=True)), now_ms=NOW + 5, default_deadline_ms=600_000)
    assert own.headers.deadline_ms == NOW + 600_000
    assert (out.manager, out.operation, out.body) == ("tool", "call", BODY)
    assert out.headers.approval == out.headers.approval == call().approval_id


@pytest.mark.parametrize("value", [b"", b"{}", b"\x00", b'{"approval_id": 5}'])
def test_a_stored_value_that_cannot_be_read_is_none(value: bytes) -> None:
    assert approvals.read(value) is None


def test_its_agent_can_cancel_it_until_it_has_begun() -> None:
    for known in (call(), approved(call())):
        ended = approvals.cancelled(known)
        assert (ended.state, ended.body, ended.info().state) == ("cancelled", "", "cancelled")
        assert approvals.due(ended, NOW)[0] == "tell"
        assert approvals.due(approvals.told(ended), NOW) == ("nothing", 0)
        assert isinstance(approvals.refusal_of(ended), SyscallCancelled)
        with pytest.raises(SyscallCancelled):
            approvals.asked_again(ended, headers(), "tool.call", BODY)
        with pytest.raises(ResourceConflict):
            approvals.redeemed(ended, "h1", NOW)
        with pytest.raises(ResourceConflict):
            approved(ended)


def test_what_has_begun_or_ended_is_not_cancelled_here() -> None:
    released = approvals.redeemed(approved(call()), "h1", NOW)
    assert released is not None
    denied = approvals.decided(call(), "denied", tenant="acme", by="boss", reason=None, now_ms=NOW)
    for known in (released, denied, approvals.expired(call())):
        with pytest.raises(ResourceConflict):
            approvals.cancelled(known)


def test_one_that_may_be_in_the_queue_already_is_left_to_who_takes_it_out() -> None:
    queued = approved(call().model_copy(update={"durable": True}))
    assert approvals.is_being_queued(queued)
    with pytest.raises(ResourceConflict):
        approvals.cancelled(queued)


def test_who_attaches_is_answered_and_so_is_who_asked_before() -> None:
    first, second = "_INBOX.acme.alice.0", "_INBOX.acme.alice.1"
    known = approvals.attached(call(), second)
    assert known is not None
    assert (known.call_headers().reply, known.inboxes) == (second, (second, first))
    known = approvals.attached(approved(known), first)
    assert known is not None
    assert known.inboxes == (first, second)
    assert (known.state, known.call_body()) == ("approved", BODY)
    for number in range(100):
        known = approvals.attached(known, f"_INBOX.acme.alice.{number}")
        assert known is not None
    assert len(known.inboxes) < 20


def test_what_has_gone_on_or_ended_is_not_attached_to_here() -> None:
    released = approvals.redeemed(approved(call()), "h1", NOW)
    assert released is not None
    queued = approved(call().model_copy(update={"durable": True}))
    for known in (released, queued):
        assert approvals.attached(known, "_INBOX.acme.alice.1") is None
    for ended, error in ((approvals.expired(call()), ApprovalDenied), (approvals.cancelled(call()), SyscallCancelled)):
        with pytest.raises(error):
            approvals.attached(ended, "_INBOX.acme.alice.1")


def test_a_call_parked_before_there_were_listeners_can_be_read() -> None:
    kept = approvals.read(call().model_dump_json(exclude={"listeners"}).encode())
    assert kept == call()


def test_nobody_takes_the_answer_of_a_manager_that_answers_at_one_inbox_away_from_who_called() -> None:
    known = call().model_copy(update={"operation": "storage.delete"})
    for each in (known, approved(known)):
        with pytest.raises(InvalidRequest) as refused:
            approvals.attached(each, "_INBOX.acme.alice.1")
        assert refused.value.field == "id"


@pytest.mark.parametrize("wanted", ["volatile", "durable", None])
def test_a_parked_model_call_goes_on_as_a_durable_one(wanted: Durability | None) -> None:
    known = approvals.parked(
        replace(headers(), durability=wanted),
        "llm.chat",
        b"{}",
        why="ask",
        durable=True,
        keeps_deadline=False,
        now_ms=NOW,
        timeout_s=60,
    )
    sent = approvals.outgoing(approved(known), now_ms=NOW, default_deadline_ms=1000)
    assert sent.headers.durability == "durable"
