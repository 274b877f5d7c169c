"""What becomes of a call when its engine refuses, breaks, is full or away, and when its caller or its time ends it."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest
from support.running_service import InProcess
from support.scripted_scheduler import ScriptedScheduler
from support.tgi_stand_in import GenerateStream, Script, TgiStandIn

from aios_proto.kernel import CallEnded, CallReturned, WorkerHello

StartWorker = Callable[..., AbstractAsyncContextManager[InProcess]]


async def endless(stream: GenerateStream) -> None:
    """Tokens for ever, one a millisecond."""
    while True:
        await stream.token("x")
        await asyncio.sleep(0.001)


async def silent(stream: GenerateStream) -> None:
    await stream.forever()


def refusing(status: int, text: str, kind: str) -> Script:
    async def script(stream: GenerateStream) -> None:
        stream.refuse(status, text, kind)

    return script


def failing(text: str, kind: str) -> Script:
    async def script(stream: GenerateStream) -> None:
        await stream.token("Hel")
        await stream.error(text, kind)

    return script


async def breaking(stream: GenerateStream) -> None:
    await stream.token("Hel")
    stream.hang_up()


async def ending_early(stream: GenerateStream) -> None:
    await stream.token("Hel")


async def nonsense(stream: GenerateStream) -> None:
    await stream.raw(b"data:[1,2]\n\n")


async def not_json(stream: GenerateStream) -> None:
    await stream.raw(b"data:{oops\n\n")


async def without_fields(stream: GenerateStream) -> None:
    await stream.raw(b'data:{"token":{}}\n\n')


@pytest.mark.parametrize("script", [endless, silent])
async def test_cancelling_closes_the_engines_stream_and_tells_the_caller(
    scheduler: ScriptedScheduler, tgi: TgiStandIn, worker: InProcess, script: Script
) -> None:
    tgi.script = script
    call = await scheduler.run()
    stream = await tgi.stream()
    await scheduler.cancel(call)
    error = (await scheduler.frames(call))[-1]
    assert error["error"]["code"] == "syscall.cancelled"
    assert (await scheduler.heard(CallEnded)).outcome == "cancelled"
    await asyncio.wait_for(stream.closed.wait(), 5)


async def test_a_cancel_right_behind_the_run_is_not_lost(
    scheduler: ScriptedScheduler, tgi: TgiStandIn, worker: InProcess
) -> None:
    tgi.script = endless
    calls = [scheduler.headers() for _ in range(5)]
    for call in calls:
        await scheduler.run(headers=call)
        await scheduler.cancel(call)
    for call in calls:
        assert (await scheduler.frames(call))[-1]["error"]["code"] == "syscall.cancelled"
    since = len(scheduler.reports)
    await scheduler.heard(WorkerHello, lambda hello: hello.running == {}, since)


async def test_a_call_is_ended_once_however_often_it_is_cancelled(
    scheduler: ScriptedScheduler, tgi: TgiStandIn, worker: InProcess
) -> None:
    tgi.script = endless
    call = await scheduler.run()
    await tgi.stream()
    for _ in range(5):
        await scheduler.cancel(call)
    await scheduler.frames(call)
    last = await scheduler.run()
    await scheduler.cancel(last)
    await scheduler.frames(last)
    assert scheduler.inbox.waiting(call.reply) == 0


async def test_the_deadline_ends_a_stream_and_says_how_far_it_came(
    scheduler: ScriptedScheduler, tgi: TgiStandIn, worker: InProcess
) -> None:
    tgi.script = endless
    call = await scheduler.run(headers=scheduler.headers(deadline_s=2))
    *deltas, error = await scheduler.frames(call)
    assert error["error"]["code"] == "deadline.exceeded"
    assert error["usage"]["completion_tokens"] == sum(delta["tokens"] for delta in deltas) > 0
    assert (await scheduler.heard(CallEnded)).outcome == "deadline"
    await asyncio.wait_for((await tgi.stream()).closed.wait(), 5)


async def test_a_deadline_that_has_passed_never_reaches_the_engine(
    scheduler: ScriptedScheduler, tgi: TgiStandIn, worker: InProcess
) -> None:
    call = await scheduler.run(headers=scheduler.headers(deadline_s=-1))
    assert (await scheduler.frames(call))[-1]["error"]["code"] == "deadline.exceeded"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (refusing(429, "Model is overloaded", "overloaded"), "overloaded"),
        (refusing(503, "starting", "unhealthy"), "unavailable"),
        (refusing(500, "Incomplete generation", "incomplete_generation"), "failed"),
        (refusing(424, "Request failed during generation: CUDA", "generation"), "failed"),
        (failing("Model is overloaded", "overloaded"), "overloaded"),
        (failing("Request failed during generation: CUDA", "generation"), "failed"),
        (breaking, "failed"),
        (ending_early, "failed"),
        (nonsense, "failed"),
        (not_json, "failed"),
        (without_fields, "failed"),
    ],
)
async def test_an_engines_failure_goes_back_to_the_scheduler_and_not_to_the_caller(
    scheduler: ScriptedScheduler, tgi: TgiStandIn, worker: InProcess, script: Script, reason: str
) -> None:
    tgi.script = script
    call = await scheduler.run()
    returned = await scheduler.heard(CallReturned)
    assert (returned.key, returned.attempt, returned.reason) == (call.key, 1, reason)
    assert returned.message
    if reason == "overloaded":
        assert returned.retry_after_s > 0
    # The same call runs again when it is given again: nothing final was said.
    tgi.script = lambda stream: stream.answer("Hello", " world")
    again = scheduler.headers(call_id=call.id, attempt=2, reply=call.reply)
    await scheduler.heard(WorkerHello, lambda hello: hello.ready, len(scheduler.reports))
    await scheduler.run(headers=again)
    frames = await scheduler.frames(again)
    assert [frame["type"] for frame in frames if frame["type"] != "delta"] == ["done"]


@pytest.mark.parametrize(
    ("said", "body", "field"),
    [
        ("Input validation error: `inputs` must have less than 1000 tokens. Given: 2000", {"prompt": "x"}, "prompt"),
        (
            "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2000. "
            "Given: 7 `inputs` tokens and 1999 `max_new_tokens`",
            {"prompt": "x", "max_tokens": 1999},
            "max_tokens",
        ),
        (
            "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2000. "
            "Given: 2500 `inputs` tokens and 10 `max_new_tokens`",
            {"prompt": "x", "max_tokens": 10},
            "prompt",
        ),
        ("Input validation error: grammar is not valid: what", {"prompt": "x"}, "response_format"),
    ],
)
async def test_what_the_engine_finds_invalid_is_told_to_the_caller_by_the_name_of_his_field(
    scheduler: ScriptedScheduler, tgi: TgiStandIn, worker: InProcess, said: str, body: dict[str, object], field: str
) -> None:
    tgi.script = refusing(422, said, "validation")
    call = await scheduler.run(body)
    (error,) = await scheduler.frames(call)
    assert error["error"]["code"] == "engine.refused"
    assert error["error"]["field"] == field
    assert error["error"]["retryable"] is False
    assert (await scheduler.heard(CallEnded)).code == "engine.refused"


async def test_an_input_too_long_in_a_chat_names_the_messages(
    scheduler: ScriptedScheduler, tgi: TgiStandIn, worker: InProcess
) -> None:
    tgi.script = refusing(422, "Input validation error: `inputs` is too long", "validation")
    body = {"messages": [{"role": "user", "content": "x"}]}
    call = await scheduler.run(body, scheduler.headers("chat"))
    assert (await scheduler.frames(call))[-1]["error"]["field"] == "messages"


async def test_an_engine_that_does_not_hold_answers_to_the_tools_schema_has_failed(
    scheduler: ScriptedScheduler, worker: InProcess
) -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    body = {"messages": [{"role": "user", "content": "x"}], "tools": [tool]}
    await scheduler.run(body, scheduler.headers("chat"))
    returned = await scheduler.heard(CallReturned)
    assert returned.reason == "failed"
    assert "schema" in (returned.message or "")


async def test_an_engine_that_falls_silent_is_given_up(
    scheduler: ScriptedScheduler, tgi: TgiStandIn, start_worker: StartWorker
) -> None:
    tgi.script = silent
    async with start_worker(llm_silence_s=0.3):
        await scheduler.run()
        assert (await scheduler.heard(CallReturned)).reason == "failed"


async def test_commands_that_make_no_sense_do_not_hurt_the_worker(
    scheduler: ScriptedScheduler, worker: InProcess
) -> None:
    for command in ("run", "cancel", "attach", "preempt", "dance"):
        await scheduler.nc.publish(f"aios.k.llm.default.w1.{command}", b"{nonsense")
    call = await scheduler.run({"prompt": 7})
    assert (await scheduler.frames(call))[-1]["error"]["field"] == "prompt"
    assert (await scheduler.frames(await scheduler.run()))[-1]["type"] == "done"
