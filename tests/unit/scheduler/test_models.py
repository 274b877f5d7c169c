"""Which calls a worker may be given, by the model they name."""

from support.scheduler_core import CoreBench

from aios_scheduler.core.call import CallState
from aios_scheduler.core.commands import Dispatch, Refuse
from aios_scheduler.core.workers import MODEL_MEMORY_S


def test_a_call_goes_to_a_worker_with_its_model_and_does_not_hold_up_others() -> None:
    bench = CoreBench()
    bench.worker("llama", model="llama")
    bench.worker("qwen", model="qwen", ready=False)
    bench.call("for qwen", model="qwen", priority=9)
    bench.call("for any")
    assert [(c.call.id, c.worker[1]) for c in bench.take(Dispatch)] == [("for any", "llama")]
    bench.hello("qwen", ready=True)
    assert [(c.call.id, c.worker[1]) for c in bench.take(Dispatch)] == [("for qwen", "qwen")]


def test_priority_holds_between_calls_that_name_the_model_and_calls_that_name_none() -> None:
    bench = CoreBench()
    bench.worker()
    first = bench.call("running")
    bench.call("any, low", priority=2)
    bench.call("named, high", model="llama", priority=8)
    bench.call("any, highest", priority=9)
    bench.ended(first)
    assert bench.names(Dispatch)[-1] == "any, highest"


def test_a_model_nobody_serves_is_refused_at_once_naming_the_field() -> None:
    bench = CoreBench()
    bench.worker()
    bench.call("typo", model="lama")
    (command,) = bench.take(Refuse)
    assert (command.error.code, command.error.field) == ("engine.model_unknown", "model")
    assert not command.error.retryable
    assert "lama" in command.error.message


def test_while_no_worker_lives_nobody_knows_which_models_there_are_so_calls_wait() -> None:
    bench = CoreBench()
    call = bench.call("early", model="qwen")
    assert bench.state(call) is CallState.QUEUED
    bench.worker(model="qwen")
    assert bench.names(Dispatch) == ["early"]


def test_a_scheduler_that_has_just_started_does_not_judge_before_it_has_listened() -> None:
    bench = CoreBench()
    bench.core.hold_until(bench.now + 1)
    bench.worker("first", model="llama")
    call = bench.call("early", model="qwen")
    assert bench.state(call) is CallState.QUEUED
    bench.worker("second", model="qwen")
    bench.pass_time(1.1, beating=("first", "second"))
    assert bench.names(Dispatch) == ["early"]


def test_a_model_whose_worker_restarts_is_not_forgotten() -> None:
    bench = CoreBench()
    bench.worker("stays", model="llama")
    bench.worker("restarts", model="qwen")
    bench.goodbye("restarts")
    call = bench.call("waits", model="qwen")
    assert bench.state(call) is CallState.QUEUED
    bench.worker("restarts", model="qwen", incarnation="second")
    assert bench.names(Dispatch) == ["waits"]


def test_a_model_that_has_been_gone_for_long_is_unknown() -> None:
    bench = CoreBench()
    bench.worker("stays", model="llama")
    bench.worker("leaves", model="qwen")
    bench.goodbye("leaves")
    bench.pass_time(MODEL_MEMORY_S + 1, beating=("stays",))
    bench.call("late", model="qwen")
    assert bench.refusals() == {"late": "engine.model_unknown"}


def test_an_accepted_call_for_a_model_that_went_away_waits_for_its_deadline() -> None:
    bench = CoreBench()
    bench.worker("stays", model="llama")
    call = bench.call("recovered", model="qwen", recovered=True, deadline_s=20)
    bench.pass_time(19, beating=("stays",))
    assert bench.state(call) is CallState.QUEUED
    bench.pass_time(1, beating=("stays",))
    assert bench.refusals() == {"recovered": "deadline.exceeded"}
